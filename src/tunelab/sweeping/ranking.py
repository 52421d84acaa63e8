"""Which job of a sweep is the best so far."""

import math
from collections.abc import Mapping

from tunelab.sweeping.folder import Outcome

USUAL = ("test/exact_match", "test/loss")
# As the metrics themselves say (evaluation/metrics), which a sweep does not import: they need torch. A test compares.
LOWER_IS_BETTER = (
    "loss",
    "perplexity",
    "edit_distance",
    "over_refusal_rate",
    "truncated_fraction",
    "empty_fraction",
    "brier",
    "calibration_error",
    "choice_brier",
    "choice_calibration_error",
)
NEITHER = (
    "length_tokens",
    "distinct_1",
    "distinct_2",
    "copied_fraction",
    "copied_share",
)


def shown_metric(outcomes: Mapping[str, Outcome], wanted: str | None) -> str | None:
    """The metric to compare by: `wanted`, or the first of the usual ones that a job has."""
    if wanted is not None:
        return wanted
    known = {name for outcome in outcomes.values() for name in outcome.metrics or {}}
    return next((name for name in USUAL if name in known), None)


def best_job(outcomes: Mapping[str, Outcome], wanted: str | None) -> tuple[str, float] | None:
    """The id and the value of the best job; None where none has the metric, or none is better by it."""
    metric = shown_metric(outcomes, wanted)
    name = (metric or "").partition("/")[2].partition("/")[0]
    if not metric or name in NEITHER or name.startswith("num_"):
        return None
    found = {job: (outcome.metrics or {}).get(metric) for job, outcome in outcomes.items()}
    values = {job: value for job, value in found.items() if value is not None and math.isfinite(value)}
    if not values:
        return None
    best = (min if name in LOWER_IS_BETTER else max)(values, key=lambda job: values[job])
    return best, values[best]
