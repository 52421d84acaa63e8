"""Conditions of a sweep: a swept key that counts only where others have certain values, `peft.r if peft=lora,dora`."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tunelab.errors import ConfigError

EXAMPLE = "sweep.only=['peft.r if peft=lora,dora']"
_KEY = r"[\w./@-]+"


@dataclass(frozen=True, slots=True)
class Condition:
    """`key` is set only where every key of `wanted` has one of its values; `text` is what was typed."""

    key: str
    wanted: Mapping[str, tuple[str, ...]]
    text: str

    def holds(self, values: Mapping[str, str]) -> bool:
        """Whether `values`, swept key → value as typed, fulfil it; a key that is not among them does not."""
        return all(key in values and plain(values[key]) in wanted for key, wanted in self.wanted.items())


def parse_conditions(lines: Sequence[str]) -> list[Condition]:
    """Read `<key> if <key>=<value>,<value> and <key>=<value>`, one line for each key.

    Raises:
        ConfigError: a line has another form, a key has two lines, or keys wait for each other.
    """
    conditions = [_parse(line) for line in lines]
    keys = [condition.key for condition in conditions]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        raise ConfigError(
            f"sweep.only: expected one condition for {twice}, found {keys.count(twice)}; join them with ' and '."
        )
    _refuse_circle(conditions)
    return conditions


def plain(value: str) -> str:
    """A value as it is compared: without quotes around it, 1e-3 as 0.001 and True as true, as Hydra may write them."""
    value = value.strip()
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        return value[1:-1]
    if value.lower() in ("true", "false", "null"):
        return value.lower()
    try:
        return repr(float(value))
    except ValueError:
        return value


def _refuse_circle(conditions: Sequence[Condition]) -> None:
    waiting = {condition.key: set(condition.wanted) for condition in conditions}
    while free := [key for key, wanted in waiting.items() if not wanted & waiting.keys()]:
        waiting = {key: wanted for key, wanted in waiting.items() if key not in free}
    if not waiting:
        return
    path = [next(iter(waiting))]  # each waits for another of them: the way through them comes back
    while (following := next(key for key in waiting if key in waiting[path[-1]])) not in path:
        path.append(following)
    circle = " waits for ".join([*path[path.index(following) :], following])
    raise ConfigError(f"sweep.only: expected conditions without a circle, found one: {circle}; remove a condition.")


def _parse(line: str) -> Condition:
    found = re.fullmatch(rf"\s*({_KEY})\s+if\s+(.+)", line)
    if found is None:
        raise _malformed(line)
    wanted: dict[str, tuple[str, ...]] = {}
    for part in re.split(r"\s+and\s+", found[2].strip()):
        pair = re.fullmatch(rf"({_KEY})\s*=\s*(.+)", part)
        values = tuple(map(plain, _split(pair[2]))) if pair else ()
        if pair is None or not all(values) or pair[1] in wanted or pair[1] == found[1]:
            raise _malformed(line)
        wanted[pair[1]] = values
    return Condition(found[1], wanted, line.strip())


def _malformed(line: str) -> ConfigError:
    return ConfigError(
        f"sweep.only: expected '<key> if <other key>=<value>,<value>', several joined with ' and ', found {line!r}; "
        f"set {EXAMPLE}."
    )


def _split(values: str) -> list[str]:
    """At commas that are in no list and in no quotes."""
    return re.findall(r"((?:\[[^\]]*\]|\{[^}]*\}|'[^']*'|\"[^\"]*\"|[^,])*),", f"{values},")
