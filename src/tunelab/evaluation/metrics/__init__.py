"""The metrics: each is a function of one answer; importing this package registers them, in the order of the table."""

from tunelab.evaluation.metrics import matching  # noqa: I001 (the order of the rows)
from tunelab.evaluation.metrics import fields, overlap, translation, bert, refusals, writing
from tunelab.evaluation.metrics import calibration, choices, copying
from tunelab.evaluation.metrics.registry import (
    REGISTRY,
    Answer,
    Chosen,
    Metric,
    Sums,
    Unit,
    check_metrics,
    chosen_choice_metrics,
    chosen_metrics,
)

__all__ = [
    "REGISTRY",
    "Answer",
    "Chosen",
    "Metric",
    "Sums",
    "Unit",
    "bert",
    "calibration",
    "check_metrics",
    "choices",
    "chosen_choice_metrics",
    "chosen_metrics",
    "copying",
    "fields",
    "matching",
    "overlap",
    "refusals",
    "translation",
    "writing",
]
