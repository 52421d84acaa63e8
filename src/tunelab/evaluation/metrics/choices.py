"""Metrics of the choice that a model makes by likelihood among the possible answers of an example."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tunelab.evaluation.metrics.calibration import Belief, bins, expected_calibration_error
from tunelab.evaluation.metrics.registry import Chosen, Metric, Sums, choice_metric
from tunelab.evaluation.statistics import Floats

NEEDS = "choices that the model can score"


def chosen_place(chosen: Chosen) -> int:
    """The most likely choice; of equal ones the first."""
    return int(np.argmax(chosen.log_likelihoods))


def belief(chosen: Chosen) -> Belief:
    """The probability of the most likely choice among all of them (a softmax), and whether it is right."""
    scores = np.array(chosen.log_likelihoods)
    weights = np.exp(scores - scores.max())
    return Belief(float(1 / weights.sum()), chosen_place(chosen) == chosen.right)


@choice_metric("choice accuracy", is_rate=True, needs=NEEDS, auto=True)
def choice_accuracy(chosen: Chosen) -> bool:
    """The most likely choice is the right one (`acc` of lm-evaluation-harness)."""
    return chosen_place(chosen) == chosen.right


@choice_metric("choice accuracy, by length", is_rate=True, needs=NEEDS, auto=True)
def choice_accuracy_norm(chosen: Chosen) -> bool:
    """The choice of the highest log-likelihood per character is the right one (`acc_norm` of lm-evaluation-harness)."""
    by_length = [score / len(text) for score, text in zip(chosen.log_likelihoods, chosen.choices, strict=True)]
    return int(np.argmax(by_length)) == chosen.right


def macro_f1_value(sums: Floats) -> Floats:
    """Mean F1 over the classes that are right or chosen anywhere; sums (..., 2 x classes): 2 x hits, chosen + right."""
    doubled, total = np.split(sums, 2, axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(total > 0, doubled / total, 0).sum(axis=-1) / (total > 0).sum(axis=-1)


def _with_classes(metric: Metric, answers: Sequence[Chosen]) -> Metric | None:
    """Macro-F1 over the labels that all examples choose among; None where they choose among different ones."""
    classes = sorted(answers[0].choices) if answers else []
    if not classes or any(sorted(each.choices) != classes for each in answers):
        return None

    def score(chosen: Chosen) -> Sums:
        counts = np.zeros((2, len(classes)))
        found, expected = (classes.index(chosen.choices[place]) for place in (chosen_place(chosen), chosen.right))
        counts[1, found] += 1
        counts[1, expected] += 1
        counts[0, found] += 2 * (found == expected)
        return tuple(counts.ravel().tolist())

    return replace(metric, score=score)


@choice_metric(
    "choice macro-F1", needs="the same choices as all others", auto=True, per_example=False, value=macro_f1_value,
    fitted=_with_classes,
)  # fmt: skip
def choice_macro_f1(chosen: Chosen) -> None:
    """F1 of each label, averaged over labels with equal weight; where all examples have the same choices."""
    del chosen  # what is counted depends on all examples: see `_with_classes`


@choice_metric("choice Brier score", better=False, needs=NEEDS)
def choice_brier(chosen: Chosen) -> float:
    """(Probability of the chosen answer less 1 where it is right, 0 where it is wrong) squared (Brier 1950)."""
    return belief(chosen).squared_error


def _bins(answers: Sequence[Chosen]):  # the type is that of `bins`
    return bins([belief(chosen) for chosen in answers])


@choice_metric("choice calibration error", better=False, needs=NEEDS, per_example=False, table=_bins, is_overall=True)
def choice_calibration_error(answers: Sequence[Chosen]) -> float | None:
    """Expected calibration error of the chosen answer's probability."""
    return expected_calibration_error([belief(chosen) for chosen in answers])
