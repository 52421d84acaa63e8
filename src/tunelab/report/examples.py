"""The other source of noise: which examples were in the test split. Two configurations on the same examples, paired.

Seeds and examples answer different questions. A test over seeds asks whether another training run would say the same,
on these examples; a test over examples whether other examples would, for these very runs.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tunelab.evaluation.statistics import (
    Interval,
    percentile_interval,
    permutation_p_value,
    resampled_sums,
    swapped_sums,
)
from tunelab.report.grouping import Group
from tunelab.report.metrics import Metric
from tunelab.report.reading import Run, read_lines

_Key = tuple[str, str, str, int]  # id, prompt, reference, and which of those that are alike
Scores = Mapping[_Key, float]


@dataclass(frozen=True, slots=True)
class OverExamples:
    """One configuration less another by the mean score of `count` examples, averaged over each one's runs.

    Paired bootstrap interval (95 %), and the p-value of a paired permutation test.
    """

    change: float
    count: int
    interval: Interval | None
    p_value: float


def score_name(metric: Metric) -> str | None:
    """Under which name predictions.jsonl may hold the metric of each example; None for other splits than test."""
    split, _, name = metric.name.partition("/")
    return name if split == "test" and "/" not in name else None


def read_scores(group: Group, name: str) -> Scores:
    """The mean score of each example over the runs of a group; empty where a run has none."""
    found = [_scores(run, name) for run in group.runs]
    shared = set(found[0]).intersection(*found[1:])
    return {key: sum(scores[key] for scores in found) / len(found) for key in found[0] if key in shared}


def compare_examples(first: Scores, second: Scores) -> OverExamples | None:
    """The second less the first on the examples of both; None for fewer than two."""
    keys = [key for key in first if key in second]
    if len(keys) < 2:
        return None
    before, after = (np.array([[scores[key]] for key in keys]) for scores in (first, second))
    change = float((after - before).mean())
    sums, is_exact = swapped_sums(before, after)
    total = float((before + after).sum())
    p_value = permutation_p_value(change, (total - 2 * sums[:, 0]) / len(keys), is_exact)
    resampled = resampled_sums(after - before)[:, 0] / len(keys)
    return OverExamples(change, len(keys), percentile_interval(resampled), p_value)


def _scores(run: Run, name: str) -> dict[_Key, float]:
    seen: Counter[tuple[str, ...]] = Counter()
    found: dict[_Key, float] = {}
    for record in read_lines(run.folder / "predictions.jsonl", having='"model": "tuned"'):
        value = record.get("scores", {}).get(name)
        place = (str(record.get("id")), str(record.get("prompt")), str(record.get("reference")))
        seen[place] += 1
        if record.get("model") == "tuned" and value is not None:
            found[(*place, seen[place])] = float(value)
    return found
