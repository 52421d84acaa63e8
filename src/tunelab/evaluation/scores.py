"""The scores of one model on a split, metric by metric and example by example, and what they say of the whole."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from tunelab.evaluation.metrics.registry import FRACTION, Metric, Sums
from tunelab.evaluation.statistics import (
    Floats,
    Interval,
    percentile_interval,
    resampled_sums,
    wilson_interval,
)

Mask = npt.NDArray[np.bool_]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Scores:
    """One metric on n examples: `sums` (n, k), zeros where it does not apply; `applies` (n,).

    `overall`: the value, where it is no function of the sums.
    """

    metric: Metric
    sums: Floats
    applies: Mask
    overall: float | None = None

    @property
    def name(self) -> str:
        """The key in summary.json, without the split."""
        return self.metric.name

    @property
    def count(self) -> int:
        """Number of examples it applies to."""
        return int(self.applies.sum())

    @property
    def value(self) -> float:
        """The value over all examples; nan where it applies to none."""
        if self.overall is not None:
            return self.overall
        return float(self.metric.value(self.sums.sum(axis=0))) if self.count else math.nan


def spread(scores: Scores, kept: Mask) -> Scores:
    """The scores of the examples that were `kept`, laid out over all of them: elsewhere they do not apply."""
    sums, applies = np.zeros((len(kept), scores.sums.shape[1])), np.zeros(len(kept), dtype=bool)
    sums[kept], applies[kept] = scores.sums, scores.applies
    return replace(scores, sums=sums, applies=applies)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value, the number of examples it is over, and its 95 % interval (None: it has none)."""

    value: float
    count: int
    interval: Interval | None


def score_answers(metrics: Sequence[Metric], answers: Sequence[Any]) -> list[Scores]:
    """Score answers, one for each example of a split (None: it has none), by every metric and its parts.

    They are what the metrics are of: an `Answer` each, or a `Chosen`.
    """
    given = [answer for answer in answers if answer is not None]
    scores: list[Scores] = []
    for general in metrics:
        metric = general.fitted(general, given) if general.fitted else general
        if metric is None:
            continue
        if metric.overall:
            applies = np.array([answer is not None for answer in answers])
            value = metric.overall(given)
            nothing = np.zeros((len(answers), 0))
            scores.append(Scores(metric, nothing, applies & (value is not None), value))
            continue
        scores.append(_scores(metric, answers, [metric.sums(answer) for answer in given]))
        if metric.breakdown:
            for part, sums in metric.breakdown(given).items():
                scores.append(_scores(_part(metric, part), answers, sums))
    return scores


def estimates(scores: Sequence[Scores]) -> dict[str, Estimate]:
    """Value, count and interval of each metric that applies.

    Rates of examples: Wilson's interval. Other sums: the percentile bootstrap over examples; where all of these score
    0, or all 1, none that is drawn again differs, and they are counted as a rate. A metric of all answers at
    once has none, for to draw an answer twice would change what it measures.
    """
    found = [each for each in scores if not math.isnan(each.value)]
    by_sums = [each for each in found if each.overall is None]
    intervals = _bootstrap_intervals([each for each in by_sums if not each.metric.is_rate])
    intervals |= {each.name: _wilson(each) for each in by_sums if each.metric.is_rate}
    return {each.name: Estimate(each.value, each.count, intervals.get(each.name)) for each in found}


def by_number(items: Sequence[T], number: Callable[[T], int]) -> list[list[T]]:
    """The items apart by a number, that of examples: those of as many share their draws, whatever examples they are."""
    groups: dict[int, list[T]] = {}
    for item in items:
        groups.setdefault(number(item), []).append(item)
    return list(groups.values())


def columns(scores: Sequence[Scores]) -> list[slice]:
    """Where the sums of each metric stand, once they are laid side by side."""
    ends = np.cumsum([each.sums.shape[1] for each in scores], dtype=int).tolist()
    return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]


def _part(metric: Metric, part: str) -> Metric:
    return replace(metric, name=f"{metric.name}/{part}", label=f"  {part}", breakdown=None, per_example=False)


def _scores(metric: Metric, answers: Sequence[Any], sums: Sequence[Sums | None]) -> Scores:
    """`sums`: those of the examples that were completed, in order."""
    width = next((len(each) for each in sums if each is not None), 2)
    rows, applies = np.zeros((len(answers), width)), np.zeros(len(answers), dtype=bool)
    places = [place for place, answer in enumerate(answers) if answer is not None]
    for place, each in zip(places, sums, strict=True):
        if each is not None:
            rows[place], applies[place] = each, True
    return Scores(metric, rows, applies)


def _wilson(scores: Scores) -> Interval:
    return wilson_interval(round(scores.value * scores.count), scores.count)


def _interval(scores: Scores, resampled: Floats) -> Interval | None:
    """Where every example scores 0, or every one 1, of a fraction, the bootstrap would be sure of it."""
    found = percentile_interval(resampled)
    return _wilson(scores) if scores.metric.unit is FRACTION and found in ((0, 0), (1, 1)) else found


def _bootstrap_intervals(scores: Sequence[Scores]) -> dict[str, Interval | None]:
    found: dict[str, Interval | None] = {}
    for group in by_number([each for each in scores if len(each.applies) > 1], lambda each: len(each.applies)):
        resampled = resampled_sums(np.hstack([each.sums for each in group]))
        values = [each.metric.value(resampled[:, place]) for each, place in zip(group, columns(group), strict=True)]
        found |= {each.name: _interval(each, value) for each, value in zip(group, values, strict=True)}
    return found
