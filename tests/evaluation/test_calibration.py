import math

import numpy as np
import pytest
import torch
from architectures import make, make_prompts, run

from tunelab.config import EvaluationConfig
from tunelab.evaluation.metrics import Answer, Chosen, chosen_choice_metrics, chosen_metrics
from tunelab.evaluation.metrics.calibration import Belief, bins, expected_calibration_error
from tunelab.evaluation.scores import score_answers


def test_the_error_of_ten_bins_by_a_plain_loop():
    rng = np.random.default_rng(3)
    probabilities = rng.random(200)
    rights = rng.random(200) < probabilities**2
    order = np.argsort(probabilities)
    expected = 0.0
    for part in np.split(order, 10):
        expected += len(part) / 200 * abs(probabilities[part].mean() - rights[part].mean())
    beliefs = [Belief(float(p), bool(r)) for p, r in zip(probabilities, rights, strict=True)]
    assert expected_calibration_error(beliefs) == pytest.approx(expected, rel=1e-12)
    table = bins(beliefs)
    assert [each["count"] for each in table] == [20] * 10
    assert sum(each["count"] * each["accuracy"] for each in table) == pytest.approx(rights.sum())


def test_equal_probabilities_share_a_bin():
    beliefs = [Belief(0.5, place % 2 == 0) for place in range(40)]
    assert bins(beliefs) == [{"count": 40, "probability": 0.5, "accuracy": 0.5}]
    assert expected_calibration_error(beliefs) == 0
    reordered = sorted(beliefs, key=lambda belief: belief.is_right)
    assert bins(reordered) == bins(beliefs)


def test_few_answers_and_none():
    assert expected_calibration_error([Belief(0.8, True), Belief(0.6, False)]) == pytest.approx((0.2 + 0.6) / 2)
    assert expected_calibration_error([]) is None


def test_a_completions_probability_is_that_of_its_tokens_and_its_end():
    model, prompts = make(), make_prompts(12)
    scored = run(model, prompts, scored=True)
    assert [each.token_ids for each in scored] == [each.token_ids for each in run(model, prompts)]
    for prompt, done in zip(prompts, scored, strict=True):
        ends = (7, 11, 13)
        ids = torch.tensor([prompt + done.token_ids])
        logits = model.eval()(input_ids=ids).logits[0].detach().log_softmax(-1)
        total = sum(float(logits[place - 1, ids[0, place]]) for place in range(len(prompt), ids.shape[1]))
        if done.finished:
            total += max(float(logits[-1, end]) for end in ends)
        assert done.log_probability == pytest.approx(total, rel=1e-10)


def test_of_completions():
    answers = [Answer("a", "a", log_probability=math.log(0.9)), Answer("b", "a", log_probability=math.log(0.4)), None]
    metrics = chosen_metrics(EvaluationConfig(metrics=["brier", "calibration_error"]), ["a"])
    found = {scores.name: scores for scores in score_answers(metrics, answers)}
    assert found["brier"].value == pytest.approx((0.1**2 + 0.4**2) / 2)
    assert found["calibration_error"].value == pytest.approx((0.1 + 0.4) / 2)
    sampled = score_answers(metrics, [Answer("a", "a")])
    assert all(math.isnan(scores.value) for scores in sampled)


def test_of_choices():
    answers = [
        Chosen(("a", "b", "c"), (math.log(0.2), math.log(0.1), math.log(0.1)), 0),
        Chosen(("a", "b"), (-1.0, -1.0), 1),
    ]
    metrics = chosen_choice_metrics(EvaluationConfig(metrics=["choice_brier", "choice_calibration_error"]))
    found = {scores.name: scores for scores in score_answers(metrics, answers)}
    assert found["choice_brier"].value == pytest.approx((0.5**2 + 0.5**2) / 2)
    assert found["choice_calibration_error"].value == pytest.approx(0)  # both are as sure as they are right, together
