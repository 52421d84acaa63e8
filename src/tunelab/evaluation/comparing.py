"""Two models on the same examples: the change of each metric, its interval, a test, and a plain verdict."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from tunelab.errors import DataError
from tunelab.evaluation.metrics.registry import ratio
from tunelab.evaluation.scores import Scores, by_number, columns
from tunelab.evaluation.statistics import (
    Floats,
    Interval,
    Verdict,
    effect_size,
    holm,
    mcnemar_p_value,
    paired_rate_interval,
    percentile_interval,
    permutation_p_value,
    resampled_sums,
    swapped_sums,
    verdict_of,
)

MCNEMAR = "exact McNemar"
PERMUTATION = "paired permutation"


@dataclass(frozen=True, slots=True)
class Comparison:
    """The second model less the first, by one metric, on the `count` examples it applies to.

    `interval`: 95 %, by the paired bootstrap, of rates by Newcombe's method. `effect_size`: Cohen's d_z of the paired
    differences, where the metric is a mean or a ratio of sums. `p_value` of `test`, two-sided; `p_value_holm`: adjusted
    for all metrics compared with it. What does not apply is None: an interval or a test of fewer than two examples, a
    verdict where higher is neither better nor worse.
    """

    change: float
    count: int
    interval: Interval | None = None
    effect_size: float | None = None
    test: str | None = None
    p_value: float | None = None
    p_value_holm: float | None = None
    verdict: Verdict | None = None

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON can hold them."""
        return asdict(self)


def compare(first: Sequence[Scores], second: Sequence[Scores]) -> dict[str, Comparison]:
    """Compare two models, metric by metric, on the metrics that both have.

    Each metric's scores are for the same examples in the same order; those of another metric may be for others.

    Raises:
        DataError: they are for different numbers of examples, or a metric applies to different ones.
    """
    by_name = {scores.name: scores for scores in second}
    pairs = [(scores, by_name[scores.name]) for scores in first if scores.name in by_name]
    pairs = [pair for pair in pairs if _is_paired(*pair)]
    comparisons = {a.name: Comparison(change=b.value - a.value, count=a.count) for a, b in pairs}
    resampled = [pair for pair in pairs if pair[0].overall is None and len(pair[0].applies) > 1]
    for group in by_number(resampled, lambda pair: len(pair[0].applies)):
        comparisons |= _with_intervals(group, comparisons)
        comparisons |= _with_tests(group, comparisons)
    return _with_verdicts(pairs, comparisons)


def _is_paired(first: Scores, second: Scores) -> bool:
    """Whether there is anything to compare; raises where the examples are not the same."""
    is_overall = first.metric.overall is not None
    if len(first.applies) != len(second.applies) or (not is_overall and (first.applies != second.applies).any()):
        raise DataError(
            f"{first.name}: expected scores of two models on the same examples, found {first.count} and {second.count} "
            "scored examples that are not the same; measure both models on one split."
        )
    return not math.isnan(first.value) and not math.isnan(second.value)


Pairs = Sequence[tuple[Scores, Scores]]


def _side_by_side(pairs: Pairs, of: int) -> Floats:
    return np.hstack([pair[of].sums for pair in pairs])


def _with_intervals(pairs: Pairs, comparisons: Mapping[str, Comparison]) -> dict[str, Comparison]:
    """Both models are in each draw with the same examples; what is easy or hard for both cancels."""
    before, after = _side_by_side(pairs, 0), _side_by_side(pairs, 1)
    sums = resampled_sums(np.hstack([before, after]))
    width = before.shape[1]
    result: dict[str, Comparison] = {}
    for (scores, other), place in zip(pairs, columns([a for a, _ in pairs]), strict=True):
        value = scores.metric.value
        if _are_rates(scores, other):
            interval = _rate_interval(scores, other)
        else:
            changes = _difference(value(sums[:, width:][:, place]), value(sums[:, :width][:, place]))
            interval = percentile_interval(changes)
        result[scores.name] = replace(comparisons[scores.name], interval=interval, effect_size=_effect(scores, other))
    return result


def _are_rates(first: Scores, second: Scores) -> bool:
    return first.metric.is_rate and second.metric.is_rate


def _rate_interval(first: Scores, second: Scores) -> Interval:
    before, after = (scores.sums[first.applies, 0] > 0 for scores in (first, second))
    tables = (before & after, before & ~after, ~before & after, ~before & ~after)
    return paired_rate_interval(*(int(table.sum()) for table in tables))


def _with_tests(pairs: Pairs, comparisons: Mapping[str, Comparison]) -> dict[str, Comparison]:
    before, after = _side_by_side(pairs, 0), _side_by_side(pairs, 1)
    sums, is_exact = swapped_sums(before, after)
    total = before.sum(axis=0) + after.sum(axis=0)
    result: dict[str, Comparison] = {}
    for (scores, other), place in zip(pairs, columns([a for a, _ in pairs]), strict=True):
        value, found = scores.metric.value, comparisons[scores.name]
        if _are_rates(scores, other):
            difference = (other.sums - scores.sums)[:, 0]
            p_value = mcnemar_p_value(int((difference < 0).sum()), int((difference > 0).sum()))
            result[scores.name] = replace(found, test=MCNEMAR, p_value=p_value)
        elif math.isfinite(found.change):
            exchanged = _difference(value((total - sums)[:, place]), value(sums[:, place]))
            p_value = permutation_p_value(found.change, exchanged, is_exact)
            result[scores.name] = replace(found, test=PERMUTATION, p_value=p_value)
    return result


def _with_verdicts(pairs: Pairs, comparisons: Mapping[str, Comparison]) -> dict[str, Comparison]:
    """Holm's adjustment is over the metrics that can be better or worse."""
    better = {scores.name: scores.metric.better for scores, _ in pairs}
    tested = {
        name: found.p_value
        for name, found in comparisons.items()
        if found.p_value is not None and better[name] is not None
    }
    result = dict(comparisons)
    for name, adjusted in zip(tested, holm(list(tested.values())), strict=True):
        found = comparisons[name]
        verdict = verdict_of(found.change, adjusted, bool(better[name]))
        result[name] = replace(found, p_value_holm=adjusted, verdict=verdict)
    return result


def _difference(second: Floats, first: Floats) -> Floats:
    with np.errstate(invalid="ignore"):  # of two infinities
        return second - first


def _effect(first: Scores, second: Scores) -> float | None:
    """d_z, from the examples' contributions: their mean is the metric, so a mean's are the scores themselves."""
    if first.metric.value is not ratio:
        return None
    differences = _contributions(second) - _contributions(first)
    return effect_size(differences[first.applies])


def _contributions(scores: Scores) -> Floats:
    """The ratio plus each example's residual over the mean weight (the ratio linearised, Cochran 1977)."""
    numerators, weights = scores.sums[:, 0], scores.sums[:, 1]
    value = scores.value
    return value + (numerators - value * weights) / weights[scores.applies].mean()
