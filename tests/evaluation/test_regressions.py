"""What got worse on an extra set, in sentences."""

from typing import Any

import numpy as np
import pytest

from tunelab.evaluation.comparing import compare, compare_models
from tunelab.evaluation.evaluating import SplitEvaluation
from tunelab.evaluation.metrics import REGISTRY, Answer
from tunelab.evaluation.metrics.token_level import LOSS
from tunelab.evaluation.regressions import regressions
from tunelab.evaluation.reporting import results as results_of
from tunelab.evaluation.scores import Scores, estimates, score_answers

REFUSAL, ANSWER = "I can't help with that.", "Stir, then wait."


def results(name: str, tuned: SplitEvaluation, base: SplitEvaluation | None = None) -> dict[str, dict[str, Any]]:
    models = {"base": base, "tuned": tuned} if base else {"tuned": tuned}
    compared = {("tuned", "base"): compare(base.scores, tuned.scores)} if base else {}
    return results_of(name, models, compared, "tuned")


def evaluated(scores: list[Scores]) -> SplitEvaluation:
    found = estimates(scores)
    return SplitEvaluation({name: each.value for name, each in found.items()}, [], scores, found)


def losses(rise: float) -> SplitEvaluation:
    """Forty examples of ten tokens, the loss 2 with some noise, raised by a factor."""
    nll = 20 + np.random.default_rng(0).standard_normal(40)
    sums = np.stack([nll * (1 + rise), np.full(40, 10.0)], axis=1)
    return evaluated([Scores(LOSS, sums, np.ones(40, dtype=bool))])


@pytest.mark.parametrize(("rise", "warns"), [(0.3, True), (0.03, True), (0.01, False), (0.0, False), (-0.3, False)])
def test_a_loss_that_rose_by_more_than_a_fiftieth_is_forgetting(rise: float, warns: bool):
    found = results("general", losses(rise), losses(0))
    if rise:
        assert found["comparisons"]["general/loss"]["p_value"] < 0.01  # every one of them is significant
    said = regressions("general", found)
    assert list(said) == (["general/loss"] if warns else [])
    if rise == 0.3:
        before, after = found["metrics"]["base/general/loss"], found["metrics"]["general/loss"]
        figures = f"from {before:.4g} to {after:.4g} nats/token (+{after - before:.4g}, "
        assert said["general/loss"].startswith(f"forgetting: on general the loss rose {figures}")
        assert "; 40 examples); fewer steps" in said["general/loss"]


def answered(num_refused_harmful: int, num_refused_benign: int) -> SplitEvaluation:
    answers = [Answer(REFUSAL if n < num_refused_harmful else ANSWER, REFUSAL) for n in range(20)]
    answers += [Answer(REFUSAL if n < num_refused_benign else ANSWER, ANSWER) for n in range(20)]
    metrics = [REGISTRY[name] for name in ("exact_match", "refusal_rate", "over_refusal_rate")]
    return evaluated(score_answers(metrics, answers))


def test_refusals_that_were_lost_and_refusals_that_came():
    lost = regressions("safety", results("safety", answered(2, 0), answered(18, 0)))
    assert list(lost) == ["safety/refusal_rate"]
    assert lost["safety/refusal_rate"].startswith(
        "fewer refusals: on safety the share refused of what should be fell from 90.0 to 10.0 % (-80.0, 95 % interval -"
    )
    came = regressions("safety", results("safety", answered(18, 15), answered(18, 1)))
    assert list(came) == ["safety/over_refusal_rate"]
    assert "rose from 5.0 to 75.0 % (+70.0, 95 % interval +" in came["safety/over_refusal_rate"]
    assert regressions("safety", results("safety", answered(18, 1), answered(17, 1))) == {}


def test_answers_that_are_no_longer_right_are_forgetting():
    right = [Answer("4", "4")] * 20
    wrong = [Answer("5", "4")] * 20
    metrics = [REGISTRY["exact_match"]]
    found = results("sums", evaluated(score_answers(metrics, wrong)), evaluated(score_answers(metrics, right)))
    assert "forgetting: on sums exact match fell from 100.0 to 0.0 %" in regressions("sums", found)["sums/exact_match"]


def test_without_the_base_nothing_can_be_said():
    assert regressions("general", results("general", losses(0.3))) == {}


def test_of_several_models_each_that_got_worse_is_named():
    models = {"base": losses(0), "gentle": losses(0.001), "harsh": losses(0.3), "harsher": losses(0.4)}
    for reference in ("base", "gentle"):
        compared = compare_models({name: each.scores for name, each in models.items()}, reference)
        found = results_of("general", models, compared, "gentle")
        said = {name: regressions("general", found, name, "gentle") for name in models}
        assert said["base"] == said["gentle"] == {}
        assert said["harsh"]["harsh/general/loss"].startswith("forgetting of harsh: on general the loss rose from ")
        assert list(said["harsher"]) == ["harsher/general/loss"]
