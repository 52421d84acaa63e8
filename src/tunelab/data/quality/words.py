"""Texts as arrays: words and n-grams of words as 64-bit hashes, letters by script, for a batch of texts at once.

A word is a run of letters, marks and digits, in lower case; what lies between words is not compared. Letters of
scripts that write no spaces (Han, kana, Thai, Lao, Khmer, Burmese) and all above U+FFFF each count as a word.
"""

import unicodedata
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
Positions = npt.NDArray[np.int64]

_SPACELESS_SCRIPTS = ("Han", "Hiragana", "Katakana", "Thai", "Lao", "Khmer", "Myanmar")
_SPACED_SCRIPTS = (
    *("Latin", "Cyrillic", "Greek", "Armenian", "Georgian", "Hebrew", "Arabic", "Ethiopic", "Hangul"),
    *("Devanagari", "Bengali", "Gujarati", "Tamil", "Telugu", "Kannada", "Malayalam"),
)
SCRIPTS = (*_SPACELESS_SCRIPTS, *_SPACED_SCRIPTS, "other")
_APART, _IN_WORD, _ALONE, _DAMAGED = range(4)
_NO_SCRIPT = len(SCRIPTS)
_ASTRAL, _HAN_EXTENSION = 0x10000, 0x10001  # the places of all code points above U+FFFF, and above U+1FFFF
_POWER_BITS = 18  # powers for this many characters are always at hand, more are computed for a longer text
_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2**64


@dataclass(frozen=True, slots=True)
class _Characters:
    """By code point: the kind of character, its lower case, and the index of its script."""

    kind: npt.NDArray[np.uint8]
    lower: npt.NDArray[np.uint32]
    script: npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Words:
    """The words of a batch of texts: their hashes end to end, and the number of words in each text."""

    hashes: Hashes
    counts: Positions

    def ngrams(self, size: int, shorten: bool) -> tuple[Hashes, Positions]:
        """Return the hashes of all runs of `size` words, and how many each text has.

        A text of fewer words has none, or, where `shorten` is set, one: the run of all of its words.
        """
        spans = np.minimum(size, self.counts) if shorten else np.full_like(self.counts, size)
        counts = np.where(self.counts > 0, np.maximum(self.counts - spans + 1, 0), 0)
        first_words = np.cumsum(self.counts) - self.counts
        first_ngrams = np.cumsum(counts) - counts
        starts = np.arange(counts.sum()) + np.repeat(first_words - first_ngrams, counts)
        return _span_hashes(self.hashes, starts, starts + np.repeat(spans, counts)), counts


@dataclass(frozen=True, slots=True)
class Surveyed:
    """What a batch of pieces of text holds: words (of the odd pieces), letters by script, and damaged characters."""

    words: Words
    script_counts: Positions
    damaged_pieces: Positions
    damaged_code_points: Positions


def survey_pieces(pieces: list[str]) -> Surveyed:
    """Look at pieces of text: (aside, text) of the first example, of the second, and so on.

    Words are of the texts alone; scripts and damaged characters (U+FFFD, control characters other than tab, line and
    form feeds, lone surrogates, non-characters) of all pieces.
    """
    table = _characters()
    code_points = _code_points(pieces)
    ends = np.cumsum(np.fromiter(map(len, pieces), np.int64, len(pieces)) + 1)
    index = _table_index(code_points)
    kind = table.kind[index]
    damaged = np.flatnonzero(kind == _DAMAGED)
    return Surveyed(
        words=_words(kind, table.lower[index], code_points, ends),
        script_counts=np.bincount(table.script[index], minlength=_NO_SCRIPT + 1)[:_NO_SCRIPT],
        damaged_pieces=np.searchsorted(ends, damaged, side="right"),
        damaged_code_points=code_points[damaged].astype(np.int64),
    )


def words_of(texts: list[str]) -> Words:
    """Return the words of each text."""
    return survey_pieces([piece for text in texts for piece in ("", text)]).words


def _code_points(pieces: list[str]) -> npt.NDArray[np.uint32]:
    joined = "\n".join([*pieces, ""])
    return np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), np.uint32)


def _table_index(code_points: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    if code_points.size and code_points.max() < _ASTRAL:
        return code_points
    above = np.where(code_points < 0x20000, _ASTRAL, _HAN_EXTENSION).astype(np.uint32)
    return np.where(code_points < _ASTRAL, code_points, above)


def _words(
    kind: npt.NDArray[np.uint8], lower: npt.NDArray[np.uint32], code_points: npt.NDArray[np.uint32], ends: Positions
) -> Words:
    in_word = kind == _IN_WORD
    alone = kind == _ALONE
    edges = np.diff(in_word.astype(np.int8), prepend=0)  # every piece ends in a separator: runs never cross pieces
    starts, stops = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    if alone.any():
        places = np.flatnonzero(alone)
        starts = np.sort(np.concatenate((starts, places)))
        stops = np.sort(np.concatenate((stops, places + 1)))
    per_piece = np.diff(np.searchsorted(starts, ends), prepend=0)
    compared = np.repeat(np.arange(ends.size) % 2 == 1, per_piece)
    values = np.where(lower > 0, lower, code_points).astype(np.uint64)
    return Words(_span_hashes(values, starts[compared], stops[compared]), per_piece[1::2])


def _span_hashes(values: Hashes, starts: Positions, stops: Positions) -> Hashes:
    """Hash the runs [start, stop) of `values`: Σ (value + 1) · base^(position − start) modulo 2^64, then mixed.

    Runs of any lengths cost one subtraction each, by prefix sums; a power of the base's inverse takes away the start.
    """
    powers, inverses = _powers(values.size)
    sums = np.zeros(values.size + 1, np.uint64)
    np.cumsum((values + np.uint64(1)) * powers[: values.size], out=sums[1:])
    hashes = (sums[stops] - sums[starts]) * inverses[starts]
    hashes ^= hashes >> np.uint64(32)
    hashes *= np.uint64(0xD6E8FEB86659FD93)
    hashes ^= hashes >> np.uint64(32)
    return hashes


def _powers(size: int) -> tuple[Hashes, Hashes]:
    return _powers_up_to(1 << max(_POWER_BITS, (size - 1).bit_length()))


@lru_cache(maxsize=2)
def _powers_up_to(size: int) -> tuple[Hashes, Hashes]:
    def powers(base: int) -> Hashes:
        factors = np.full(size, base, np.uint64)
        factors[0] = 1
        return np.cumprod(factors, dtype=np.uint64)

    return powers(_BASE), powers(pow(_BASE, -1, 2**64))


@lru_cache(maxsize=1)
def _characters() -> _Characters:
    characters = [chr(code) for code in range(_ASTRAL)]
    categories = [unicodedata.category(character) for character in characters]
    script = np.full(_ASTRAL + 2, _NO_SCRIPT, np.uint8)
    kind = np.zeros(_ASTRAL + 2, np.uint8)
    lower = np.zeros(_ASTRAL + 2, np.uint32)
    for code, (character, category) in enumerate(zip(characters, categories, strict=True)):
        script[code] = _script_index(character) if category[0] == "L" else _NO_SCRIPT
        kind[code] = _kind(character, category, int(script[code]))
        lower[code] = ord(character.lower()[0])
    kind[_ASTRAL:] = _ALONE
    script[_HAN_EXTENSION] = SCRIPTS.index("Han")
    return _Characters(kind, lower, script)


def _script_index(letter: str) -> int:
    first = unicodedata.name(letter, "other").replace("CJK", "Han").split()[0].split("-")[0].capitalize()
    return SCRIPTS.index(first) if first in SCRIPTS else SCRIPTS.index("other")


def _kind(character: str, category: str, script: int) -> int:
    if (category in ("Cc", "Cs") and character not in "\t\n\r\f") or character in "\ufffd\ufffe\uffff":
        return _DAMAGED
    if script < len(_SPACELESS_SCRIPTS):
        return _ALONE
    return _IN_WORD if category[0] in "LMN" else _APART
