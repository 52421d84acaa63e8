"""Which evaluation examples share a run of words with a training example, whatever order the rows come in.

Of the evaluation splits the n-grams are kept, as 64-bit hashes; training examples are compared with them on the second
pass. An n-gram that many evaluation examples have (a form they are all written in, an instruction) says nothing about
one of them and does not count.
"""

import numpy as np
import numpy.typing as npt

from tunelab.data.quality.words import Hashes, Positions, Words

MAX_NGRAMS = 4_000_000  # kept of one evaluation split; where there are more, a share of them by hash
MAX_SHARING = 10  # evaluation examples that may share an n-gram before it no longer counts
_MIN_TABLE_BITS, _MAX_TABLE_BITS = 16, 26


class EvaluationNgrams:
    """Collects the n-grams of one evaluation split, whose examples are numbered from 0 in the order they are added."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._hashes: list[Hashes] = []
        self._owners: list[npt.NDArray[np.int32]] = []
        self._num_kept = 0
        self._num_examples = 0
        self._one_in = 1

    def add(self, words: Words) -> None:
        """Collect the n-grams of a batch of evaluation examples."""
        hashes, counts = words.ngrams(self._size, shorten=False)
        owners = np.repeat(np.arange(counts.size, dtype=np.int32) + np.int32(self._num_examples), counts)
        self._num_examples += counts.size
        self._keep(hashes, owners)
        while self._num_kept > MAX_NGRAMS:
            self._one_in *= 2
            kept = list(zip(self._hashes, self._owners, strict=True))
            self._hashes, self._owners, self._num_kept = [], [], 0
            for block in kept:
                self._keep(*block)

    def _keep(self, hashes: Hashes, owners: npt.NDArray[np.int32]) -> None:
        kept = hashes & np.uint64(self._one_in - 1) == 0
        self._hashes.append(hashes[kept])
        self._owners.append(owners[kept])
        self._num_kept += self._hashes[-1].size

    def index(self) -> "NgramIndex":
        """Return the index of what was collected, and forget it here."""
        hashes = np.concatenate([np.zeros(0, np.uint64), *self._hashes])
        owners = np.concatenate([np.zeros(0, np.int32), *self._owners])
        self._hashes, self._owners = [], []
        return NgramIndex(hashes, owners, self._num_examples, self._size, self._one_in)


class NgramIndex:
    """The n-grams of one evaluation split, and which of its examples a training example was found to share one with.

    A table by the top bits of the hash settles nearly all look-ups; the sorted hashes settle the rest.
    """

    def __init__(
        self, hashes: Hashes, owners: npt.NDArray[np.int32], num_examples: int, size: int, one_in: int
    ) -> None:
        """`owners` are the examples that have the n-grams; of all n-grams, `one_in` as many are given."""
        self._size = size
        self.one_in = one_in
        order = np.lexsort((owners, hashes))
        hashes, owners = hashes[order], owners[order]
        fresh = np.ones(hashes.size, np.bool_)
        fresh[1:] = (hashes[1:] != hashes[:-1]) | (owners[1:] != owners[:-1])
        hashes, owners = hashes[fresh], owners[fresh]
        rare = _run_lengths(hashes) <= max(2, min(MAX_SHARING, num_examples // 2))
        self._hashes, self._owners = hashes[rare], owners[rare]
        bits = int(np.clip(3 + self._hashes.size.bit_length(), _MIN_TABLE_BITS, _MAX_TABLE_BITS))
        self._shift = np.uint64(64 - bits)
        self._table = np.zeros(1 << bits, np.bool_)
        self._table[self._hashes >> self._shift] = True
        self.shared = np.zeros(num_examples, np.bool_)

    def __bool__(self) -> bool:
        """Whether there is any n-gram to compare with."""
        return self._hashes.size > 0

    def match(self, words: Words) -> npt.NDArray[np.bool_]:
        """Return which of these training texts share an n-gram; `shared` then holds with which evaluation examples."""
        hashes, counts = words.ngrams(self._size, shorten=False)
        texts = np.repeat(np.arange(counts.size), counts)
        known = self._table[hashes >> self._shift]
        hashes, texts = hashes[known], texts[known]
        begin = np.searchsorted(self._hashes, hashes, "left")
        end = np.searchsorted(self._hashes, hashes, "right")
        for step in range(MAX_SHARING):
            found = begin + step < end
            self.shared[self._owners[begin[found] + step]] = True
        matched = np.zeros(counts.size, np.bool_)
        matched[texts[begin < end]] = True
        return matched


def _run_lengths(values: Hashes) -> Positions:
    """For each of the sorted `values`, how many are equal to it."""
    return np.searchsorted(values, values, "right") - np.searchsorted(values, values, "left")
