"""Shows examples as the model sees them: every token, and whether it is trained or masked."""

import unicodedata
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, cast

from rich.console import Group, RenderableType
from rich.text import Text
from transformers import PreTrainedTokenizerBase

from tunelab.data.records import TokenizedExample
from tunelab.data.upstream import decode

_OPEN, _CLOSE = "⟦", "⟧"  # told apart without colour too (NO_COLOR, a log file, a colour-blind reader)
_TRAINED, _MASKED, _NOTE = "bold green", "dim", "cyan"
_LIMIT_CHARACTERS = 2000  # of one stretch; the middle of a longer one is left out, and said to be


def render_examples(
    examples: Sequence[TokenizedExample], tokenizer: PreTrainedTokenizerBase, limit: int = 3
) -> RenderableType:
    """Return the first `limit` examples for a rich console, with a legend.

    Text is shown literally: rich markup has no effect, and control characters appear as `\\x1b`.
    """
    legend = Text.assemble(
        (f"{_OPEN}trained{_CLOSE}", _TRAINED), " supervised tokens: they enter the loss   ",
        ("masked", _MASKED), " read by the model, not learned",
    )  # fmt: skip
    shown = [_render(example, tokenizer) for example in examples[:limit]]
    return Group(legend, *shown)


def _render(example: TokenizedExample, tokenizer: PreTrainedTokenizerBase) -> Text:
    counts = f"{example.num_tokens:,} tokens, {example.num_supervised_tokens:,} trained"
    text = Text.assemble(("\n── ", _NOTE), (_visible(example.origin), _NOTE), (f" · {counts}\n", _NOTE))
    for stretch, trained in _stretches(example, tokenizer):
        shown = _shorten(_visible(stretch))
        text.append(f"{_OPEN}{shown}{_CLOSE}" if trained else shown, style=_TRAINED if trained else _MASKED)
    return text


def _stretches(example: TokenizedExample, tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[str, bool]]:
    """The text of each run of equally masked tokens.

    Decoded as what it adds to the text before, because some tokenizers drop the first space of what they
    decode.
    """
    ids: list[int] = cast(Any, example.input_ids).tolist()
    end, before = 0, ""
    mask: list[bool] = cast(Any, example.loss_mask).tolist()
    for trained, run in groupby(mask):
        end += len(list(run))
        text = decode(tokenizer, ids[:end])
        yield text[len(before) :], trained
        before = text


def _visible(text: str) -> str:
    """Escape control and format characters, which a terminal obeys; not line breaks and tabs."""
    return "".join(c if c in "\n\t" or unicodedata.category(c)[0] != "C" else _escape(c) for c in text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _shorten(text: str) -> str:
    if len(text) <= _LIMIT_CHARACTERS:
        return text
    half = _LIMIT_CHARACTERS // 2
    return f"{text[:half]} […{len(text) - 2 * half:,} characters not shown…] {text[-half:]}"
