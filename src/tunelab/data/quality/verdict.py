"""The second pass: which training examples are left out, and why."""

from collections import Counter

import numpy as np

from tunelab.config import Action
from tunelab.data.quality.contents import compared_text
from tunelab.data.quality.evidence import Judgement, dropping_bits
from tunelab.data.quality.findings import QualityReport, first_places
from tunelab.data.quality.reporting import Tally, detail_of, quality_report
from tunelab.data.quality.rules import BIT, REASONS, Rules
from tunelab.data.quality.sharing import SharedWords
from tunelab.data.quality.wording import refusal
from tunelab.data.records import Example
from tunelab.errors import DataError

_CHECKS = tuple(REASONS)


class Verdict:
    """What is decided about every example. Training examples may be left out; the others are only reported."""

    def __init__(self, rules: Rules, judgement: Judgement) -> None:
        """Raises DataError for a finding whose action is `error`."""
        _refuse(rules, judgement)
        self._rules = rules
        self._judgement = judgement
        self._train = judgement.flags.get("train", np.zeros(0, np.uint16))
        self._drops = dropping_bits(rules)
        self._overlap = rules.actions.get("overlap", Action.report)
        self._words = SharedWords([facts.ngrams for facts in judgement.facts.values() if facts.ngrams is not None])
        self._named = {place for bit in BIT.values() for place in first_places(self._train & bit > 0)}
        self._origins: dict[int, str] = {}
        self._num_dropped: Counter[str] = Counter()

    def reason(self, split: str, index: int, example: Example) -> str | None:
        """Return why the example is left out, or None: it stays. `index` counts the added examples of its split.

        Every training example is asked about once, in order. Raises DataError where `overlap` is `error` and the
        example shares words with validation or test.
        """
        if split != "train" or not self._rules.actions:
            return None
        if index >= self._train.size:
            raise DataError(f"{example.origin}: the data changed while it was read; run again when it is complete.")
        if index in self._named:
            self._origins[index] = example.origin
        flags = int(self._train[index])
        check = _first_check(flags & self._drops)
        if check is None and self._words and self._shares_words(flags, example):
            check = "overlap"
        if check is None:
            return None
        self._num_dropped[check] += 1
        return REASONS[check]

    def report(self) -> QualityReport:
        """Return all findings, after the second pass."""
        self._words.compare()
        return quality_report(self._rules, self._judgement, Tally(self._num_dropped, self._origins, self._words))

    def _shares_words(self, flags: int, example: Example) -> bool:
        """Whether shared words leave the example out: known at once only where they do, or where they are an error."""
        self._words.add(example.origin, compared_text(example), bool(flags & BIT["overlap"]))
        if self._overlap is Action.report or not self._words.compare():
            return False
        if self._overlap is Action.error:
            found = f"{self._rules.ngram_words} words in a row that validation or test has too"
            raise DataError(refusal("overlap", example.origin, found))
        return True


def _first_check(flags: int) -> str | None:
    return _CHECKS[(flags & -flags).bit_length() - 1] if flags else None


def _refuse(rules: Rules, judgement: Judgement) -> None:
    for check in rules.checks_with(Action.error):
        for split, flags in judgement.flags.items():
            found = flags & BIT[check] > 0
            if found.any():
                origin = judgement.facts[split].origins[int(np.argmax(found))]
                raise DataError(refusal(check, origin, detail_of(check, split, judgement, rules)))
