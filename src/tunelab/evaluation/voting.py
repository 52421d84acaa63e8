"""Several samples of each example: pass@k and the majority vote, for the metrics that are right or wrong."""

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import replace
from math import comb

import numpy as np

from tunelab.evaluation.metrics import Answer, Metric
from tunelab.evaluation.scores import Scores

Samples = Sequence[Answer]  # of one example


def pass_at(num_samples: int, num_right: int, k: int) -> float:
    """The chance that one at least of k samples is right, without bias from n of which c are (Chen et al. 2021).

    1 - C(n - c, k) / C(n, k), for k from 1 to n.
    """
    return 1 - comb(num_samples - num_right, k) / comb(num_samples, k)


def majority(votes: Sequence[Hashable]) -> int | None:
    """The place of the first sample that gives the most frequent answer; of equally frequent ones, the earliest.

    Samples without an answer (None) do not vote; None where no sample has one.
    """
    counts = Counter(vote for vote in votes if vote is not None)
    return votes.index(max(counts, key=lambda vote: counts[vote])) if counts else None


def reported_k(num_samples: int) -> list[int]:
    """The k of pass@k that are reported: 1, 2, 4, … below the number of samples, and that number."""
    return [*(2**power for power in range(num_samples.bit_length()) if 2**power < num_samples), num_samples]


def score_samples(metrics: Sequence[Metric], samples: Sequence[Samples | None]) -> list[Scores]:
    """`<metric>/pass@k` and `<metric>/maj@n` of the metrics that have votes, for n samples of each example.

    `samples`: None where an example was not completed. A majority vote is right where the sample it chose is.
    """
    num_samples = next((len(each) for each in samples if each is not None), 1)
    if num_samples == 1:
        return []
    return [scores for metric in metrics if metric.vote for scores in _scores(metric, samples, num_samples)]


def _scores(metric: Metric, samples: Sequence[Samples | None], num_samples: int) -> list[Scores]:
    rights = [None if each is None else _rights(metric, each) for each in samples]
    scores: list[Scores] = []
    for k in reported_k(num_samples):
        chances = [None if each is None else pass_at(num_samples, sum(each), k) for each in rights]
        scores.append(_mean(_part(metric, f"pass@{k}", is_rate=False), chances))
    won = [
        None if each is None else _majority_is_right(metric, several or (), each)
        for several, each in zip(samples, rights, strict=True)
    ]
    return [*scores, _mean(_part(metric, f"maj@{num_samples}", is_rate=True), won)]


def _rights(metric: Metric, samples: Samples) -> list[bool] | None:
    """Which samples are right; None where the metric does not apply, which its reference decides."""
    sums = [metric.sums(answer) for answer in samples]
    return None if sums[0] is None else [each is not None and each[0] > 0 for each in sums]


def _majority_is_right(metric: Metric, samples: Samples, rights: Sequence[bool]) -> bool:
    assert metric.vote is not None
    place = majority([metric.vote(answer.completion) for answer in samples])
    return place is not None and rights[place]


def _mean(metric: Metric, values: Sequence[float | None]) -> Scores:
    """The scores of a mean: each value counts once, and where there is none nothing does."""
    sums = np.array([(0.0, 0.0) if value is None else (float(value), 1.0) for value in values])
    return Scores(metric, sums, np.array([value is not None for value in values]))


def _part(metric: Metric, name: str, is_rate: bool) -> Metric:
    label = f"  {name}"
    return replace(metric, name=f"{metric.name}/{name}", label=label, is_rate=is_rate, per_example=False, vote=None)
