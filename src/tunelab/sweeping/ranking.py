"""Which configuration of a sweep is the best so far: by its mean over seeds, of validations unless told otherwise."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

from tunelab.report.formatting import plural
from tunelab.report.metrics import metric_of
from tunelab.sweeping.folder import Outcome, Status
from tunelab.sweeping.jobs import Job

OF_THE_TEST = ("test/exact_match", "test/loss")  # shown where nothing is validated; nothing is the best by them


@dataclass(frozen=True, slots=True)
class Ranking:
    """By what the jobs of a sweep are compared.

    `metric`: as `sweep.metric`; None: the figure of validations by which a run keeps its weights. `names_best`: whether
    one of them is to be the best; repeats of one run do not compete.
    """

    metric: str | None = None
    names_best: bool = True

    def shown(self, jobs: Mapping[str, Job], outcomes: Mapping[str, Outcome]) -> str | None:
        """The metric that is shown of each job, one of the test split where nothing is validated; None: there is none.

        `jobs` and `outcomes`: by id.
        """
        if self.metric is not None:
            return self.metric
        known = {name for outcome in outcomes.values() for name in outcome.metrics or {}}
        return next((name for name in (_monitored(jobs), *OF_THE_TEST) if name in known), None)

    def best(self, jobs: Mapping[str, Job], outcomes: Mapping[str, Outcome]) -> str | None:
        """The configuration with the best mean over its seeds, in words; None where there are not two to compare.

        A configuration counts when all its seeds have finished with a number. Nothing is the best by the test split
        unless that was asked for: who chooses by it has no test left.
        """
        metric = self.metric or _monitored(jobs)
        if not self.names_best or metric is None or metric.rpartition("/")[2].startswith("num_"):
            return None
        values, better = _by_configuration(jobs, outcomes, metric), metric_of(metric).better
        means = {name: fmean(found) for name, found in values.items()}
        if better is None or len(means) < 2:
            return None
        best = (max if better else min)(means.values())
        first, *others = [name for name, mean in means.items() if mean == best]
        equal = f" ({plural(len(others), 'other')} equal)" if others else ""
        return f"{best_said(metric, best, len(values[first]))}: {first}{equal}"


def best_said(metric: str, value: float, num_seeds: int) -> str:
    """`best val/loss 0.0123, mean of 3 seeds`."""
    return f"best {metric} {value:.4g}, {f'mean of {num_seeds} seeds' if num_seeds > 1 else 'one seed'}"


def _monitored(jobs: Mapping[str, Job]) -> str | None:
    """The figure by which all jobs keep their weights; None where they differ in it."""
    names = {job.config.trainer.monitor for job in jobs.values()}
    return names.pop() if len(names) == 1 else None


def _by_configuration(jobs: Mapping[str, Job], outcomes: Mapping[str, Outcome], metric: str) -> dict[str, list[float]]:
    """The values of all seeds, for the configurations that have them."""
    found: dict[str, list[float | None]] = {}
    for name, job in jobs.items():
        found.setdefault(job.configuration, []).append(_value(outcomes.get(name), metric))
    whole = {name: [value for value in values if value is not None] for name, values in found.items()}
    return {name: values for name, values in whole.items() if len(values) == len(found[name])}


def _value(outcome: Outcome | None, metric: str) -> float | None:
    if outcome is None or outcome.status is not Status.finished:
        return None
    value = (outcome.metrics or {}).get(metric)
    return value if value is not None and math.isfinite(value) else None
