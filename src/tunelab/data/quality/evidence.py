"""What a survey leaves of each split, and what is concluded from it before the second pass."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tunelab.config import Action
from tunelab.data.quality.duplicates import Flags, Signatures, Sketches, contradictions, near_any, near_earlier, repeats
from tunelab.data.quality.labels import surplus
from tunelab.data.quality.overlap import NgramIndex
from tunelab.data.quality.rules import BIT, HAS_WORDS, Rules
from tunelab.data.quality.words import Hashes, Positions

SPLITS = ("train", "validation", "test")
Bits = npt.NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class SplitFacts:
    """What is reported of a split besides the checks.

    `kinds` is (check, kind) → examples. `origins` are kept of the evaluation splits, and of all splits where an action
    is `error`; otherwise the list is empty. `ngrams` are those of an evaluation split.
    """

    labels: dict[str, int]
    kinds: dict[tuple[str, str], int]
    script_counts: Positions
    origins: list[str]
    ngrams: NgramIndex | None


@dataclass(frozen=True, slots=True)
class SplitEvidence:
    """What the survey of one split leaves: arrays with one row an example, and the facts.

    `flags` holds BIT of the checks that look at one example alone, and HAS_WORDS. `codes` numbers the values of
    `balance_by` (empty without it).
    """

    identities: Hashes
    prompts: Hashes
    signatures: Signatures
    flags: Bits
    codes: npt.NDArray[np.int32]
    facts: SplitFacts

    @property
    def sketches(self) -> Sketches:
        """Signatures, and which examples have words."""
        return Sketches(self.signatures, self.flags & HAS_WORDS > 0)


@dataclass(frozen=True, slots=True)
class Shared:
    """Which examples of a split another split has too: exactly, and otherwise nearly."""

    exactly: Flags
    nearly: Flags

    @property
    def either(self) -> Flags:
        """Exactly or nearly."""
        return self.exactly | self.nearly


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is known before the second pass. `flags` are those of all checks but shared n-grams.

    `shared` is keyed by (split, the split that has it too): the training split with each evaluation split and back, and
    validation with test.
    """

    flags: dict[str, Bits]
    shared: dict[tuple[str, str], Shared]
    facts: dict[str, SplitFacts]


def judge(evidence: Mapping[str, SplitEvidence], rules: Rules) -> Judgement:
    """Compare the examples with each other, within the splits and between them."""
    flags = {split: _within(evidence[split], rules) for split in SPLITS if split in evidence}
    evaluations = [split for split in flags if split != "train"]
    pairs = [("train", split) for split in evaluations] + [(split, "train") for split in evaluations]
    shared = {
        (split, other): _shared(evidence[split], evidence[other], rules)
        for split, other in (*pairs, ("validation", "test"))
        if split in evidence and other in evidence
    }
    for split, other in shared:
        if "train" in (split, other):
            flags[split][shared[split, other].either] |= BIT["overlap"]
    if "train" in flags and rules.balance_by is not None:
        flags["train"] |= _surplus(flags["train"], evidence["train"], rules)
    return Judgement(flags, shared, {split: evidence[split].facts for split in flags})


def dropping_bits(rules: Rules) -> int:
    """The bits of the checks that leave training examples out."""
    return sum(BIT[check] for check in rules.checks_with(Action.drop))


def _within(split: SplitEvidence, rules: Rules) -> Bits:
    exact = repeats(split.identities)
    found = {
        "exact_duplicates": exact,
        "near_duplicates": near_earlier(split.sketches, rules.similarity) & ~exact,
        "contradictions": contradictions(split.prompts, split.identities),
    }
    flags = split.flags.copy()
    for check, mask in found.items():
        flags[mask] |= BIT[check]
    return flags


def _shared(split: SplitEvidence, other: SplitEvidence, rules: Rules) -> Shared:
    exactly = np.isin(split.identities, other.identities)
    return Shared(exactly, near_any(split.sketches, other.sketches, rules.similarity) & ~exactly)


def _surplus(flags: Bits, train: SplitEvidence, rules: Rules) -> Bits:
    """Mark what balancing leaves out of the examples that the other checks keep."""
    kept = (flags & (dropping_bits(rules) & ~BIT["balance_by"])) == 0
    return surplus(train.codes, train.identities, kept).astype(np.uint16) * np.uint16(BIT["balance_by"])
