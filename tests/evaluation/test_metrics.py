import itertools
import math
from collections import Counter
from decimal import Decimal

import numpy as np
import pytest
from sacrebleu.metrics import BLEU, CHRF
from torchmetrics.functional.text import edit_distance as character_edits

from tunelab.config import EvaluationConfig
from tunelab.errors import ConfigError
from tunelab.evaluation.metrics import REGISTRY, Answer, check_metrics, chosen_metrics
from tunelab.evaluation.metrics.matching import final_number, normalise_answer
from tunelab.evaluation.metrics.translation import bleu_value
from tunelab.evaluation.scores import estimates, score_answers
from tunelab.evaluation.statistics import wilson_interval

PROSE = [
    ("the cat sat on the mat", "The cat sat on a mat."),
    ("a quick brown fox, it jumps", "The quick brown fox jumps over the lazy dog"),
    ("", "nothing at all was said"),
    ("Grüße aus Köln!", "Viele Grüße aus Köln"),
    ("yes", "no"),
    ("x", ""),
]

COMPLETION_METRICS = {name: each for name, each in REGISTRY.items() if not each.of_choices and not each.configured}


def value_of(name: str, *pairs: tuple[str, str], **config) -> float:
    metric = next(m for m in chosen_metrics(EvaluationConfig(metrics=[name], **config), []) if m.name == name)
    return score_answers([metric], [Answer(*pair) for pair in pairs])[0].value


# --- one answer ---------------------------------------------------------------------------------------------------


def test_normalisation_of_squad():
    assert normalise_answer(" The  Beatles' an-swer, a\tday. ") == "beatles answer day"
    assert value_of("normalized_exact_match", ("The Paris.", "paris"), ("Lyon", "paris")) == 0.5


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("So she has 5 left.\n#### 1,234", "1234"),
        ("#### $18.50 per day, for 3 days", "18.5"),
        ("first 7, then 42.", "42"),
        ("it is -3", "-3"),
        ("10-3 apples", "3"),  # behind a digit it is no sign
        ("−4 degrees", "-4"),
        ("costs €1,000,000.00!", "1000000"),
        ("#### 5 #### 6", "6"),
        ("1e3", "1000"),
        (".5", "0.5"),
        ("#### none, though 4 was near", "4"),
        ("5 #### ?", None),
        ("no number", None),
        ("x86 v2", None),  # part of a word
        ("9e999999999999999999999", None),
    ],
)
def test_final_number(text: str, number: str | None):
    assert final_number(text) == (None if number is None else Decimal(number))


def test_numeric_match():
    assert value_of("numeric_match", ("The answer is $72.00", "48/2 = 24\n#### 72"), ("71", "#### 72")) == 0.5
    scores = score_answers([REGISTRY["numeric_match"]], [Answer("7", "no number"), Answer("7", "#### 7")])[0]
    assert (scores.value, scores.count) == (1.0, 1)


def test_regex_match():
    pattern = r"answer is (\w+)"
    pairs = [("The answer is B. No, the answer is C.", "the answer is C"), ("answer is B", " B "), ("B", "B")]
    assert [value_of("regex_match", pair, regex=pattern) for pair in pairs] == [1, 1, 0]
    assert value_of("regex_match", ("so 4 2", "42"), ("so 42", "x 42"), regex=r"\d+") == 0.5
    assert value_of("regex_match", ("b", "b"), regex="(a)|b") == 0  # a group that took no part finds nothing


def test_token_f1_and_jaccard_by_hand():
    # words: cat sat on mat | cat sat on mat on → shared 4 of 4 and 5
    assert value_of("token_f1", ("the cat sat on the mat", "cat sat on a mat on")) == pytest.approx(8 / 9)
    assert value_of("jaccard", ("the cat sat", "A cat ran, ran")) == pytest.approx(1 / 3)
    assert [value_of(name, ("the", "")) for name in ("token_f1", "jaccard")] == [1, 1]
    assert [value_of(name, ("", "cat")) for name in ("token_f1", "jaccard")] == [0, 0]


@pytest.mark.parametrize("name", ["rouge1", "rouge2", "rougeL"])
def test_rouge_has_no_value_where_it_would_make_no_words(name: str):
    assert math.isnan(value_of(name, ("привет мир как дела", "привет мир как дела")))  # torchmetrics says 0
    assert math.isnan(value_of(name, ("今天天气 2", "今天天气 2")))
    assert value_of(name, ("größe über straße", "größe über straße")) == 1


@pytest.mark.parametrize("name", ["normalized_exact_match", "token_f1", "jaccard"])
def test_what_normalising_leaves_nothing_of_is_not_compared(name: str):
    assert math.isnan(value_of(name, ("!?", "->"), ("B", "A")))  # an empty text would be the same as either
    assert value_of(name, ("!?", "->"), ("b", "B")) == 1


def rouge_n(found: list[str], expected: list[str], size: int) -> float:
    first, second = (
        Counter(zip(*(words[start:] for start in range(size)), strict=False)) for words in (found, expected)
    )
    return 2 * (first & second).total() / max(1, first.total() + second.total())


def rouge_l(found: list[str], expected: list[str]) -> float:
    for size in range(len(found), 0, -1):
        for kept in itertools.combinations(found, size):
            rest = iter(expected)
            if all(word in rest for word in kept):
                return 2 * size / (len(found) + len(expected))
    return 0.0


def test_rouge_by_plain_counting():
    pair = ("police killed the gunman last night", "the gunman police killed was last seen")
    found, expected = (text.split() for text in pair)
    assert value_of("rouge1", pair) == pytest.approx(rouge_n(found, expected, 1))
    assert value_of("rouge2", pair) == pytest.approx(rouge_n(found, expected, 2))
    assert value_of("rougeL", pair) == pytest.approx(rouge_l(found, expected))


@pytest.mark.parametrize("pair", [*PROSE, ("kitten", "sitting"), ("ab" * 40, "ba" * 37 + "c")])
def test_edit_distance_is_that_of_torchmetrics(pair: tuple[str, str]):
    expected = float(character_edits([pair[0]], [pair[1]], reduction="sum")) / max(len(pair[0]), len(pair[1]))
    assert value_of("edit_distance", pair) == pytest.approx(expected)
    assert value_of("edit_distance", ("", "")) == 0


def test_how_a_model_writes():
    answers = [Answer("a b a", "", 3, True), Answer(" ", "", 9, False)]
    found = {name: score_answers([REGISTRY[name]], answers)[0].value for name in COMPLETION_METRICS}
    expected = {
        "finished_fraction": 0.5, "truncated_fraction": 0.5, "empty_fraction": 0.5, "length_tokens": 6,
        "distinct_1": 2 / 3, "distinct_2": 1,
    }  # fmt: skip
    assert {name: found[name] for name in expected} == expected


# --- the whole set ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, len(PROSE)])
def test_bleu_and_chrf_are_those_of_sacrebleu(size: int):
    for start in range(len(PROSE)):
        pairs = [PROSE[(start + place) % len(PROSE)] for place in range(size)]
        hypotheses, references = [pair[0] for pair in pairs], [[pair[1] for pair in pairs]]
        for name, scorer in (("bleu", BLEU()), ("chrf", CHRF())):
            assert value_of(name, *pairs) == pytest.approx(scorer.corpus_score(hypotheses, references).score, abs=1e-9)
            assert REGISTRY[name].signature() == str(scorer.get_signature())


def test_bleu_smoothing_is_that_of_sacrebleu():
    rng = np.random.default_rng(0)
    totals = np.sort(rng.integers(1, 40, (200, 4)))[:, ::-1]
    matches = (totals * rng.choice([0, 0.3, 1], (200, 4))).astype(int)
    lengths = rng.integers(1, 60, (200, 2))
    expected = [
        BLEU.compute_bleu(m.tolist(), t.tolist(), *length.tolist(), smooth_method="exp").score
        for m, t, length in zip(matches, totals, lengths, strict=True)
    ]
    found = bleu_value(np.hstack([lengths, matches, totals]).astype(float))
    # A set with no shared word scores 0, whatever its longer n-grams do: they cannot match then.
    assert found[matches[:, 0] > 0] == pytest.approx(np.array(expected)[matches[:, 0] > 0], rel=1e-9)


def test_field_f1_by_hand():
    references = ['{"a": "x", "b": null}', '{"a": "y", "b": 2}', '{"a": "z", "b": null}']
    completions = ['{"a": "x", "b": null}', '{"a": "y", "b": 3, "c": 1}', "no idea"]
    answers = [Answer(c, r) for c, r in zip(completions, references, strict=True)]
    # a: matched x, y of predicted x, y and expected x, y, z. b: predicted 3, expected 2. c: predicted.
    found = estimates(score_answers([REGISTRY["field_f1"], REGISTRY["json_valid"]], answers))
    assert {name: (each.value, each.count) for name, each in found.items()} == {
        "field_f1": (2 * 2 / (4 + 4), 3), "field_f1/a": (2 * 2 / (2 + 3), 3), "field_f1/b": (0, 3),
        "json_valid": (pytest.approx(2 / 3), 3),
    }  # fmt: skip
    assert found["field_f1/b"].interval == wilson_interval(0, 3)  # no draw of these differs


def test_without_spaces_each_character_is_a_word():
    f1, jaccard = REGISTRY["token_f1"].sums, REGISTRY["jaccard"].sums
    assert f1(Answer("东京是日本的首都。", "日本的首都是东京")) == (1.0, 1.0)
    assert f1(Answer("北京", "东京")) == (0.5, 1.0)
    assert f1(Answer("東京タワー 333 m", "東京タワー 332 m")) == (pytest.approx(2 * 6 / 14), 1.0)
    assert jaccard(Answer("北京", "东京")) == (pytest.approx(1 / 3), 1.0)
    assert f1(Answer("The tower", "a tower")) == (1.0, 1.0)
    assert REGISTRY["bleu"].sums(Answer("北京", "东京")) is None
    assert REGISTRY["bleu"].sums(Answer("北京", "Tokyo 东")) is not None
    named = [each.name for each in chosen_metrics(EvaluationConfig(), ["日本的首都是东京是日本的首都"])]
    assert {"token_f1", "chrf"} <= set(named)


def test_where_all_are_right_an_interval_has_a_width():
    right = [Answer(f'{{"a": {n}}}', f'{{"a": {n}}}') for n in range(40)]
    found = estimates(score_answers([REGISTRY[name] for name in ("field_f1", "token_f1", "json_valid")], right))
    assert {each.interval for each in found.values()} == {wilson_interval(40, 40)}
    mixed = [*right, Answer('{"a": 1}', '{"a": 2}')]
    low, high = estimates(score_answers([REGISTRY["field_f1"]], mixed))["field_f1"].interval or (0, 0)
    assert 0 < low < high == 1


def test_what_does_not_apply_is_absent():
    metrics = [REGISTRY[name] for name in ("json_valid", "field_f1", "numeric_match", "distinct_2")]
    assert estimates(score_answers(metrics, [Answer("word", "prose"), None])) == {}
    assert estimates(score_answers([REGISTRY["field_f1"]], [Answer('{"a": null}', '{"a": null}')])) == {}


def test_fields_count_where_the_reference_is_json_whatever_was_written():
    answers = [Answer("prose", '{"a": null}'), Answer('{"a": 1}', '{"a": 1}'), Answer('{"a": 1}', "prose")]
    counts = {each.name: each.count for each in score_answers([REGISTRY["field_f1"]], answers)}
    assert counts == {"field_f1": 2, "field_f1/a": 2}


def test_ranges_hold():
    answers = [Answer(*pair, num_tokens=3) for pair in PROSE]
    for name, metric in COMPLETION_METRICS.items():
        value = score_answers([metric], answers)[0].value
        assert math.isnan(value) or metric.unit.low <= value <= metric.unit.high, name


# --- the list -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("references", "expected"),
    [
        (['{"a": 1}'], ["exact_match", "json_valid", "field_f1"]),
        (["48/2\n#### 24"], ["exact_match", "numeric_match"]),
        (["Paris"], ["exact_match", "normalized_exact_match", "token_f1"]),
        (["word " * 30], ["exact_match", "normalized_exact_match", "token_f1", "rougeL", "chrf"]),
        (["слово " * 30], ["exact_match", "normalized_exact_match", "token_f1", "chrf"]),
        (["", " "], []),
    ],
)
def test_auto_takes_what_fits(references: list[str], expected: list[str]):
    names = {metric.name for metric in chosen_metrics(EvaluationConfig(), references)}
    assert names == {*expected, "finished_fraction", "length_tokens"}


def test_names_add_to_auto_or_replace_it():
    chosen = chosen_metrics(EvaluationConfig(metrics=["auto", "bleu"]), ["Paris"])
    assert {metric.name for metric in chosen} >= {"bleu", "exact_match"}
    assert [m.name for m in chosen_metrics(EvaluationConfig(metrics=["bleu"]), ["Paris"])] == ["bleu"]
    assert EvaluationConfig(metrics="auto").metrics == ["auto"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"metrics": ["rougel"]}, "no metric 'rougel'; did you mean 'rougeL'"),
        ({"metrics": ["exact-match"]}, "did you mean 'exact_match'"),
        ({"metrics": ["accuracy_of_xyz"]}, "no metric 'accuracy_of_xyz'"),
        ({"metrics": ["bleu"], "generate": False}, "evaluation.generate=true"),
        ({"metrics": ["regex_match"]}, "evaluation.regex: expected the pattern"),
        ({"metrics": ["regex_match"], "regex": "("}, "evaluation.regex: expected a regular expression"),
    ],
)
def test_what_cannot_be_measured_is_refused(config: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        check_metrics(EvaluationConfig(**config))


def test_what_can_be_measured_is_not():
    check_metrics(EvaluationConfig(metrics=["auto", "loss"], generate=False))
    check_metrics(EvaluationConfig(metrics=[name for name in REGISTRY if name != "bert_score"], regex="x"))


@pytest.mark.parametrize("names", [[], [1], {"a": 1}, None])
def test_names_are_a_list(names: object):
    with pytest.raises(ConfigError, match=r"evaluation\.metrics: expected auto or a list of names"):
        EvaluationConfig(metrics=names)
