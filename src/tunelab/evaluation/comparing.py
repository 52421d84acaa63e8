"""Models on the same examples, two by two: the change of each metric, its interval, a test, and a plain verdict."""

import itertools
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
    for all comparisons made with it. What does not apply is None: an interval or a test of fewer than two examples, a
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
        DataError: the examples are not the same ones.
    """
    [found] = _with_verdicts([_compared(first, second)])
    return found


Duel = tuple[str, str]  # a model, and the one that it is compared with


def compare_models(models: Mapping[str, Sequence[Scores]], reference: str) -> dict[Duel, dict[str, Comparison]]:
    """Compare each model with each other one: (model, with which) → the former less the latter.

    All are measured on the same examples in the same order. Where a metric applies to an example for one of two models
    alone, both are compared on the others. Holm's adjustment is over all comparisons with `reference`, and over all of
    the other ones: nobody pays in the first for the second. Of the others the later model is compared with the earlier.

    Raises:
        DataError: the numbers of examples differ.
    """
    others = [name for name in models if name != reference]
    families: list[list[Duel]] = [
        [(name, reference) for name in others],
        [(later, earlier) for earlier, later in itertools.combinations(others, 2)],
    ]
    result: dict[Duel, dict[str, Comparison]] = {}
    for duels in families:
        compared = [_compared(*_on_shared(models[before], models[after])) for after, before in duels]
        result |= dict(zip(duels, _with_verdicts(compared), strict=True))
    return result


def _on_shared(first: Sequence[Scores], second: Sequence[Scores]) -> tuple[list[Scores], list[Scores]]:
    """Both, metric by metric, on the examples that each applies to for both.

    A metric of all answers at once stays where the answers are to the same examples, and is left out elsewhere.
    """
    by_name = {scores.name: scores for scores in second}
    pairs = [(scores, by_name[scores.name]) for scores in first if scores.name in by_name]
    pairs = [pair for pair in pairs if not _is_overall(*pair) or _have_the_same(*pair)]
    found = [pair if _have_the_same(*pair) else _restricted(*pair) for pair in pairs]
    return [before for before, _ in found], [after for _, after in found]


def _is_overall(first: Scores, second: Scores) -> bool:
    """Whether one of the two is no sum over examples."""
    return first.metric.overall is not None or second.metric.overall is not None


def _have_the_same(first: Scores, second: Scores) -> bool:
    """Whether they apply to the same examples; of different numbers of examples nothing can be told here."""
    return len(first.applies) != len(second.applies) or bool((first.applies == second.applies).all())


def _restricted(first: Scores, second: Scores) -> tuple[Scores, Scores]:
    both = first.applies & second.applies
    before, after = (
        replace(each, applies=both, sums=np.where(both[:, None], each.sums, 0.0)) for each in (first, second)
    )
    return before, after


Pairs = Sequence[tuple[Scores, Scores]]
_Compared = tuple[Pairs, dict[str, Comparison]]


def _compared(first: Sequence[Scores], second: Sequence[Scores]) -> _Compared:
    """Without verdicts, which depend on what else is tested."""
    by_name = {scores.name: scores for scores in second}
    pairs = [(scores, by_name[scores.name]) for scores in first if scores.name in by_name]
    pairs = [pair for pair in pairs if _is_paired(*pair)]
    comparisons = {a.name: Comparison(change=b.value - a.value, count=a.count) for a, b in pairs}
    resampled = [pair for pair in pairs if not _is_overall(*pair) and len(pair[0].applies) > 1]
    for group in by_number(resampled, lambda pair: len(pair[0].applies)):
        comparisons |= _with_intervals(group, comparisons)
        comparisons |= _with_tests(group, comparisons)
    return pairs, comparisons


def _is_paired(first: Scores, second: Scores) -> bool:
    """Whether there is anything to compare; raises where the examples are not the same."""
    if len(first.applies) != len(second.applies) or not (_is_overall(first, second) or _have_the_same(first, second)):
        raise DataError(
            f"{first.name}: expected scores of two models on the same examples, found {first.count} and {second.count} "
            "scored examples that are not the same; measure both models on one split."
        )
    return not math.isnan(first.value) and not math.isnan(second.value)


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


def _with_verdicts(compared: Sequence[_Compared]) -> list[dict[str, Comparison]]:
    """Holm's adjustment is over the metrics that can be better or worse, of all that are `compared`."""
    result = [dict(comparisons) for _, comparisons in compared]
    better = [{scores.name: scores.metric.better for scores, _ in pairs} for pairs, _ in compared]
    tested = [
        (number, name, found.p_value)
        for number, comparisons in enumerate(result)
        for name, found in comparisons.items()
        if found.p_value is not None and better[number][name] is not None
    ]
    adjusted = holm([p_value for *_, p_value in tested])
    for (number, name, _), p_value in zip(tested, adjusted, strict=True):
        found = result[number][name]
        verdict = verdict_of(found.change, p_value, bool(better[number][name]))
        result[number][name] = replace(found, p_value_holm=p_value, verdict=verdict)
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
