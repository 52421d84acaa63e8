"""Says in one sentence of ours what Hydra and OmegaConf say of a command line in several of theirs."""

import re
from collections.abc import Callable, Iterable, Sequence

from tunelab.errors import ConfigError
from tunelab.suggesting import did_you_mean

# Flags of Hydra that take the next word.
TAKE_A_WORD = (
    *("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd"),
    *("--info", "-i", "--experimental-rerun", "--shell-completion", "-sc"),
)
OWN_FILES = {"model": "model.path={0} for a folder or a name on the hub", "data": "data=file data.path={0} for a file"}
KINDS = {"Float": "a number", "Integer": "a whole number", "Boolean": "true or false"}


def explained(key: str, sentence: str) -> str:
    """What Hydra or OmegaConf says (`sentence`, in one line) of `key` (empty: it names none)."""
    for pattern, say in _KNOWN:
        found = re.search(pattern, sentence)
        if found and (said := say(key, found)) is not None:
            return said
    return f"{key}: {sentence}" if key and key not in sentence else sentence


def refuse_lone_word(words: Sequence[str], place: int) -> None:
    """Refuse the word at `place`, that is no `key=value`: what a shell makes of a glob, or of spaces without quotes.

    Raises:
        ConfigError: it names the key that was meant.
    """
    before = next((index for index in range(place, -1, -1) if words[index].startswith("-") or "=" in words[index]), -1)
    key, equals, first = words[before].partition("=") if before >= 0 else ("", "", "")
    if not equals or key.startswith("-"):
        raise ConfigError(f"{words[place]}: expected key=value, found a word alone; set <key>={words[place]}.")
    values = [first, *words[before + 1 : place + 1]]
    for word in words[place + 1 :]:
        if word.startswith(("-", "~")) or "=" in word:
            break
        values.append(word)
    raise ConfigError(
        f"{key}: expected one value, found {len(values)} words ({_shortened(values, ' ')}); set "
        f"'{key}=[{_shortened(values, ',')}]' for a list, or quote what has spaces: '{key}=\"…\"'."
    )


def _shortened(values: Sequence[str], between: str) -> str:
    return between.join(values if len(values) <= 4 else [*values[:2], "…"])


def _letters(_: str, found: re.Match[str]) -> str:
    name, value = found.groups()
    return f"{name}: expected plain letters, found {name}={value}; quote the value: '{name}=\"{value}\"'."


def _several(_: str, found: re.Match[str]) -> str:
    key, value = found[1].lstrip("+"), found[2]
    return (
        f"{key}: expected one value, found several ({value}); set '{key}=[{value}]' for a list, or add -m to run one "
        "after the other."
    )


def _choice(_: str, found: re.Match[str]) -> str:
    """A choice of a group of `conf/` that there is none of."""
    group, name, options = found[1], found[2], found[3].split()
    own = OWN_FILES.get(group)
    if own and re.search(r"[./\\~:]", name):
        return f"{group}: expected a choice ({', '.join(options)}), found {name!r}; set {own.format(name)}."
    hint = did_you_mean(name, options) or f"; set {group}=<choice>."
    return f"{group}: expected one of {', '.join(options)}, found {name!r}{hint}"


def _set(key: str, _: re.Match[str]) -> str:
    return f"evaluation.sets: there is no set {key!r}; name it: evaluation.sets=[{key}.jsonl]."


def _nothing(key: str, _: re.Match[str]) -> str:
    return f"{key}: expected a value, found null; set {key}=<value>."


def _kind(key: str, found: re.Match[str]) -> str:
    return f"{key}: expected {KINDS[found[2]]}, found {found[1]}; set {key}=<value>."


def _no_list(key: str, found: re.Match[str]) -> str | None:
    return f"{key}: expected a list, found a single value ({found[1]}); set '{key}=[<value>]'." if key else None


def _no_values(_: str, found: re.Match[str]) -> str:
    """Of a function of the command line: choice, range, interval, …"""
    key, value, reason = found[1].lstrip("+"), found[2], found[3]
    return (
        f"{key}: expected values, as in {key}=a,b or {key}=range(1,9,2), found {value} ({reason}); set {key}=<value>."
    )


def of_another_version(key: str, known: Iterable[str] = ()) -> str:
    """What to say of a key that a saved configuration has and this version does not; it has those `known`."""
    hint = did_you_mean(key, known)
    return (
        f"{key}: there is no such key{f'{hint} If not,' if hint else ';'} take it out of the file, or, where another "
        "version of tunelab has saved it, go back to that code (its commit is in provenance.json)."
    )


def _group(key: str, _: re.Match[str]) -> str | None:
    said = f"{key}: expected settings, found a choice: a saved configuration has no groups; set {key}.<setting>=<value>"
    return f"{said}, or leave --config-path out." if key and "." not in key else None


def _no_configuration(_: str, found: re.Match[str]) -> str:
    return (
        f"--config-name: expected a configuration that is there, found no {found[1]!r}; that of a run is typed "
        "--config-path <run folder> --config-name config."
    )


def _no_folder(_: str, found: re.Match[str]) -> str:
    return f"--config-path: expected a folder, found no {found[1]!r}; set --config-path <run folder>."


_KNOWN: tuple[tuple[str, Callable[[str, re.Match[str]], str | None]], ...] = (
    (r"^LexerNoViableAlt\w*: (.*?)=(.*?) *\^", _letters),
    (r"^Error parsing override '(.*?)=.*' \w+ while evaluating '(.*?)': (.*?)(?: See https:.*)?$", _no_values),
    (r"^Ambiguous value for argument '(.*?)=(.*?)' 1\. To use it as a list", _several),
    (r"Could not find '/?([\w/]+?)/(.+?)' Available options in '.*?': (.*)$", _choice),
    (r"^Invalid type assigned: .* EvaluationSetConfig", _set),
    (r"field '.*' is not Optional", _nothing),
    (r"^Value (.*) of type '\w+' could not be converted to (Float|Integer|Boolean)", _kind),
    (r"^Invalid value assigned: (\w+) is not a ListConfig", _no_list),
    (r"^Cannot assign str to Dict", _group),
    (r"^Cannot find primary config '(.*?)'", _no_configuration),
    (r"^Primary config directory not found\. Check that the config directory '(.*?)'", _no_folder),
)
