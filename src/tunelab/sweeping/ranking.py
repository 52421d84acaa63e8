"""Which job of a sweep is the best so far."""

import math
from collections.abc import Mapping

from tunelab.sweeping.folder import Outcome

USUAL = ("test/exact_match", "test/loss", "val/loss")
LOWER_IS_BETTER = ("loss", "perplexity", "error", "ter", "ece", "brier")  # by the last part of the name


def shown_metric(outcomes: Mapping[str, Outcome], wanted: str | None) -> str | None:
    """The metric to compare by: `wanted`, or the first of the usual ones that a job has."""
    if wanted is not None:
        return wanted
    known = {name for outcome in outcomes.values() for name in outcome.metrics or {}}
    return next((name for name in USUAL if name in known), None)


def best_job(outcomes: Mapping[str, Outcome], wanted: str | None) -> tuple[str, float] | None:
    """The id and the value of the best job; None where none has the metric."""
    metric = shown_metric(outcomes, wanted)
    found = {name: (outcome.metrics or {}).get(metric) for name, outcome in outcomes.items()} if metric else {}
    values = {name: value for name, value in found.items() if value is not None and math.isfinite(value)}
    if not values or metric is None:
        return None
    lower = any(word in metric.rpartition("/")[2] for word in LOWER_IS_BETTER)
    name = (min if lower else max)(values, key=lambda each: values[each])
    return name, values[name]
