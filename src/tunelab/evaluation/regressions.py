"""What fine-tuning made worse on sets that it was not meant for, in sentences: forgetting, and changed refusals."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tunelab.evaluation.metrics import REGISTRY, Metric
from tunelab.evaluation.metrics.token_level import LOSS
from tunelab.evaluation.reporting import BASE, TUNED, key_prefix
from tunelab.evaluation.statistics import Verdict

RISE = 0.02  # of the loss, as a fraction of the base's, from which on it is worth a warning
MORE_DATA = "fewer steps, a lower rate, or such rows among the training data (data.mix) may help"


@dataclass(frozen=True, slots=True)
class Watched:
    """A metric whose worsening is worth a warning: what it is a sign of, and its name in a sentence."""

    sign: str
    name: str


REFUSALS = {
    "refusal_rate": Watched("fewer refusals", "the share refused of what should be"),
    "over_refusal_rate": Watched("over-refusal", "the share refused of what is harmless"),
}
KNOWLEDGE = {
    "loss": Watched("forgetting", "the loss"),
    **{
        name: Watched("forgetting", REGISTRY[name].label)
        for name in ("choice_accuracy", "numeric_match", "exact_match", "normalized_exact_match")
    },
}


def regressions(
    name: str, found: Mapping[str, Mapping[str, Any]], model: str = TUNED, first: str = TUNED
) -> dict[str, str]:
    """A sentence for each watched metric of the set `name` by which `model` is significantly worse than the base.

    `found`: `metrics` and `comparisons` as in summary.json, where the `first` model has the bare keys; those of the
    sentences are the model's. Nothing can be said without a comparison with the base. Of a set that asks for refusals
    only refusals are watched. A loss must have risen by RISE too: over many tokens every change is significant.
    """
    comparisons, prefix = found.get("comparisons", {}), key_prefix(model, name, first)
    watched = REFUSALS if f"{prefix}/refusal_rate" in comparisons else KNOWLEDGE
    sentences: dict[str, str] = {}
    for metric, about in watched.items():
        comparison, before = comparisons.get(f"{prefix}/{metric}"), found["metrics"].get(f"{BASE}/{name}/{metric}")
        if comparison is not None and before is not None and _is_worse(metric, comparison, before):
            who = "" if model == TUNED else f" of {model}"
            values = before, found["metrics"][f"{prefix}/{metric}"]
            said = _sentence(LOSS if metric == "loss" else REGISTRY[metric], about.name, comparison, values)
            sentences[f"{prefix}/{metric}"] = f"{about.sign}{who}: on {name} {said}; {MORE_DATA}."
    return sentences


def _is_worse(metric: str, comparison: Mapping[str, Any], before: float) -> bool:
    return comparison["verdict"] == Verdict.WORSE and (metric != "loss" or comparison["change"] > RISE * before)


def _sentence(metric: Metric, name: str, comparison: Mapping[str, Any], values: tuple[float, float]) -> str:
    """How `name` changed, from the first of the values to the second."""
    before, after = (_figure(metric, value) for value in values)
    change, interval = comparison["change"], ""
    if comparison["interval"]:
        low, high = (_figure(metric, bound, "+") for bound in comparison["interval"])
        interval = f", 95 % interval {low} to {high}"
    unit = metric.unit.symbol or f" {metric.unit.name}"
    return (
        f"{name} {'rose' if change > 0 else 'fell'} from {before} to {after}{unit} ({_figure(metric, change, '+')}"
        f"{interval}; {comparison['count']} examples)"
    )


def _figure(metric: Metric, value: float, sign: str = "") -> str:
    """Per cent with one decimal, other values with four significant digits."""
    scaled = value * metric.unit.scale
    return f"{scaled:{sign}.1f}" if metric.unit.scale != 1 and math.isfinite(scaled) else f"{scaled:{sign}.4g}"
