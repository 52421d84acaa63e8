"""Training examples that share a run of words with an evaluation example, found on the second pass."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tunelab.data.quality.findings import MAX_ORIGINS
from tunelab.data.quality.overlap import NgramIndex
from tunelab.data.quality.words import words_of

_BATCH_EXAMPLES = 256
_BATCH_CHARACTERS = 250_000


@dataclass(frozen=True, slots=True)
class _Waiting:
    origin: str
    text: str
    is_known: bool


class SharedWords:
    """Compares training texts with the n-grams of the evaluation splits, and counts those that share any.

    `num_new` are those that were not known to overlap before; `origins` are the first of all.
    """

    def __init__(self, indices: Sequence[NgramIndex]) -> None:
        self._indices = [index for index in indices if index]
        self._waiting: list[_Waiting] = []
        self._num_characters = 0
        self.num_examples = 0
        self.num_new = 0
        self.origins: list[str] = []

    def __bool__(self) -> bool:
        """Whether there is anything to compare with."""
        return bool(self._indices)

    def add(self, origin: str, text: str, is_known: bool) -> None:
        """Compare a text, together with the next ones. `is_known`: it is known to overlap already."""
        self._waiting.append(_Waiting(origin, text, is_known))
        self._num_characters += len(text)
        if len(self._waiting) >= _BATCH_EXAMPLES or self._num_characters >= _BATCH_CHARACTERS:
            self.compare()

    def compare(self) -> bool:
        """Compare what waits, now; return whether any of it shares words with an evaluation example."""
        waiting, self._waiting, self._num_characters = self._waiting, [], 0
        if not waiting or not self._indices:
            return False
        words = words_of([one.text for one in waiting])
        shared = np.logical_or.reduce([index.match(words) for index in self._indices])
        found = [one for one, is_shared in zip(waiting, shared, strict=True) if is_shared]
        self.num_examples += len(found)
        self.num_new += sum(not one.is_known for one in found)
        self.origins += [one.origin for one in found[: MAX_ORIGINS - len(self.origins)]]
        return bool(found)
