"""Shows examples as the model sees them: every token, and whether it is trained or masked."""

import codecs
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, takewhile
from typing import Any, cast

from rich.console import Group, RenderableType
from rich.text import Text
from transformers import PreTrainedTokenizerBase

from tunelab.data.records import TokenizedExample
from tunelab.data.upstream import decode, token_bytes
from tunelab.escaping import printable, shorten

MAX_TOKEN_CHARACTERS = 200
_OPEN, _CLOSE = "⟦", "⟧"  # told apart without colour too (NO_COLOR, a log file, a colour-blind reader)
_TRAINED, _MASKED, _NOTE, _ID = "bold green", "dim", "cyan", "cyan"
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_MAX_TOKENS = 2000  # of one example; shared by its stretches
_MAX_GLIMPSE_TOKENS = 300  # of one example at the start of a run
_MIN_STRETCH_TOKENS = 16


@dataclass(frozen=True, slots=True)
class InspectedToken:
    """A token as it is shown. `text` is what it adds to the text before it.

    A token that ends within a character has no text but its `raw` bytes; where a later token completes the character
    (`completed`), that one has the whole of it. `num_hidden` counts the tokens left out before this one, all of them
    trained or masked as it is.
    """

    text: str
    id: int
    trained: bool
    raw: bytes = b""
    completed: bool = False
    num_hidden: int = 0

    @property
    def shown(self) -> str:
        """The text for people, without what acts on a terminal or a page: `⟨E2 82⟩` for bytes."""
        if self.raw:
            return f"⟨{self.raw.hex(' ').upper()}⟩"
        return printable(shorten(self.text, MAX_TOKEN_CHARACTERS), keep="\n\t")


@dataclass(frozen=True, slots=True)
class InspectedExample:
    """An example's tokens with their texts. `rejected` holds all tokens of a preference pair's other side."""

    tokens: tuple[InspectedToken, ...]
    origin: str
    num_tokens: int
    num_supervised_tokens: int
    rejected: tuple[InspectedToken, ...] = ()

    @property
    def num_shared(self) -> int:
        """Of a preference pair: how many tokens both sides begin with, before the answers."""
        pairs = zip(self.tokens, self.rejected, strict=False)
        num_equal = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        while num_equal and self.tokens[num_equal - 1].trained:
            num_equal -= 1
        return num_equal


def inspect_example(
    example: TokenizedExample,
    tokenizer: PreTrainedTokenizerBase,
    rejected: TokenizedExample | None = None,
    max_tokens: int = _MAX_TOKENS,
) -> InspectedExample:
    """Find the text of each token. The middle of long stretches is left out, so that about `max_tokens` are shown."""
    return InspectedExample(
        tokens=tuple(_tokens(example, tokenizer, max_tokens)),
        origin=example.origin,
        num_tokens=example.num_tokens,
        num_supervised_tokens=example.num_supervised_tokens,
        rejected=tuple(_tokens(rejected, tokenizer, max_tokens)) if rejected else (),
    )


def _tokens(example: TokenizedExample, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> Iterator[InspectedToken]:
    ids: list[int] = cast(Any, example.input_ids).tolist()
    mask: list[bool] = cast(Any, example.loss_mask).tolist()
    end = 0
    for start, stop in _shown_spans(mask, max_tokens):
        hidden, end = start - end, stop
        for index, (text, raw, completed) in enumerate(_texts(ids, start, stop, tokenizer), start):
            yield InspectedToken(text, ids[index], mask[index], raw, completed, hidden if index == start else 0)


def _shown_spans(mask: Sequence[bool], max_tokens: int) -> list[tuple[int, int]]:
    """What is shown, as (start, stop): all but the middle of runs of equally masked tokens that are long."""
    lengths = [len(list(run)) for _, run in groupby(mask)]
    half = max(max_tokens // max(len(lengths), 1), _MIN_STRETCH_TOKENS) // 2
    spans: list[tuple[int, int]] = []
    start = begin = 0
    for length in lengths:
        if length > 2 * half:
            spans.append((start, begin + half))
            start = begin + length - half
        begin += length
    return [*spans, (start, begin)]


def _texts(
    ids: list[int], start: int, stop: int, tokenizer: PreTrainedTokenizerBase
) -> Iterator[tuple[str, bytes, bool]]:
    """Text, raw bytes and whether they are part of a whole character, for each token from `start` to `stop`.

    Each token is decoded after the one before it, because some tokenizers drop the first space of what they decode.
    """
    context, pending = ids[max(start - 1, 0) : start], list[int]()
    for token in ids[start:stop]:
        pending.append(token)
        added = _added(tokenizer, context, pending)
        raw = [token_bytes(tokenizer, each) for each in pending] if len(pending) > 1 or _REPLACEMENT in added else [b""]
        damaged = _REPLACEMENT in added and not _is_text(b"".join(raw))
        if damaged and (num_unfinished := _num_unfinished_bytes(b"".join(raw))):
            while sum(map(len, raw[1:])) >= num_unfinished:
                context = [pending.pop(0)]
                yield "", raw.pop(0), False
            continue
        yield from (("", each, not damaged) for each in raw[:-1])
        own = _added(tokenizer, context + pending[:-1], [token]) if damaged else added
        yield ("", raw[-1], False) if damaged and not own.strip(_REPLACEMENT) else (own, b"", False)
        context, pending = pending, []
    yield from (("", token_bytes(tokenizer, token), False) for token in pending)


def _added(tokenizer: PreTrainedTokenizerBase, before: list[int], new: list[int]) -> str:
    return decode(tokenizer, before + new)[len(decode(tokenizer, before)) :]


def _num_unfinished_bytes(raw: bytes) -> int:
    """How many bytes at the end are the beginning of a character."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    decoder.decode(raw)
    return len(decoder.getstate()[0])


def _is_text(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def render_examples(
    examples: Sequence[TokenizedExample], tokenizer: PreTrainedTokenizerBase, limit: int = 3, show_ids: bool = False
) -> RenderableType:
    """Return the first `limit` examples for a rich console, with a legend; of long ones beginning and end."""
    shown = [inspect_example(each, tokenizer, max_tokens=_MAX_GLIMPSE_TOKENS) for each in examples[:limit]]
    return render_inspected(shown, show_ids=show_ids)


def render_inspected(
    examples: Sequence[InspectedExample], template: str | None = None, show_ids: bool = False
) -> RenderableType:
    """Return examples for a rich console, with a legend; `show_ids`: each token is followed by its id.

    Text is shown literally: rich markup has no effect, and control characters appear as `\\x1b`.
    """
    legend = Text.assemble(
        (f"{_OPEN}trained{_CLOSE}", _TRAINED), " supervised tokens: they enter the loss   ",
        ("masked", _MASKED), " read by the model, not learned",
    )  # fmt: skip
    if show_ids:
        legend.append("   token").append("‹id›", style=_ID)
    if template is not None:
        legend.append(f"   template {printable(template)}", style=_NOTE)
    return Group(legend, *(_render(example, show_ids) for example in examples))


def _render(example: InspectedExample, show_ids: bool) -> Text:
    counts = f"{example.num_tokens:,} tokens, {example.num_supervised_tokens:,} trained"
    text = Text().append(f"\n── {printable(example.origin)} · {counts}\n", style=_NOTE)
    text.append_text(_body(example.tokens, show_ids))
    if example.rejected:
        text.append("\n── rejected answer\n", style=_NOTE)
        text.append_text(_body(example.rejected[example.num_shared :], show_ids))
    return text


def _body(tokens: Sequence[InspectedToken], show_ids: bool) -> Text:
    body = Text()
    for trained, run in groupby(tokens, key=lambda token: token.trained):
        style = _TRAINED if trained else _MASKED
        body.append(_OPEN * trained, style=style)
        for token in run:
            if token.num_hidden:
                body.append(f" […{token.num_hidden:,} tokens not shown…] ", style=_NOTE)
            if show_ids:
                body.append_text(_with_id(token, style))
            elif not token.completed:
                body.append(token.shown, style=style)
        body.append(_CLOSE * trained, style=style)
    return body


def _with_id(token: InspectedToken, style: str) -> Text:
    """The line breaks that end a token follow its id, and are seen."""
    text = token.shown.rstrip("\n")
    breaks = len(token.shown) - len(text)
    return Text.assemble((text + "↵" * breaks, style), (f"‹{token.id}›", _ID), "\n" * breaks)
