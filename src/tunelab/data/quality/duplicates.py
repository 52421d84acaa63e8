"""Which examples are the same, or nearly: equal digests, and MinHash signatures in bands.

Near means: the sets of word 5-grams of two texts (the run of all words, where there are fewer than 5) have an
estimated Jaccard similarity of at least the threshold. Case and what lies between words do not count; digits do: "what
is 2 + 3" and "what is 2 + 4" differ in one word, and long texts made from one form are near each other.

A signature is NUM_HASHES minima, of which 8 bits each are kept (b-bit minwise hashing, Li and König, WWW 2010): the
share of equal bytes is s + (1 − s)/256 for sets of similarity s, with a standard deviation of at most 0.035 at 0.8.
Texts that agree in all hashes of one band are compared: at the threshold, 99 of 100 such pairs are.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from rensa import RMinHash  # pyright: ignore[reportAttributeAccessIssue]

from tunelab.data.quality.words import Hashes, Words

NGRAM_WORDS = 5
NUM_HASHES = 128
MAX_CANDIDATES = 32  # of one band: the earliest texts that a text is compared with
_CANDIDATE_PROBABILITY = 0.99  # that a pair at the threshold agrees in at least one band
_BAND_WIDTHS = range(8, 0, -1)  # hashes of a band, which are one 64-bit number
_CHANCE = 1 / 256
_SEED = 1
_BLOCK_PAIRS = 65_536

Signatures = npt.NDArray[np.uint8]
Flags = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Sketches:
    """The signatures of some texts (rows × NUM_HASHES) and which of them have words at all."""

    signatures: Signatures
    has_words: Flags


def signatures_of(words: Words) -> Signatures:
    """Return the MinHash signature of each text: uint8, texts × NUM_HASHES."""
    hashes, counts = words.ngrams(NGRAM_WORDS, shorten=True)
    offsets = np.zeros(counts.size + 1, np.uint64)
    np.cumsum(counts, out=offsets[1:])
    matrix: Any = RMinHash.digest_matrix_from_flat_token_hashes(hashes, offsets, num_perm=NUM_HASHES, seed=_SEED)
    rows = np.array(matrix.to_rows(), np.uint32).reshape(counts.size, NUM_HASHES)
    return (rows & 0xFF).astype(np.uint8)


def similarity(first: Signatures, second: Signatures) -> npt.NDArray[np.float64]:
    """Return the estimated Jaccard similarity, row by row."""
    equal = np.count_nonzero(first == second, axis=1) / NUM_HASHES
    return (equal - _CHANCE) / (1 - _CHANCE)


def repeats(digests: Hashes) -> Flags:
    """Return which entries an earlier one equals."""
    _, first = np.unique(digests, return_index=True)
    flags = np.ones(digests.size, np.bool_)
    flags[first] = False
    return flags


def contradictions(prompts: Hashes, identities: Hashes) -> Flags:
    """Return which examples share their prompt with an example that is not the same. Prompt 0: none."""
    order = np.lexsort((identities, prompts))
    prompt, identity = prompts[order], identities[order]
    starts = np.flatnonzero(np.concatenate(([True], prompt[1:] != prompt[:-1])))[: prompt.size]
    if not prompt.size:
        return np.zeros(0, np.bool_)
    changed = np.concatenate(([False], identity[1:] != identity[:-1]))
    changed[starts] = False
    sizes = np.diff(np.append(starts, prompt.size))
    differs = np.repeat(np.add.reduceat(changed, starts, dtype=np.int64) > 0, sizes) & (prompt != 0)
    flags = np.empty(prompts.size, np.bool_)
    flags[order] = differs
    return flags


def near_earlier(sketches: Sketches, threshold: float) -> Flags:
    """Return which texts have a near duplicate among the earlier ones (which may itself have one)."""
    return _near(sketches, sketches, threshold, earlier_only=True)


def near_any(sketches: Sketches, others: Sketches, threshold: float) -> Flags:
    """Return which texts have a near duplicate among `others`."""
    return _near(sketches, others, threshold, earlier_only=False)


def _near(sketches: Sketches, others: Sketches, threshold: float, earlier_only: bool) -> Flags:
    found = np.zeros(len(sketches.signatures), np.bool_)

    def confirm(rows: Rows, candidates: Rows) -> Flags:
        near = _similarities(sketches.signatures, rows, others.signatures, candidates) >= threshold
        found[rows[near]] = True
        return near

    for columns in _bands(threshold):
        rows = np.flatnonzero(sketches.has_words & ~found).astype(np.int32)
        keys, in_band = _sorted_by_band(others, columns)
        wanted = _keys(sketches.signatures, columns, rows)
        begin = np.searchsorted(keys, wanted, "left").astype(np.int32)
        if earlier_only:  # both are the same texts: candidates end where the text itself stands
            place = np.zeros(found.size, np.int32)
            place[in_band] = np.arange(in_band.size, dtype=np.int32)
            end = place[rows]
        else:
            end = np.searchsorted(keys, wanted, "right").astype(np.int32)
        del keys, wanted
        _compare(rows, begin, end, in_band, confirm)
    return found


def _compare(
    rows: Rows,
    begin: Rows,
    end: Rows,
    others: Rows,
    confirm: Callable[[Rows, Rows], Flags],
) -> None:
    """Compare each row with the first of its candidates, `others[begin:end]`, then those left with the second, …"""
    for step in range(MAX_CANDIDATES):
        left = begin + step < end
        rows, begin, end = rows[left], begin[left], end[left]
        if not rows.size:
            return
        left = ~confirm(rows, others[begin + step])
        rows, begin, end = rows[left], begin[left], end[left]


def _sorted_by_band(sketches: Sketches, columns: slice) -> tuple[Hashes, Rows]:
    """The texts with words, by the hashes of one band, equal ones in their own order."""
    rows = np.flatnonzero(sketches.has_words).astype(np.int32)
    keys = _keys(sketches.signatures, columns, rows)
    order = np.argsort(keys, kind="stable")
    return keys[order], rows[order]


def _keys(signatures: Signatures, columns: slice, rows: Rows) -> Hashes:
    """The hashes of a band (at most 8, of 8 bits) as one number a text."""
    padded = np.zeros((rows.size, 8), np.uint8)
    padded[:, : columns.stop - columns.start] = signatures[rows, columns]
    return padded.view(np.uint64)[:, 0]


def _similarities(first: Signatures, rows: Rows, second: Signatures, candidates: Rows) -> npt.NDArray[np.float64]:
    """Compare pairs a block at a time: the signatures of a block are copied, never those of all pairs."""
    blocks = range(0, rows.size, _BLOCK_PAIRS)
    parts = [similarity(first[rows[i : i + _BLOCK_PAIRS]], second[candidates[i : i + _BLOCK_PAIRS]]) for i in blocks]
    return np.concatenate(parts)


def _bands(threshold: float) -> list[slice]:
    """Bands as wide as they may be for a pair at the threshold to agree in one with the wanted probability."""

    def probability(width: int) -> float:
        return 1 - (1 - threshold**width) ** (NUM_HASHES // width)

    width = next(width for width in _BAND_WIDTHS if probability(width) >= _CANDIDATE_PROBABILITY)
    return [slice(start, start + width) for start in range(0, NUM_HASHES - width + 1, width)]
