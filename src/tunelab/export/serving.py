"""What other programs need to serve an export: an Ollama Modelfile, and the commands for vLLM, llama.cpp and Ollama."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from tunelab.data.rendering import ChosenTemplate
from tunelab.data.rendering.jinja import ChatTemplate, Turn, load_chat_template
from tunelab.data.rendering.plain import ALPACA_PREAMBLE, PLAIN_TEMPLATES
from tunelab.data.upstream import chat_template_text, special_tokens
from tunelab.errors import DataError
from tunelab.model.locating import is_hub_name

VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # the values that --max-lora-rank takes
_ORIGIN = "the Modelfile"
_MARKS = ("\ue000s\ue001", "\ue000u\ue001", "\ue000a\ue001", "\ue000v\ue001")
_SYSTEM, _USER, _ANSWER, _NEXT = _MARKS


@dataclass(frozen=True, slots=True)
class Served:
    """An export as the other programs see it. `rank`: of a plain LoRA adapter; None for other adapters."""

    folder: Path
    base: str  # a folder or a hub name
    is_adapter: bool
    rank: int | None
    has_chat_template: bool
    revision: str | None = None  # of a base from the hub

    @property
    def at(self) -> str:
        """What names the revision on the command lines of vLLM and hf."""
        return f" --revision {shlex.quote(self.revision)}" if self.revision else ""


@dataclass(frozen=True, slots=True)
class _Pieces:
    """What a prompt template writes around each message; `opening` where there is no system message."""

    opening: str
    before_system: str | None
    after_system: str
    before_user: str
    after_user: str
    after_answer: str

    def render(self, system: str | None, contents: Sequence[str]) -> str:
        """The prompt of user and assistant in turn, the user's message last."""
        start = self.opening if system is None else f"{self.before_system}{system}{self.after_system}"
        turns = [
            content + self.after_answer if index % 2 else self.before_user + content + self.after_user
            for index, content in enumerate(contents)
        ]
        return start + "".join(turns)


def modelfile(served: Served, template: ChosenTemplate, tokenizer: PreTrainedTokenizerBase, ends: Sequence[str]) -> str:
    """The text of an Ollama Modelfile; it lies in the export's folder, and its paths are relative to that.

    The template is translated where it writes every message alike wherever it stands; where it does not, a comment
    says so and Ollama goes by its own detection. The beginning-of-sequence token is left to Ollama, which adds it.
    """
    lines = [f"# ollama create {_name(served.folder)} -f {shlex.quote(str(served.folder / 'Modelfile'))}"]
    if served.is_adapter and is_hub_name(served.base):
        lines += [
            f"# hf download {served.base}{served.at} --local-dir {shlex.quote(str(served.folder / 'base'))}",
            "FROM ./base",
        ]
    elif served.is_adapter:
        lines.append(f"FROM {Path(served.base).expanduser().resolve()}")
    lines += ["ADAPTER ."] if served.is_adapter else ["FROM ."]
    text = ollama_template(template, tokenizer)
    if text is None:
        lines.append("# The chat template cannot be said in Ollama's language: check what Ollama takes in its place.")
    else:
        lines.append(f'TEMPLATE """{text}"""')
    lines += [f"PARAMETER stop {_quoted(end)}" for end in ends]
    return "\n".join(lines) + "\n"


def ollama_template(template: ChosenTemplate, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The prompt template in Ollama's language (Go's text/template); None where it cannot be said in it."""
    pieces = _plain_pieces(template, tokenizer) if template.name in PLAIN_TEMPLATES else _chat_pieces(tokenizer)
    if pieces is None or any("{{" in text or '"""' in text for text in _texts(pieces)):
        return None
    asked = f"{pieces.before_user}{{{{ .Content }}}}{pieces.after_user}"
    answered = f"{{{{ .Content }}}}{pieces.after_answer}"
    turns = (
        f'{{{{ range .Messages }}}}{{{{ if eq .Role "user" }}}}{asked}'
        f'{{{{ else if eq .Role "assistant" }}}}{answered}{{{{ end }}}}{{{{ end }}}}'
    )
    if pieces.before_system is None:
        return pieces.opening + turns
    otherwise = f"{{{{ else }}}}{pieces.opening}" if pieces.opening else ""
    system = f"{pieces.before_system}{{{{ .System }}}}{pieces.after_system}"
    return f"{{{{ if .System }}}}{system}{otherwise}{{{{ end }}}}{turns}"


def serving_commands(served: Served) -> str:
    """What to type in vLLM, llama.cpp and Ollama, a line each."""
    folder = shlex.quote(str(served.folder))
    if not served.is_adapter:
        return "\n".join(_served_whole(folder, _name(served.folder)))
    if served.rank is None or served.rank > VLLM_RANKS[-1]:
        return "serve        vLLM, llama.cpp and Ollama take plain LoRA adapters only: export with kind=merged for them"
    return "\n".join(_served_adapter(served, folder, served.rank))


def _served_whole(folder: str, name: str) -> list[str]:
    return [
        f"vLLM         vllm serve {folder}",
        f"llama.cpp    python convert_hf_to_gguf.py {folder} --outfile {name}.gguf --outtype auto",
        f"             llama-server -m {name}.gguf",
        f"Ollama       ollama create {name} -f {folder}/Modelfile && ollama run {name}",
    ]


def _served_adapter(served: Served, folder: str, rank: int) -> list[str]:
    name, on_hub = _name(served.folder), is_hub_name(served.base)
    base = shlex.quote(served.base if on_hub else str(Path(served.base).expanduser().resolve()))
    most = next(each for each in VLLM_RANKS if each >= rank)
    template = f" --chat-template {folder}/chat_template.jinja" if served.has_chat_template else ""
    local = f"{folder}/base" if on_hub else base
    download = [f"hf download {base}{served.at} --local-dir {local}"] if on_hub else []
    return [
        f"vLLM         vllm serve {base}{served.at} --enable-lora --max-lora-rank {most} "
        f"--lora-modules {name}={folder} --generation-config {folder}{template}",
        *(f"base         {line}" for line in download),
        f"llama.cpp    python convert_hf_to_gguf.py {local} --outfile base.gguf --outtype auto",
        f"             python convert_lora_to_gguf.py {folder} --base {local} --outfile {name}.gguf",
        f"             llama-server -m base.gguf --lora {name}.gguf",
        f"Ollama       ollama create {name} -f {folder}/Modelfile && ollama run {name}",
    ]


def _chat_pieces(tokenizer: PreTrainedTokenizerBase) -> _Pieces | None:
    """Read the pieces off renderings of marks, and compare longer conversations put together from them."""
    try:
        template = load_chat_template(chat_template_text(tokenizer), tokenizer)
        pieces = _learned(template, special_tokens(tokenizer).get("bos_token", ""))
        holds = pieces is not None and all(
            _prompt(template, system, contents).removeprefix(special_tokens(tokenizer).get("bos_token", ""))
            == pieces.render(system, contents)
            for system in ((None,) if pieces.before_system is None else (None, "be brief"))
            for contents in (["one"], ["one", "two", "three"], ["one", "two", "three", "four", "five"])
        )
    except DataError:
        return None
    return pieces if holds else None


def _learned(template: ChatTemplate, bos: str) -> _Pieces | None:
    asked = _prompt(template, None, [_USER]).removeprefix(bos)
    answered = template.render(_turns(None, [_USER, _ANSWER]), None, _ORIGIN).removeprefix(bos)
    again = _prompt(template, None, [_USER, _ANSWER, _NEXT])
    start, _, after_user = asked.partition(_USER)
    after_answer = answered.partition(_ANSWER)[2]
    between = again.partition(_ANSWER)[2].partition(_NEXT)[0]
    if not between.startswith(after_answer) or not start.endswith(between.removeprefix(after_answer)):
        return None
    before_user = between.removeprefix(after_answer)
    try:
        told = _prompt(template, _SYSTEM, [_USER]).removeprefix(bos)
    except DataError:
        told = ""
    before_system, found, rest = told.partition(_SYSTEM)
    after_system = rest.partition(_USER)[0].removesuffix(before_user)
    return _Pieces(
        opening=start.removesuffix(before_user),
        before_system=before_system if found else None,
        after_system=after_system,
        before_user=before_user,
        after_user=after_user,
        after_answer=after_answer,
    )


def _plain_pieces(template: ChosenTemplate, tokenizer: PreTrainedTokenizerBase) -> _Pieces:
    """The pieces of alpaca and plain (data/rendering/plain.py)."""
    end = special_tokens(tokenizer).get("eos_token", "")
    if template.name == "alpaca":
        question, response = "\n\n### Instruction:\n", "\n\n### Response:\n"
        return _Pieces(ALPACA_PREAMBLE, "", "", question, response, end)
    return _Pieces("", "", "\n", "", "\n", f"{end}\n")


def _prompt(template: ChatTemplate, system: str | None, contents: Sequence[str]) -> str:
    return template.render(_turns(system, contents), None, _ORIGIN, generation_prompt=True)


def _turns(system: str | None, contents: Sequence[str]) -> list[Turn]:
    roles = ("user", "assistant")
    told: list[Turn] = [] if system is None else [{"role": "system", "content": system}]
    return [*told, *({"role": roles[index % 2], "content": content} for index, content in enumerate(contents))]


def _texts(pieces: _Pieces) -> list[str]:
    return [text for name in _Pieces.__slots__ if (text := getattr(pieces, name)) is not None]


def _quoted(token: str) -> str:
    escaped = token.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _name(folder: Path) -> str:
    """A name of plain letters for the served model."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "-" for c in folder.name.lower())
    return plain.strip("-.") or "tuned"
