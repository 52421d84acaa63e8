"""What fine-tuning made worse on sets that it was not meant for, in sentences: forgetting, and changed refusals."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tunelab.evaluation.metrics import REGISTRY, Metric
from tunelab.evaluation.metrics.token_level import LOSS
from tunelab.evaluation.statistics import Verdict

RISE = 0.02  # of the loss, as a fraction of the base's, from which on it is worth a warning
MORE_DATA = "fewer steps, a lower rate, or such rows among the training data (data.mix) may help"


@dataclass(frozen=True, slots=True)
class Watched:
    """A metric whose worsening is worth a warning: what it is a sign of, its name in a sentence, and what may help."""

    sign: str
    name: str
    remedy: str = MORE_DATA


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


def regressions(name: str, found: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """A sentence for each watched metric of the set `name` that is significantly worse than the base's.

    `found`: `metrics` and `comparisons` as in summary.json; the keys are theirs. Of a set that asks for refusals only
    refusals are watched. A loss must have risen by RISE too: over many tokens every change is significant.
    """
    metrics, comparisons = found["metrics"], found.get("comparisons", {})
    watched = REFUSALS if f"{name}/refusal_rate" in comparisons else KNOWLEDGE
    return {
        f"{name}/{each}": _sentence(name, LOSS if each == "loss" else REGISTRY[each], about, found)
        for each, about in watched.items()
        if _is_worse(each, comparisons.get(f"{name}/{each}"), metrics.get(f"base/{name}/{each}"))
    }


def _is_worse(metric: str, comparison: Mapping[str, Any] | None, before: float | None) -> bool:
    if comparison is None or before is None or comparison["verdict"] != Verdict.WORSE:
        return False
    return metric != "loss" or comparison["change"] > RISE * before


def _sentence(name: str, metric: Metric, about: Watched, found: Mapping[str, Mapping[str, Any]]) -> str:
    key = f"{name}/{metric.name}"
    comparison = found["comparisons"][key]
    before, after, change = found["metrics"][f"base/{key}"], found["metrics"][key], comparison["change"]
    interval = ""
    if comparison["interval"]:
        low, high = (_figure(metric, bound, "+") for bound in comparison["interval"])
        interval = f", 95 % interval {low} to {high}"
    unit = metric.unit.symbol or f" {metric.unit.name}"
    return (
        f"{about.sign}: on {name} {about.name} {'rose' if change > 0 else 'fell'} from {_figure(metric, before)} to "
        f"{_figure(metric, after)}{unit} ({_figure(metric, change, '+')}{interval}; {comparison['count']} examples); "
        f"{about.remedy}."
    )


def _figure(metric: Metric, value: float, sign: str = "") -> str:
    """Per cent with one decimal, other values with four significant digits."""
    scaled = value * metric.unit.scale
    return f"{scaled:{sign}.1f}" if metric.unit.scale != 1 and math.isfinite(scaled) else f"{scaled:{sign}.4g}"
