"""What a report knows of a metric: whether higher is better, how it is shown, and which ones a table has.

The metrics' own registry imports torch, which takes longer than a whole report: a test keeps this list equal to it.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tunelab.errors import ConfigError, DataError
from tunelab.report.reading import Run
from tunelab.suggesting import did_you_mean

_LOWER = (
    *("loss", "perplexity", "edit_distance", "over_refusal_rate", "truncated_fraction", "empty_fraction", "brier"),
    *("calibration_error", "choice_brier", "choice_calibration_error"),
)
_NEITHER = ("length_tokens", "distinct_1", "distinct_2", "copied_fraction", "copied_share")
_HIGHER = (
    *("exact_match", "choice_accuracy", "normalized_exact_match", "numeric_match", "regex_match", "json_valid"),
    *("field_f1", "token_f1", "jaccard", "rouge1", "rouge2", "rougeL", "bleu", "chrf", "bert_score"),
    *("refusal_rate", "finished_fraction", "choice_accuracy_norm", "choice_macro_f1", "token_accuracy"),
)
KINDS = (*_HIGHER, *_LOWER)  # metrics of tunelab's own that can be better or worse
_NO_FRACTIONS = ("loss", "perplexity", "length_tokens", "bleu", "chrf")
_RANKED = (*_HIGHER[:2], "field_f1", "numeric_match", "token_f1", "choice_macro_f1", "rougeL", "chrf", "loss")
_MAX_COLUMNS = 4
BEST_VALIDATION = "best_val_loss"  # from summary.json, where no split was measured


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric of the report. `better`: True where higher is, False where lower is, None where neither."""

    name: str  # as in summary.json: test/exact_match
    better: bool | None
    is_known: bool = True

    @property
    def kind(self) -> str:
        """The name without the split: `test/field_f1/date` is a field_f1."""
        return _kind(self.name)

    @property
    def is_fraction(self) -> bool:
        """Whether it is a share of something."""
        return self.is_known and self.kind not in _NO_FRACTIONS

    @property
    def scale(self) -> float:
        """By which it is shown: fractions as per cent."""
        return 100.0 if self.is_fraction else 1.0

    @property
    def plain(self) -> str:
        """For people: `test exact match`."""
        return " ".join(self.name.replace("/", " ").replace("_", " ").split())

    @property
    def unit(self) -> str:
        """In which it is shown; empty for none."""
        return {"loss": "nats/token"}.get(self.kind, "%" if self.scale == 100 else "")

    @property
    def label(self) -> str:
        """With its unit: `test exact match (%)`."""
        return f"{self.plain} ({self.unit})" if self.unit else self.plain

    @property
    def arrow(self) -> str:
        """Which way is better."""
        return {True: "↑", False: "↓", None: ""}[self.better]

    @property
    def axis(self) -> str:
        """For the axis of a figure."""
        return self.label + {True: ", higher is better", False: ", lower is better", None: ""}[self.better]

    def sign(self) -> int:
        """1 where higher is better (or neither is), -1 where lower is."""
        return -1 if self.better is False else 1


def metric_of(name: str, lower_is_better: Sequence[str] = ()) -> Metric:
    """What is known of a metric by its name; of an unknown one higher is taken as better unless it is listed."""
    kind = _kind(name)
    if name in lower_is_better or kind in lower_is_better:
        return Metric(name, better=False, is_known=kind in (*_LOWER, *_NEITHER, *_HIGHER))
    if kind in _NEITHER:
        return Metric(name, better=None)
    return Metric(name, better=kind not in _LOWER, is_known=kind in (*_LOWER, *_HIGHER))


def values_of(run: Run) -> dict[str, float]:
    """The metrics of the tuned model that a report can show: finite numbers, counts and the base model left out."""
    measured = {
        name: value
        for name, value in run.metrics.items()
        if not name.startswith("base/") and not _last(name).startswith("num_") and math.isfinite(value)
    }
    overfitting = run.facts.get("overfitting")
    best = overfitting.get(BEST_VALIDATION) if isinstance(overfitting, Mapping) else None
    return {**measured, "val/loss": float(best)} if best is not None else measured


def choose_metrics(
    measured: Sequence[Mapping[str, float]], asked: Sequence[str], lower_is_better: Sequence[str]
) -> list[Metric]:
    """The columns of the table, the first of which decides the order: those asked for, or some that all runs have.

    Raises:
        DataError: the runs share no metric.
        ConfigError: a metric was asked for that no run has, or the first has no direction.
    """
    known = list(dict.fromkeys(name for values in measured for name in values))
    for key, names in (("metrics", asked), ("lower_is_better", [name for name in lower_is_better if "/" in name])):
        unknown = [name for name in names if name not in known]
        if unknown:
            hint = did_you_mean(unknown[0], known) or f"; they have {', '.join(known) or 'none'}."
            raise ConfigError(f"{key}: expected metrics of the runs, found {unknown[0]!r}, which none has{hint}")
    shared = [name for name in known if all(name in values for values in measured)]
    if not shared:
        raise DataError(
            "runs: expected runs of one task, with a metric that all of them have, found none in common (some have "
            f"{', '.join(list(measured[0])[:3]) or 'none'}, others {', '.join(list(measured[-1])[:3]) or 'none'}); "
            "report on them apart."
        )
    metrics = [metric_of(name, lower_is_better) for name in list(asked) or _usual(shared, measured)]
    if metrics[0].better is None:
        raise ConfigError(
            f"metrics: expected one first that has a better and a worse, found {metrics[0].name}; set "
            f"metrics=[<another>,{metrics[0].name}]."
        )
    return metrics


def _usual(shared: Sequence[str], measured: Sequence[Mapping[str, float]]) -> list[str]:
    """Of the first split that was measured: the main metrics, then the loss; last what is the same in all runs."""
    split = next((split for split in ("test", "validation", "val") if any(_split(n) == split for n in shared)), None)
    candidates = [name for name in shared if split is None or _split(name) == split]
    directed = [name for name in candidates if metric_of(name).better is not None]
    ranked = [name for kind in _RANKED for name in candidates if _last(name) == kind and name.count("/") == 1]
    chosen = (ranked or directed or candidates)[:_MAX_COLUMNS]
    return sorted(chosen, key=lambda name: len({values[name] for values in measured}) == 1)


def directions(metrics: Iterable[Metric]) -> list[str]:
    """What is to be said of metrics that are not tunelab's own."""
    return [
        f"{metric.name} is no metric of tunelab: {'higher' if metric.better else 'lower'} is taken as better "
        "(lower_is_better=[…] says otherwise)"
        for metric in metrics
        if not metric.is_known
    ]


def _split(name: str) -> str:
    return name.partition("/")[0]


def _last(name: str) -> str:
    return name.rpartition("/")[2]


def _kind(name: str) -> str:
    parts = name.split("/")
    return next((part for part in parts[1:] if part in (*_LOWER, *_NEITHER, *_HIGHER)), parts[-1])
