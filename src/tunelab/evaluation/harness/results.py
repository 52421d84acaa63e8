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
from tunelab.strict_json import finite

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


# lm-eval's names of what it makes of the values of documents, where that is a function of sums.
AGGREGATIONS: dict[str, Value] = {
    "mean": ratio,
    "weighted_mean": ratio,
    "perplexity": minus_exponential,
    "weighted_perplexity": minus_exponential,
    "bits_per_byte": bits,
}


@dataclass(frozen=True, slots=True)
class Column:
    """One metric of one task or group: the value of each document (None: it has none), and what lm-eval makes of them.

    `key`: `acc`, or `exact_match,strict-match` behind a filter. `aggregation`: lm-eval's name of how it makes the
    aggregate, None where the tasks of a group differ in it.
    """

    task: str
    key: str
    values: tuple[Any, ...]
    aggregate: float
    better: bool | None
    aggregation: str | None = "mean"

    def scores(self) -> Scores:
        """The same as sums of documents where those give lm-eval's value, else as a value of all of them at once."""
        applies = np.array([value is not None for value in self.values], dtype=bool)
        value, sums = AGGREGATIONS.get(self.aggregation or ""), self._sums()
        if value is None or sums is None or not self._is_given_by(value, sums):
            metric = self._metric(overall=lambda _: self.aggregate)
            return Scores(metric, np.zeros((len(applies), 0)), applies, self.aggregate)
        is_mean = value is ratio and bool((sums[applies, 1] == 1).all())
        numbers = sums[applies, 0]
        is_rate = is_mean and bool(np.isin(numbers, (0, 1)).all())
        is_fraction = is_mean and bool(((numbers >= 0) & (numbers <= 1)).all())
        metric = self._metric(value=value, is_rate=is_rate, unit=FRACTION if is_fraction else NO_UNIT)
        return Scores(metric, sums, applies)

    def _sums(self) -> Floats | None:
        """(documents, 2), zeros where a document has no value; None where a value is something else than sums."""
        rows = [(0.0, 0.0) if value is None else _sums(value) for value in self.values]
        known = [row for row in rows if row is not None]
        return np.array(known).reshape(-1, 2) if len(known) == len(rows) else None

    def _is_given_by(self, value: Value, sums: Floats) -> bool:
        """A group may weigh its tasks, not their documents."""
        return math.isclose(float(value(sums.sum(axis=0))), self.aggregate, rel_tol=1e-6, abs_tol=1e-9)

    def _metric(self, unit: Unit = NO_UNIT, **properties: Any) -> Metric:
        return Metric(f"{self.task}/{self.key}", f"{self.task} {self.key}", unit, better=self.better, **properties)


Aggregations = Mapping[str, Mapping[str, str]]  # task → metric → lm-eval's name of how it makes the aggregate


@dataclass(frozen=True, slots=True)
class TaskResults:
    """What one model got: a column for each metric; `signatures`: task → what makes its figures.

    `samples`: every document, with `id` (`<task>:<number>`), what was asked, what came back, and its scores.
    """

    columns: tuple[Column, ...]
    samples: tuple[dict[str, Any], ...]
    signatures: dict[str, str]

    @classmethod
    def read(cls, found: Mapping[str, Any], aggregations: Aggregations, how: str) -> "TaskResults":
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
                ways = {aggregations[task].get(metric, "mean") for task in tasks}
                way = ways.pop() if len(ways) == 1 else None
                columns.append(Column(name, spelled, values, float(aggregate), better.get(metric), way))
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
    rows = [finite({"model": model, **sample}) for model, found in documents.items() for sample in found]
    lines = [json.dumps(row, ensure_ascii=False, allow_nan=False, default=str) + "\n" for row in rows]
    write_text(path, "".join(lines))


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
    if isinstance(value, (Real, np.bool_)):
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
