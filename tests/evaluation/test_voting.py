import itertools
import random

import numpy as np
import pytest

from tunelab.config import EvaluationConfig
from tunelab.errors import ConfigError
from tunelab.evaluation.metrics import Answer, chosen_metrics
from tunelab.evaluation.scores import Scores
from tunelab.evaluation.voting import majority, pass_at, reported_k, score_samples


@pytest.mark.parametrize(("num_samples", "num_right"), [(1, 0), (1, 1), (5, 0), (5, 2), (6, 6), (7, 3)])
def test_pass_at_k_counts_the_draws_of_k_samples(num_samples: int, num_right: int):
    rights = [True] * num_right + [False] * (num_samples - num_right)
    for k in range(1, num_samples + 1):
        draws = list(itertools.combinations(rights, k))
        assert pass_at(num_samples, num_right, k) == pytest.approx(sum(map(any, draws)) / len(draws), abs=1e-12)


def test_pass_at_k_as_published():
    """Chen et al. 2021, figure 3: 1 - prod(1 - k / arange(n - c + 1, n + 1))."""
    for n, c, k in [(200, 13, 1), (200, 13, 10), (200, 13, 100), (100, 99, 2)]:
        published = 1.0 if n - c < k else 1.0 - np.prod(1.0 - k / np.arange(n - c + 1, n + 1))
        assert pass_at(n, c, k) == pytest.approx(published, rel=1e-12)


@pytest.mark.parametrize(
    ("votes", "place"),
    [
        (["a", "b", "b"], 1),
        (["a", "b"], 0),
        ([None, "b", None, None], 1),
        ([None, None], None),
        (["c", "a", "a", "c"], 0),
    ],
)
def test_majority(votes: list[str | None], place: int | None):
    assert majority(votes) == place


def test_which_k_are_reported():
    assert [reported_k(n) for n in (2, 3, 8, 10)] == [[1, 2], [1, 2, 3], [1, 2, 4, 8], [1, 2, 4, 8, 10]]


def scores_of(metric: str, reference: str, *samples: list[str] | None, **config) -> dict[str, Scores]:
    metrics = chosen_metrics(EvaluationConfig(metrics=[metric], **config), [reference])
    answers = [each and [Answer(completion, reference) for completion in each] for each in samples]
    return {scores.name: scores for scores in score_samples(metrics, answers)}


def test_a_vote_is_on_the_answer_and_not_on_the_text():
    written = ["So 7. #### 7", "I say 8. #### 8", "3 + 4 = 7, then #### 7.0", "8, surely"]
    found = scores_of("numeric_match", "#### 7", written, None, ["no idea"] * 4)
    assert {name: scores.value for name, scores in found.items()} == pytest.approx({
        "numeric_match/pass@1": 0.25, "numeric_match/pass@2": (1 - 1 / 6) / 2, "numeric_match/pass@4": 0.5,
        "numeric_match/maj@4": 0.5,
    })  # fmt: skip
    assert found["numeric_match/maj@4"].applies.tolist() == [True, False, True]
    assert found["numeric_match/maj@4"].metric.is_rate


def test_json_answers_are_counted_as_values():
    written = ['{"a": 1, "b": [2]}', '{"b":[2.0],"a":1}', '{"a": true, "b": [2]}', "x"]
    found = scores_of("exact_match", '{"a": 1, "b": [2]}', written)
    assert found["exact_match/maj@4"].value == 1
    assert found["exact_match/pass@1"].value == 0.5


def test_a_pattern_votes_with_what_it_finds():
    found = scores_of(
        "regex_match", "answer: B", ["answer: A", "so answer: B", "B", "answer: B!"], regex=r"answer: (\w)"
    )
    assert found["regex_match/maj@4"].value == 1


def test_a_metric_that_does_not_apply_has_no_votes():
    found = scores_of("numeric_match", "no number", ["1", "2"])
    assert not any(scores.applies.any() for scores in found.values())


def test_one_sample_needs_no_vote():
    assert scores_of("exact_match", "a", ["a"]) == {}


def test_pass_at_1_is_the_mean_over_samples():
    rng = random.Random(0)
    samples = [[rng.choice("ab") for _ in range(5)] for _ in range(20)]
    found = scores_of("exact_match", "a", *samples)["exact_match/pass@1"].value
    assert found == pytest.approx(np.mean([[text == "a" for text in each] for each in samples]))


def test_several_greedy_completions_are_refused():
    with pytest.raises(ConfigError, match=r"evaluation\.num_samples: expected 1 .* set evaluation\.temperature=0\.8"):
        EvaluationConfig(num_samples=4)


@pytest.mark.parametrize(("key", "value"), [("top_p", 0.9), ("top_k", 5), ("seed", 1)])
def test_settings_of_draws_without_draws(key: str, value: float):
    with pytest.raises(
        ConfigError, match=rf"evaluation\.{key}: expected .* for greedy .* set evaluation\.temperature=0"
    ):
        EvaluationConfig(**{key: value})


@pytest.mark.parametrize("key", ["temperature", "top_p", "top_k", "seed", "num_samples"])
def test_settings_out_of_range(key: str):
    with pytest.raises(ConfigError, match=rf"evaluation\.{key}: expected"):
        EvaluationConfig(**{"temperature": 1.0, key: -1})
