"""Whether a model is as sure as it is right: expected calibration error and Brier score of its answers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from tunelab.evaluation.metrics.registry import Answer, metric, overall_metric
from tunelab.evaluation.scoring import exact_match

NUM_BINS = 10
NEEDS = "a greedy completion"


@dataclass(frozen=True, slots=True)
class Belief:
    """The probability that a model gives its answer, and whether the answer is right."""

    probability: float
    is_right: bool

    @property
    def squared_error(self) -> float:
        """(p - right)², from 0 to 1."""
        return (self.probability - self.is_right) ** 2


def bins(beliefs: Sequence[Belief]) -> list[dict[str, Any]]:
    """The reliability table: ten bins of as equal size as can be, by rising probability; empty ones are left out.

    Each has its `count`, mean `probability` and the `accuracy` of its answers. Answers of one probability share a bin.
    """
    ordered = sorted(beliefs, key=lambda belief: belief.probability)
    edges = [round(place * len(ordered) / NUM_BINS) for place in range(NUM_BINS + 1)]
    for place in range(1, NUM_BINS):
        edge = max(edges[place], edges[place - 1])
        while 0 < edge < len(ordered) and ordered[edge].probability == ordered[edge - 1].probability:
            edge += 1
        edges[place] = edge
    parts = [ordered[start:end] for start, end in pairwise(edges) if start < end]
    return [
        {
            "count": len(part),
            "probability": float(np.mean([each.probability for each in part])),
            "accuracy": float(np.mean([each.is_right for each in part])),
        }
        for part in parts
    ]


def expected_calibration_error(beliefs: Sequence[Belief]) -> float | None:
    """Mean gap between probability and accuracy over the bins, weighted by their counts; None for no answers.

    With bins of equal mass, as Nguyen and O'Connor (2015) and Nixon et al. (2019) have it.
    """
    gaps = [each["count"] * abs(each["probability"] - each["accuracy"]) for each in bins(beliefs)]
    return sum(gaps) / len(beliefs) if beliefs else None


def belief(answer: Answer) -> Belief | None:
    """The probability of a greedy completion, all its tokens and its end together, and whether it matches exactly."""
    if answer.log_probability is None:
        return None
    return Belief(math.exp(answer.log_probability), exact_match(answer.completion, answer.reference))


def _beliefs(answers: Sequence[Answer]) -> list[Belief]:
    return [found for found in map(belief, answers) if found]


def _bins(answers: Sequence[Answer]) -> list[dict[str, Any]]:
    return bins(_beliefs(answers))


@metric("Brier score", better=False, needs=NEEDS, needs_probability=True)
def brier(answer: Answer) -> float | None:
    """(Probability of the completion less 1 where it matches exactly, 0 where not) squared (Brier 1950)."""
    found = belief(answer)
    return found and found.squared_error


@overall_metric("calibration error", better=False, needs=NEEDS, needs_probability=True, table=_bins)
def calibration_error(answers: Sequence[Answer]) -> float | None:
    """Expected calibration error of the completion's probability, against exact match."""
    return expected_calibration_error(_beliefs(answers))
