"""What lm-evaluation-harness found, as scores of single documents: intervals, tests and tables as of any metric."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from tunelab.atomic import write_text
from tunelab.evaluation.evaluating import SplitEvaluation
from tunelab.evaluation.metrics.registry import FRACTION, Metric, Unit, Value, ratio
from tunelab.evaluation.scores import Scores, estimates
from tunelab.evaluation.statistics import Floats

NO_UNIT = Unit("", 0, math.inf)
NOT_METRICS = ("name", "alias", "sample_len", "sample_count")
NO_FILTER = "none"


def minus_exponential(sums: Floats) -> Floats:
    """Perplexity: exp of minus the ratio of log-likelihoods and words, bytes or documents."""
    with np.errstate(over="ignore"):
        return np.exp(-ratio(sums))


def bits(sums: Floats) -> Floats:
    """Bits per byte: minus the ratio of log-likelihoods and bytes, in bits."""
    return -ratio(sums) / math.log(2)


# What lm-eval makes of the values of documents, where that is a function of sums.
AGGREGATIONS: tuple[Value, ...] = (ratio, minus_exponential, bits)


@dataclass(frozen=True, slots=True)
class Column:
    """One metric of one task or group: the value of each document (None: it has none), and what lm-eval makes of them.

    `key`: `acc`, or `exact_match,strict-match` behind a filter.
    """

    task: str
    key: str
    values: tuple[Any, ...]
    aggregate: float
    better: bool | None

    def scores(self) -> Scores:
        """The same as sums of documents where those give lm-eval's value, else as a value of all of them at once."""
        rows = [_sums(value) for value in self.values]
        applies = np.array([row is not None for row in rows], dtype=bool)
        sums = np.array([row or (0.0, 0.0) for row in rows]).reshape(-1, 2)
        value = self._aggregation(sums.sum(axis=0))
        if value is None:
            metric = self._metric(overall=lambda _: self.aggregate)
            return Scores(metric, np.zeros((len(rows), 0)), applies, self.aggregate)
        is_mean = value is ratio and bool((sums[applies, 1] == 1).all())
        numbers = sums[applies, 0]
        is_rate = is_mean and bool(np.isin(numbers, (0, 1)).all())
        is_fraction = is_mean and bool(((numbers >= 0) & (numbers <= 1)).all())
        metric = self._metric(value=value, is_rate=is_rate, unit=FRACTION if is_fraction else NO_UNIT)
        return Scores(metric, sums, applies)

    def _aggregation(self, total: Floats) -> Value | None:
        for value in AGGREGATIONS:
            if math.isclose(float(value(total)), self.aggregate, rel_tol=1e-6, abs_tol=1e-9):
                return value
        return None

    def _metric(self, unit: Unit = NO_UNIT, **properties: Any) -> Metric:
        return Metric(f"{self.task}/{self.key}", f"{self.task} {self.key}", unit, better=self.better, **properties)


@dataclass(frozen=True, slots=True)
class TaskResults:
    """What one model got: a column for each metric; `signatures`: task → what makes its figures.

    `samples`: every document, with `id` (`<task>:<number>`), what was asked, what came back, and its scores.
    """

    columns: tuple[Column, ...]
    samples: tuple[dict[str, Any], ...]
    signatures: dict[str, str]

    @classmethod
    def read(cls, found: Mapping[str, Any], how: str) -> "TaskResults":
        """From the dictionary that `lm_eval.evaluator.evaluate` returns; `how` ends the signatures."""
        subtasks: dict[str, list[str]] = found.get("group_subtasks", {})
        documents = {task: _by_filter(samples) for task, samples in found["samples"].items()}
        columns: list[Column] = []
        for name, results in found["results"].items():
            better: Mapping[str, bool | None] = found["higher_is_better"].get(name) or {}
            tasks = _leaves(name, subtasks)
            for key, aggregate in results.items():
                metric, _, chosen = key.partition(",")
                if key in NOT_METRICS or metric.endswith("_stderr") or not isinstance(aggregate, Real):
                    continue
                rows = [row for task in tasks for row in documents[task].get(chosen, ())]
                spelled = metric if chosen in (NO_FILTER, "") else key
                values = tuple(row.get(metric) for row in rows)
                columns.append(Column(name, spelled, values, float(aggregate), better.get(metric)))
        samples = [_sample(task, row) for task, rows in found["samples"].items() for row in rows]
        shots: Mapping[str, Any] = found.get("n-shot", {})
        signatures = {
            task: f"lm_eval:{version('lm_eval')}|version:{found['versions'].get(task)}|shots:{shots.get(task, 0)}|{how}"
            for task in found["results"]
        }
        return cls(tuple(columns), tuple(samples), signatures)

    def evaluation(self, num_cut: int) -> SplitEvaluation:
        """As of a split, whose metrics are named `<task>/<metric>`; `num_cut` requests lost their beginning."""
        scores = [column.scores() for column in self.columns]
        found = estimates(scores)
        counts = {"num_examples": float(len({sample["id"] for sample in self.samples}))}
        counts |= {"num_cut_requests": float(num_cut)} if num_cut else {}
        return SplitEvaluation(
            metrics=counts | {name: each.value for name, each in found.items()},
            predictions=[],
            scores=scores,
            estimates=found,
            signatures=self.signatures,
            documents=self.samples,
        )


def write_documents(path: Path, documents: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Write one JSON object a line for each (model, document, filter): what was asked, what came back, its scores."""
    rows = [{"model": model, **sample} for model, found in documents.items() for sample in found]
    write_text(path, "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows))


def _leaves(name: str, subtasks: Mapping[str, Sequence[str]]) -> list[str]:
    """The tasks of a group, those of the groups in it too; a task itself."""
    return [leaf for each in subtasks[name] for leaf in _leaves(each, subtasks)] if name in subtasks else [name]


def _by_filter(samples: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for sample in samples:
        found.setdefault(sample["filter"], []).append(sample)
    return found


def _sums(value: Any) -> tuple[float, float] | None:
    """A number counts once; a pair is a sum and its weight."""
    if isinstance(value, Real):
        return float(value), 1.0
    if isinstance(value, (tuple, list)) and len(value) == 2 and all(isinstance(each, Real) for each in value):
        return float(value[0]), float(value[1])
    return None


def _sample(task: str, row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": f"{task}:{row['doc_id']}",
        "asked": row["arguments"],
        "target": row["target"],
        "responses": row["filtered_resps"],
        "filter": row["filter"],
        "scores": {name: row[name] for name in row["metrics"]},
    }
