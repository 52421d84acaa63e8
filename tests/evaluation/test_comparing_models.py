import json

import numpy as np
import pytest
import scipy.stats

from tunelab.errors import DataError
from tunelab.evaluation.comparing import Comparison, compare, compare_models
from tunelab.evaluation.metrics import REGISTRY, Answer
from tunelab.evaluation.metrics.token_level import token_level_scores
from tunelab.evaluation.scores import Scores, estimates, score_answers, spread
from tunelab.evaluation.statistics import Verdict


def loss_scores(nll: np.ndarray, tokens: np.ndarray) -> list[Scores]:
    return token_level_scores(np.stack([nll, tokens, tokens / 2], axis=1))


def answer_scores(names: list[str], completions: list[str], references: list[str]) -> list[Scores]:
    answers = [Answer(c, r, num_tokens=len(c)) for c, r in zip(completions, references, strict=True)]
    return score_answers([REGISTRY[name] for name in names], answers)


@pytest.fixture
def tokens() -> np.ndarray:
    return np.random.default_rng(0).integers(1, 60, 200).astype(float)


def test_two_of_a_kind_are_not_distinguishable(tokens: np.ndarray):
    rng = np.random.default_rng(1)
    base, other = (loss_scores(tokens * (1 + rng.normal(0, 0.2, 200)), tokens) for _ in range(2))
    found = compare(base, other)["loss"]
    assert found.verdict is Verdict.NOT_DISTINGUISHABLE
    assert found.interval[0] < 0 < found.interval[1]
    assert compare(base, base)["loss"].p_value == 1


def test_a_lower_loss_is_better(tokens: np.ndarray):
    noise = np.random.default_rng(1).normal(0, 0.2, 200)
    found = compare(loss_scores(tokens * (1 + noise), tokens), loss_scores(tokens * (0.9 + noise), tokens))
    assert found["loss"].change == pytest.approx(-0.1)
    assert {name: each.verdict for name, each in found.items()} == {
        "loss": Verdict.BETTER, "perplexity": Verdict.BETTER, "token_accuracy": Verdict.NOT_DISTINGUISHABLE,
    }  # fmt: skip
    # The models share what is easy and hard: each interval is wide, that of the change has almost no width.
    own, change = estimates(loss_scores(tokens * (1 + noise), tokens))["loss"].interval, found["loss"].interval
    assert own[1] - own[0] > 0.03
    assert change == pytest.approx((-0.1, -0.1), abs=1e-9)


def test_examples_are_drawn_not_tokens():
    # One long example carries the whole change: by tokens it would be certain, by examples it is not.
    tokens = np.array([1000.0, *[10.0] * 19])
    base, tuned = loss_scores(tokens * 1.0, tokens), loss_scores(np.array([500.0, *[10.0] * 19]), tokens)
    found = compare(base, tuned)["loss"]
    assert found.change == pytest.approx(-500 / 1190)
    assert found.verdict is Verdict.NOT_DISTINGUISHABLE
    assert found.p_value > 0.9  # the one exchange that matters is always as large
    assert found.interval == pytest.approx((-0.47, 0), abs=0.06)


def test_a_mean_is_compared_as_scipy_compares_it():
    rng = np.random.default_rng(2)
    references = ["a b c d e f"] * 11
    texts = [[" ".join(rng.choice(list("abcdefgh"), 5)) for _ in references] for _ in range(2)]
    first, second = (answer_scores(["token_f1"], each, references) for each in texts)
    found = compare(first, second)["token_f1"]
    values = [scores[0].sums[:, 0] for scores in (first, second)]
    expected = scipy.stats.permutation_test(
        values[::-1], lambda a, b, axis: (a - b).mean(axis), permutation_type="samples", vectorized=True,
        n_resamples=np.inf,
    )  # fmt: skip
    difference = values[1] - values[0]
    assert found.p_value == pytest.approx(expected.pvalue, abs=1e-12)
    assert found.change == pytest.approx(difference.mean())
    assert found.effect_size == pytest.approx(difference.mean() / difference.std(ddof=1))


def test_rates_by_mcnemar():
    references = ["x"] * 12
    first = answer_scores(["exact_match"], ["x"] * 3 + ["y"] * 9, references)
    second = answer_scores(["exact_match"], ["y"] + ["x"] * 10 + ["y"], references)
    found = compare(first, second)["exact_match"]
    assert found.test == "exact McNemar"
    assert found.p_value == scipy.stats.binomtest(1, 9).pvalue
    assert found.p_value_holm == found.p_value
    assert found.verdict is Verdict.BETTER


def test_holm_is_over_what_can_be_better():
    references = ["x"] * 12
    names = ["exact_match", "token_f1", "length_tokens"]
    first = answer_scores(names, ["x"] * 3 + ["y"] * 9, references)
    second = answer_scores(names, ["y"] + ["x"] * 10 + ["yy"], references)
    found = compare(first, second)
    assert found["exact_match"].p_value_holm == pytest.approx(2 * found["exact_match"].p_value)
    assert (found["length_tokens"].p_value_holm, found["length_tokens"].verdict) == (None, None)
    assert found["length_tokens"].p_value == 1


def test_what_has_no_test():
    first, second = (answer_scores(["distinct_1", "bleu"], texts, ["a b"] * 2) for texts in (["a a", "b"], ["a", "b"]))
    found = compare(first, second)
    assert found["distinct_1"] == Comparison(change=pytest.approx(1 / 3), count=2)
    assert found["bleu"].effect_size is None
    assert compare(answer_scores(["bleu"], ["a"], ["a"]), answer_scores(["bleu"], ["b"], ["a"]))["bleu"].verdict is None


def test_a_loss_beyond_numbers_is_not_judged():
    tokens = np.ones(30)
    found = compare(loss_scores(tokens * 1e4, tokens), loss_scores(tokens * 2e4, tokens))
    assert found["perplexity"].verdict is None
    assert found["loss"].verdict is Verdict.WORSE


def test_the_same_twice(tokens: np.ndarray):
    base, tuned = loss_scores(tokens, tokens), loss_scores(tokens**0.99, tokens)
    first, second = compare(base, tuned), compare(base, tuned)
    assert first == second
    assert json.loads(json.dumps(first["loss"].to_dict()))["verdict"] == "better"


def test_other_examples_are_refused(tokens: np.ndarray):
    base = loss_scores(tokens, tokens)
    with pytest.raises(DataError, match="loss: expected scores of two models on the same examples"):
        compare(base, loss_scores(tokens[1:], tokens[1:]))
    with pytest.raises(DataError, match="same examples"):
        compare(base, loss_scores(tokens, np.where(np.arange(200) == 3, 0, tokens)))


def holm_by_hand(p_values: list[float]) -> list[float]:
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    found, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        found[index] = largest
    return found


def test_holm_is_over_all_models_against_the_reference_and_apart_over_the_others(tokens: np.ndarray):
    rng = np.random.default_rng(3)
    models = {
        name: loss_scores(tokens * (level + rng.normal(0, 0.2, 200)), tokens)
        for name, level in (("a", 1.0), ("base", 1.02), ("b", 0.93), ("c", 1.01))
    }
    found = compare_models(models, "base")
    assert list(found) == [("a", "base"), ("b", "base"), ("c", "base"), ("b", "a"), ("c", "a"), ("c", "b")]
    for family in (list(found)[:3], list(found)[3:]):
        tested = [each for duel in family for each in found[duel].values()]
        assert [each.p_value_holm for each in tested] == pytest.approx(holm_by_hand([each.p_value for each in tested]))
    [alone] = compare_models({name: models[name] for name in ("base", "b")}, "base").values()
    assert alone == compare(models["base"], models["b"])
    assert found["b", "base"]["loss"].change == alone["loss"].change
    assert found["b", "base"]["loss"].p_value_holm > alone["loss"].p_value_holm


def test_models_are_compared_on_the_examples_of_both(tokens: np.ndarray):
    rng = np.random.default_rng(4)
    kept = np.arange(200) % 5 > 0
    first, second = (tokens * (level + rng.normal(0, 0.2, 200)) for level in (1.0, 0.9))
    some = [spread(each, kept) for each in loss_scores(second[kept], tokens[kept])]
    [found] = compare_models({"base": loss_scores(first, tokens), "some": some}, "base").values()
    assert found["loss"].count == 160
    assert found["loss"].change == pytest.approx((second[kept] - first[kept]).sum() / tokens[kept].sum())
    alone = compare(loss_scores(first[kept], tokens[kept]), loss_scores(second[kept], tokens[kept]))
    assert found["loss"].verdict is alone["loss"].verdict is Verdict.BETTER
    texts = ["a b", "b a", "a a"]
    whole, part = (answer_scores(["distinct_1"], texts[:n], texts[:n]) for n in (3, 2))
    part = [spread(each, np.array([True, False, True])) for each in part]
    assert compare_models({"base": whole, "part": part}, "base")["part", "base"] == {}  # no sum over examples
    with pytest.raises(DataError, match="same examples"):
        compare_models({"base": whole, "part": answer_scores(["distinct_1"], texts[:2], texts[:2])[:1]}, "base")
