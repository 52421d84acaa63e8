"""Rendered text becomes token ids with a loss mask, derived in two independent ways that must agree."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from typing import NoReturn

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedTokenizerBase

from tunelab.data.records import RenderedExample
from tunelab.data.upstream import bos_token_id, decode, encode_texts, encode_with_offsets
from tunelab.errors import DataError


@dataclass(frozen=True, slots=True)
class EncodedExample:
    """An example of any length: `input_ids` (int64) and `loss_mask` (bool), 1-D and equally long.

    `num_seams_apart` counts the seams between segments that a merge would have straddled.
    """

    input_ids: torch.Tensor
    loss_mask: torch.Tensor
    num_seams_apart: int
    origin: str


@dataclass(frozen=True, slots=True)
class _Aligned:
    """Token ids of one example, the number of them in each segment, and the seams that were encoded apart."""

    ids: list[int]
    counts: list[int]
    num_seams_apart: int


def encode(
    rendered: Sequence[RenderedExample], tokenizer: PreTrainedTokenizerBase, add_bos: bool
) -> list[EncodedExample]:
    """Encode many rendered examples at once (some thousands a call; memory grows with their text).

    The text is encoded whole, with no special tokens but those it spells out; `add_bos` puts the
    beginning-of-sequence token first. Where the text before a seam, encoded by itself, gives the first ids
    of the whole, the seam lies there. Where it does not (a merge straddles the seam) the segments are
    encoded apart: at generation, too, the prompt is encoded by itself. The mask is then checked against
    character offsets.

    Raises DataError, quoting the origin, where the two ways disagree, and for a tokenizer without offsets.
    """
    if not rendered:
        return []
    if not tokenizer.is_fast:
        raise DataError("model.path: expected a fast tokenizer (tokenizer.json), found one without character offsets.")
    texts = ["".join(segment.text for segment in example.segments) for example in rendered]
    wholes, offsets = encode_with_offsets(tokenizer, texts)
    aligned = _align(rendered, wholes, tokenizer)
    _check(rendered, aligned, offsets, tokenizer)
    bos_id = bos_token_id(tokenizer) if add_bos else None
    bos = [] if bos_id is None else [bos_id]
    return [_finish(example, result, bos) for example, result in zip(rendered, aligned, strict=True)]


def _align(
    rendered: Sequence[RenderedExample], wholes: list[list[int]], tokenizer: PreTrainedTokenizerBase
) -> list[_Aligned]:
    """First way: by encoding what lies around the last trained turn; that turn is the rest of the whole."""
    last = [_last_turn(example) for example in rendered]
    around = [
        segment.text
        for example, skipped in zip(rendered, last, strict=True)
        for index, segment in enumerate(example.segments)
        if index != skipped
    ]
    pieces = iter(encode_texts(tokenizer, around))
    aligned: list[_Aligned | None] = []
    for example, skipped, whole in zip(rendered, last, wholes, strict=True):
        parts: list[list[int]] = [next(pieces) for _ in example.segments[1:]]
        aligned.append(_align_around(whole, parts[:skipped], parts[skipped:]))
    missed = [index for index, result in enumerate(aligned) if result is None]
    prefixes = iter(encode_texts(tokenizer, [text for i in missed for text in _prefixes(rendered[i])]))
    for index in missed:
        heads: list[list[int]] = [next(prefixes) for _ in rendered[index].segments[1:]]
        aligned[index] = _align_by_prefix(rendered[index], wholes[index], heads, tokenizer)
    return [result for result in aligned if result is not None]


def _last_turn(example: RenderedExample) -> int:
    return max((index for index, segment in enumerate(example.segments) if segment.supervised), default=0)


def _prefixes(example: RenderedExample) -> list[str]:
    """The text before each seam."""
    return list(accumulate(segment.text for segment in example.segments))[:-1]


def _align_around(whole: list[int], before: list[list[int]], after: list[list[int]]) -> _Aligned | None:
    """Align where the segments before and after one segment, each by itself, begin and end the whole.

    None where they do not, which may have harmless reasons: a tokenizer that puts a space before every text.
    """
    head, tail = list(chain.from_iterable(before)), list(chain.from_iterable(after))
    rest = len(whole) - len(head) - len(tail)
    if rest < 1 or whole[: len(head)] != head or whole[len(head) + rest :] != tail:
        return None
    return _Aligned(whole, [*map(len, before), rest, *map(len, after)], 0)


def _align_by_prefix(
    example: RenderedExample, whole: list[int], heads: list[list[int]], tokenizer: PreTrainedTokenizerBase
) -> _Aligned:
    """Put each seam where the text before it, by itself, ends; else encode all segments apart."""
    straddled = sum(head != whole[: len(head)] for head in heads)
    if not straddled:
        seams = [0, *map(len, heads), len(whole)]
        return _Aligned(whole, [end - begin for begin, end in pairwise(seams)], 0)
    first, *others = (segment.text for segment in example.segments)
    parts = [*encode_texts(tokenizer, [first]), *(_encode_inside(tokenizer, text) for text in others)]
    return _Aligned(list(chain.from_iterable(parts)), [len(part) for part in parts], straddled)


def _encode_inside(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Encode `text` as it would be inside a longer one: some tokenizers put a space before every text.

    A line break in front takes that space and is taken off again; where it merges with `text`, alone it is.
    """
    guard, guarded, alone = encode_texts(tokenizer, ["\n", f"\n{text}", text])
    return guarded[len(guard) :] if guarded[: len(guard)] == guard else alone


def _check(
    rendered: Sequence[RenderedExample],
    aligned: Sequence[_Aligned],
    offsets: Sequence[list[tuple[int, int]]],
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    """Second way: by character offsets. A supervised token covers supervised characters only, others none.

    Examples encoded apart need no check: each of their segments has its own ids. Added tokens that swallow
    the white space around them cover characters that are not theirs, and are left out.
    """
    chosen = [index for index, result in enumerate(aligned) if not result.num_seams_apart]
    if not chosen:
        return
    segments = [segment for index in chosen for segment in rendered[index].segments]
    kinds = np.array([segment.supervised for segment in segments], dtype=bool)
    covered = np.concatenate([[0], np.cumsum(np.repeat(kinds, [len(segment.text) for segment in segments]))])
    mask = np.repeat(kinds, [count for index in chosen for count in aligned[index].counts])
    num_tokens = np.array([len(aligned[index].ids) for index in chosen], dtype=np.int64)
    num_characters = [sum(len(segment.text) for segment in rendered[index].segments) for index in chosen]
    begins = np.repeat(np.cumsum([0, *num_characters])[:-1], num_tokens)
    spans = _flat(chain.from_iterable(offsets[index]) for index in chosen).reshape(-1, 2) + begins[:, None]
    found = covered[spans[:, 1]] - covered[spans[:, 0]]
    wrong = found != np.where(mask, spans[:, 1] - spans[:, 0], 0)
    swallowing = [i for i, token in tokenizer.added_tokens_decoder.items() if token.lstrip or token.rstrip]
    wrong &= ~np.isin(_flat(aligned[index].ids for index in chosen), swallowing)
    if wrong.any():
        position = int(np.argmax(wrong))
        example = int(np.searchsorted(np.cumsum(num_tokens), position, side="right"))
        token = position - int(num_tokens[:example].sum())
        _raise_disagreement(rendered[chosen[example]], aligned[chosen[example]], token, tokenizer)


def _flat(values: Iterable[Iterable[int]]) -> npt.NDArray[np.int64]:
    return np.fromiter(chain.from_iterable(values), dtype=np.int64)


def _raise_disagreement(
    example: RenderedExample, result: _Aligned, token: int, tokenizer: PreTrainedTokenizerBase
) -> NoReturn:
    text = decode(tokenizer, [result.ids[token]])
    raise DataError(
        f"{example.origin}: expected the same loss mask by token counts and by character offsets, found "
        f"token {token} ({text!r}) on both sides of a seam; set data.template=<another> and report this."
    )


def _finish(example: RenderedExample, result: _Aligned, bos: list[int]) -> EncodedExample:
    kinds = [False, *(segment.supervised for segment in example.segments)]
    counts = [len(bos), *result.counts]
    return EncodedExample(
        input_ids=torch.tensor([*bos, *result.ids], dtype=torch.int64),
        loss_mask=torch.as_tensor(np.repeat(kinds, counts)),
        num_seams_apart=result.num_seams_apart,
        origin=example.origin,
    )
