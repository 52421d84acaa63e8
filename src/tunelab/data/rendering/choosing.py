"""Examples become text in segments, supervised or not: which template is used, and what is stated about it."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, cast

from transformers import PreTrainedTokenizerBase

from tunelab.data.records import Conversation, Message, Passage, RenderedExample, Role
from tunelab.data.rendering.chat import ChatRenderer
from tunelab.data.rendering.plain import PLAIN_TEMPLATES, PlainRenderer, chatml_text
from tunelab.data.rendering.policy import chat_policy, token_policy
from tunelab.data.rendering.segments import Stretch, assemble
from tunelab.data.upstream import (
    adds_bos,
    describe,
    eos_token,
    has_chat_template,
    require_eos_token,
    set_chat_template,
    special_tokens,
)
from tunelab.errors import DataError, first_line
from tunelab.suggesting import did_you_mean

_NAMES = ("auto", "chat", "chatml", *PLAIN_TEMPLATES)
_SUFFIXES = (".jinja", ".jinja2", ".j2")
_CHATML_END = "<|im_end|>"


@dataclass(frozen=True, slots=True)
class ChosenTemplate:
    """The template that was decided on.

    `text` changes whenever what it writes changes: a chat template's own text, or the id of a plain template's
    definition. `policy` says in sentences what was decided where the tokenizer leaves something open. `writes_bos`: a
    chat template, which writes the beginning-of-sequence token itself where its model wants one.
    """

    name: str
    text: str
    policy: tuple[str, ...]
    writes_bos: bool


class Renderer(Protocol):
    """Turns an example into text. `end_of_turn` is the special token that ends a trained response."""

    @property
    def end_of_turn(self) -> str: ...

    def render(self, example: Conversation | Passage) -> list[RenderedExample]: ...


class _Conversations(Protocol):
    @property
    def end_of_turn(self) -> str: ...

    def render(self, example: Conversation) -> list[RenderedExample]: ...


def decide_template(template: str, tokenizer: PreTrainedTokenizerBase) -> ChosenTemplate:
    """Return the template that `data.template` names.

    `auto` is the tokenizer's chat template where it has one, else `alpaca`. `chatml` and a template file become the
    chat template of `tokenizer`, so that what is saved with the adapter renders as training did.

    Raises DataError for a name that nobody knows, a file that holds no chat template, and `chat` where there is none.
    """
    sentences: list[str] = []
    name, had_template = template, has_chat_template(tokenizer)
    if name == "auto":
        name = "chat" if had_template else "alpaca"
        if not had_template:
            sentences.append(f"The tokenizer {describe(tokenizer)} has no chat template: the template is alpaca.")
    if name in PLAIN_TEMPLATES:
        policy = (*sentences, *token_policy(tokenizer))
        return ChosenTemplate(name, PLAIN_TEMPLATES[name].definition, policy, writes_bos=False)
    if name == "chatml":
        sentences.append(_install_chatml(tokenizer))
    elif name != "chat":
        set_chat_template(tokenizer, _read(name))
        replaced = "; it replaces the tokenizer's own" if had_template else ""
        sentences.append(f"The chat template is {name}{replaced}, and it is saved with the adapter.")
        name = Path(name).name
    elif not had_template:
        raise DataError(
            "data.template: expected a tokenizer with a chat template for 'chat', found none in "
            f"{describe(tokenizer)}; set data.template=alpaca, data.template=chatml or data.template=<file>.jinja."
        )
    policy = (*sentences, *chat_policy(tokenizer), *token_policy(tokenizer))
    return ChosenTemplate(name, _key(tokenizer), policy, writes_bos=True)


def make_renderer(chosen: ChosenTemplate, tokenizer: PreTrainedTokenizerBase) -> Renderer:
    """Return the renderer of a decided template.

    Raises DataError for a tokenizer without an end token, unless the chat template ends turns with one of its own, and
    for a chat template that refuses a question and an answer.
    """
    if chosen.writes_bos:
        return ExampleRenderer(ChatRenderer(tokenizer), tokenizer, spell_bos=adds_bos(tokenizer))
    plain = PlainRenderer(PLAIN_TEMPLATES[chosen.name], require_eos_token(tokenizer))
    return ExampleRenderer(plain, tokenizer, spell_bos=False)


@dataclass(frozen=True, slots=True)
class ExampleRenderer:
    """Renders conversations with a template and passages without one.

    `spell_bos`: documents begin with the beginning-of-sequence token as text, because nobody puts its id there.
    """

    conversations: _Conversations
    tokenizer: PreTrainedTokenizerBase
    spell_bos: bool

    @property
    def end_of_turn(self) -> str:
        """The special token that ends a trained response."""
        return self.conversations.end_of_turn

    def render(self, example: Conversation | Passage) -> list[RenderedExample]:
        """See ChatRenderer and PlainRenderer; a passage's segments stay as they are, and a document gets its end."""
        if isinstance(example, Conversation):
            return self.conversations.render(example)
        stretches = [Stretch(s.text, s.text.strip() if s.supervised else None) for s in example.segments]
        if example.windowed:
            start = special_tokens(self.tokenizer).get("bos_token", "") if self.spell_bos else ""
            stretches = [Stretch(start), *_ended(stretches, require_eos_token(self.tokenizer))]
        response = next((s.text for s in reversed(example.segments) if s.supervised), "")
        return [replace(assemble(stretches, response, example.origin, None), windowed=example.windowed)]


def _ended(stretches: list[Stretch], end: str) -> list[Stretch]:
    """The same stretches with a supervised end token behind them."""
    if stretches and stretches[-1].trained is not None:
        last = stretches[-1]
        return [*stretches[:-1], Stretch(last.text + end, last.trained)]
    return [*stretches, Stretch(end, "")]


def rejected_of(example: Conversation) -> Conversation:
    """Return the prompt of a preference example with its rejected answer, which is trained so that it can be seen."""
    trained = [i for i, message in enumerate(example.messages) if message.trained]
    num_shared = min(trained, default=len(example.messages) - 1)  # a prompt is never trained
    prompt = example.messages[:num_shared]
    rejected: tuple[Message, ...] = tuple(
        replace(message, trained=message.role is Role.ASSISTANT) for message in example.rejected
    )
    return replace(example, messages=(*prompt, *rejected), rejected=())


def _install_chatml(tokenizer: PreTrainedTokenizerBase) -> str:
    known = {token.content for token in tokenizer.added_tokens_decoder.values()}
    end = _CHATML_END if _CHATML_END in known else None
    if end is None:
        require_eos_token(tokenizer)
    set_chat_template(tokenizer, chatml_text(end, bos=adds_bos(tokenizer)))
    if end:
        return "The chat template is chatml, and it is saved with the adapter."
    return (
        f"The chat template is chatml, and it is saved with the adapter; the tokenizer has no token {_CHATML_END}: "
        f"its end-of-sequence token {eos_token(tokenizer)} ends each turn instead."
    )


def _read(name: str) -> str:
    """The text of a template file."""
    path = Path(name).expanduser()
    if path.suffix not in _SUFFIXES:
        raise DataError(
            f"data.template: expected {', '.join(_NAMES)} or a {_SUFFIXES[0]} file, found {name!r}"
            f"{did_you_mean(name, _NAMES)}; set data.template=<one of these>."
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else first_line(error)
        raise DataError(
            f"data.template: expected a readable UTF-8 file at {name!r}, found an error ({reason}); "
            "set data.template=<file>.jinja."
        ) from error
    if not text.strip():
        raise DataError(f"data.template: expected a chat template in {name!r}, found an empty file; write one there.")
    return text


def _key(tokenizer: PreTrainedTokenizerBase) -> str:
    """All texts of the tokenizer's chat template."""
    template = cast(Any, tokenizer).chat_template
    return template if isinstance(template, str) else json.dumps(template, sort_keys=True)
