"""The second way to a loss mask, and the trained texts found again: what the first way counted is proved or refused."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import NoReturn

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase

from tunelab.data.counting import Counted
from tunelab.data.records import RenderedExample, Segment
from tunelab.data.spelling import Speller
from tunelab.data.upstream import (
    added_token_settings,
    decode,
    decode_texts,
    encode_texts,
    encode_with_offsets,
    token_id,
)
from tunelab.errors import DataError

_REMEDY = "set data.template=<another> and report this"
_AROUND = 4  # tokens shown before and after the one in question

Indices = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Batch:
    """Examples end to end, with what the first way counted.

    `ids` are those of all examples, `num_tokens` how many each has. `counts` and `kinds` have an entry for each
    segment: its tokens, and whether it is supervised.
    """

    rendered: Sequence[RenderedExample]
    texts: Sequence[str]
    counted: Sequence[Counted]
    ids: npt.NDArray[np.int32]
    num_tokens: Indices
    counts: Indices
    kinds: Bools

    def take(self, indices: Sequence[int]) -> "Batch":
        """The batch of some of the examples."""
        rendered, counted = [self.rendered[i] for i in indices], [self.counted[i] for i in indices]
        return make_batch(rendered, [self.texts[i] for i in indices], counted)


def make_batch(
    rendered: Sequence[RenderedExample],
    texts: Sequence[str],
    counted: Sequence[Counted],
    ids: npt.NDArray[np.int32] | None = None,
) -> Batch:
    """Put examples end to end; `ids` are theirs where that was done before."""
    return Batch(
        rendered=rendered,
        texts=texts,
        counted=counted,
        ids=flatten([result.ids for result in counted]) if ids is None else ids,
        num_tokens=np.array([len(result.ids) for result in counted], dtype=np.int64),
        counts=np.array([count for result in counted for count in result.counts], dtype=np.int64),
        kinds=np.array([segment.supervised for each in rendered for segment in each.segments], dtype=bool),
    )


def flatten(ids: Sequence[list[int]]) -> npt.NDArray[np.int32]:
    """Lists of ids end to end."""
    return np.fromiter(chain.from_iterable(ids), dtype=np.int32, count=sum(map(len, ids)))


def bounds(sizes: npt.ArrayLike) -> Indices:
    """Where things of these sizes begin, end to end, and where the last one ends."""
    return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])


def verify(batch: Batch, speller: Speller | None, tokenizer: PreTrainedTokenizerBase) -> None:
    """Derive the loss mask again, without counting, and find every trained text in what it supervises.

    The bytes that the tokens spell say which segment a token belongs to. For examples whose tokens do not spell
    their text, the character offsets of the tokenizer say it.

    Raises DataError, quoting the origin: where a mask is not the same in both ways, where a trained text is not
    found again, and where what is supervised does not end in its end-of-turn token.
    """
    _verify_ends(batch, tokenizer)
    unspelled = list(range(len(batch.rendered)))
    if speller is not None:
        letters, ends = speller.spell(batch.ids, batch.num_tokens)
        unspelled = _unspelled(batch, letters, ends)
        if not unspelled:
            _verify_by_spelling(batch, letters, ends, tokenizer)
            return
        spelled = sorted(set(range(len(batch.rendered))) - set(unspelled))
        if spelled:
            verify(batch.take(spelled), speller, tokenizer)
    _verify_by_offsets(batch.take(unspelled), tokenizer)


def _verify_ends(batch: Batch, tokenizer: PreTrainedTokenizerBase) -> None:
    """Every supervised segment ends in the one token that ends its turn."""
    end_ids = {text: token_id(tokenizer, text) for text in {each.end_of_turn for each in batch.rendered} if text}
    last = np.append(batch.ids, -1)[np.where(batch.counts > 0, np.cumsum(batch.counts) - 1, -1)]
    for (example, segment), found in zip(_supervised(batch), last[batch.kinds].tolist(), strict=True):
        if example.end_of_turn is not None and found != end_ids.get(example.end_of_turn):
            raise DataError(
                f"{example.origin}: expected every trained turn to end in the one token {example.end_of_turn!r}, "
                f"supervised with it, found a turn that ends in {segment.text[-20:]!r}; {_REMEDY}."
            )


def _supervised(batch: Batch) -> Iterator[tuple[RenderedExample, Segment]]:
    return ((example, segment) for example in batch.rendered for segment in example.segments if segment.supervised)


def _unspelled(batch: Batch, letters: bytes, ends: Indices) -> list[int]:
    """The examples whose tokens do not spell their text."""
    expected = "".join(batch.texts).encode()
    if letters == expected:
        return []
    found = np.concatenate([[0], ends])[bounds(batch.num_tokens)].tolist()
    pieces = (letters[begin:end] for begin, end in pairwise(found))
    return [i for i, (piece, text) in enumerate(zip(pieces, batch.texts, strict=True)) if piece != text.encode()]


def _verify_by_spelling(batch: Batch, letters: bytes, ends: Indices, tokenizer: PreTrainedTokenizerBase) -> None:
    parts = [segment.text for example in batch.rendered for segment in example.segments]
    sizes = np.array([len(part) if part.isascii() else len(part.encode()) for part in parts], dtype=np.int64)
    begins = np.concatenate([[0], ends])
    _compare(batch, sizes, begins[:-1], ends, "the bytes they spell", tokenizer)
    places = begins[bounds(batch.counts)]
    stretches = zip(places[:-1][batch.kinds].tolist(), places[1:][batch.kinds].tolist(), strict=True)
    for (begin, end), (example, trained) in zip(stretches, _trained(batch), strict=True):
        if letters.find(trained.encode(), begin, end) < 0:
            _raise_not_found(example, trained, letters[begin:end].decode(errors="replace"))


def _verify_by_offsets(batch: Batch, tokenizer: PreTrainedTokenizerBase) -> None:
    """As `verify`, by the character offsets that the tokenizer gives with a second encoding.

    The segments that were encoded apart have ids of their own, of which only the decoded text is looked at.
    """
    whole = batch.take([i for i, result in enumerate(batch.counted) if not result.num_seams_apart])
    ids, offsets = encode_with_offsets(tokenizer, whole.texts)
    if not np.array_equal(flatten(ids), whole.ids):
        raise DataError(
            f"{whole.rendered[0].origin}: expected a tokenizer that encodes a text twice alike, found different ids "
            "here or in one of the next examples; switch off its dropout."
        )
    spans = np.array(list(chain.from_iterable(offsets)), dtype=np.int64).reshape(-1, 2)
    spans += np.repeat(bounds([len(text) for text in whole.texts])[:-1], whole.num_tokens)[:, None]
    sizes = np.array([len(part.text) for example in whole.rendered for part in example.segments], dtype=np.int64)
    _compare(whole, sizes, spans[:, 0], spans[:, 1], "the characters they come from", tokenizer)
    _verify_decoded(batch, tokenizer)


def _compare(
    batch: Batch, sizes: Indices, begins: Indices, ends: Indices, way: str, tokenizer: PreTrainedTokenizerBase
) -> None:
    """A supervised token covers only what is supervised, another token nothing of it.

    `sizes` are those of the segments, `begins` and `ends` the places of the tokens, in bytes or in characters.
    Added tokens that swallow the white space around them cover what is not theirs, and are left out.
    """
    covered = np.zeros(int(sizes.sum()) + 1, dtype=np.int32)  # supervised bytes or characters before each
    np.cumsum(np.repeat(batch.kinds, sizes), out=covered[1:])
    num_supervised = covered[ends] - covered[begins]
    mask = np.repeat(batch.kinds, batch.counts)
    wrong = num_supervised != np.where(mask, ends - begins, 0)
    if wrong.any():
        settings = added_token_settings(tokenizer).items()
        wrong &= ~np.isin(batch.ids, [i for i, token in settings if token.lstrip or token.rstrip])
    if wrong.any():
        _raise_disagreement(batch, mask, wrong, way, tokenizer)


def _raise_disagreement(
    batch: Batch, mask: Bools, wrong: Bools, way: str, tokenizer: PreTrainedTokenizerBase
) -> NoReturn:
    starts, position = bounds(batch.num_tokens), int(np.argmax(wrong))
    index = int(np.searchsorted(starts, position, side="right")) - 1
    shown = slice(max(int(starts[index]), position - _AROUND), min(int(starts[index + 1]), position + _AROUND + 1))
    tokens = [decode(tokenizer, [token]) for token in batch.ids[shown].tolist()]
    raise DataError(
        f"{batch.rendered[index].origin}: expected the same supervised tokens by their number and by {way}, found a "
        f"difference at token {position - starts[index]} (supervised is what stands in brackets): by their number "
        f"{_shown(tokens, mask[shown])!r}, by {way} {_shown(tokens, (mask ^ wrong)[shown])!r}; {_REMEDY}."
    )


def _shown(tokens: list[str], mask: Bools) -> str:
    return "".join(f"[{token}]" if trained else token for token, trained in zip(tokens, mask.tolist(), strict=True))


def _trained(batch: Batch) -> Iterator[tuple[RenderedExample, str]]:
    """The trained texts in the order of the supervised segments, each with its example."""
    for example in batch.rendered:
        num_supervised = sum(segment.supervised for segment in example.segments)
        if len(example.trained) != num_supervised:
            raise DataError(
                f"{example.origin}: expected a text to find again for each of {num_supervised} supervised stretches, "
                f"found {len(example.trained)}; {_REMEDY}."
            )
        yield from ((example, text) for text in example.trained)


def _verify_decoded(batch: Batch, tokenizer: PreTrainedTokenizerBase) -> None:
    """Find the trained texts in the decoded ids; what the tokenizer itself changes of a text, it may change here."""
    places = bounds(batch.counts)
    stretches = [batch.ids[places[i] : places[i + 1]].tolist() for i in np.flatnonzero(batch.kinds)]
    found, wanted = decode_texts(tokenizer, stretches), list(_trained(batch))
    changed = decode_texts(tokenizer, encode_texts(tokenizer, [text for _, text in wanted]))
    for decoded, (example, text), after in zip(found, wanted, changed, strict=True):
        if text not in decoded and "".join(after.split()) not in "".join(decoded.split()):
            _raise_not_found(example, text, decoded)


def _raise_not_found(example: RenderedExample, text: str, decoded: str) -> NoReturn:
    raise DataError(
        f"{example.origin}: expected the text of every trained turn in what is supervised of it, "
        f"found {decoded[:80]!r} without {text[:80]!r}; {_REMEDY}."
    )
