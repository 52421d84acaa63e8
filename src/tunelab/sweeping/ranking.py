"""Which job of a sweep is the best so far."""

import math
from collections.abc import Mapping

from tunelab.report.metrics import metric_of
from tunelab.sweeping.folder import Outcome

USUAL = ("test/exact_match", "test/loss")
TIE_BREAKER = "test/loss"


def shown_metric(outcomes: Mapping[str, Outcome], wanted: str | None) -> str | None:
    """The metric to compare by: `wanted`, or the first of the usual ones that a job has."""
    if wanted is not None:
        return wanted
    known = {name for outcome in outcomes.values() for name in outcome.metrics or {}}
    return next((name for name in USUAL if name in known), None)


def best_job(outcomes: Mapping[str, Outcome], wanted: str | None) -> tuple[str, float] | None:
    """The id and the value of the best job, of equal ones that with the lower loss; None where none has the metric."""
    metric = shown_metric(outcomes, wanted)
    if metric is None or metric.rpartition("/")[2].startswith("num_"):
        return None
    sign = {True: -1, False: 1, None: None}[metric_of(metric).better]
    values = {job: each for job, outcome in outcomes.items() if (each := _finite(outcome, metric)) is not None}
    if sign is None or not values:
        return None
    loss = {job: _finite(outcomes[job], TIE_BREAKER) for job in values}
    order = {job: (sign * value, math.inf if (tie := loss[job]) is None else tie) for job, value in values.items()}
    best = min(values, key=lambda job: order[job])
    return best, values[best]


def _finite(outcome: Outcome, metric: str) -> float | None:
    value = (outcome.metrics or {}).get(metric)
    return value if value is not None and math.isfinite(value) else None
