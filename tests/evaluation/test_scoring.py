import pytest

from tunelab.evaluation.scoring import (
    PairCounts,
    aggregate,
    exact_match,
    field_scores,
    json_field_f1,
    parse_object,
    score,
)


@pytest.mark.parametrize(
    ("completion", "reference", "expected"),
    [
        ("  a\n b\t", "a b", True),
        ("A b", "a b", False),
        ("", "", True),
        ("", "a", False),
        ("Grüße", "Grüße", True),
        ("Gru\u0308ße", "Grüße", False),  # accents stay as they were written
        ('{"b": 1, "a": null}', '{ "a" : null,\n"b":1.0}', True),
        ('{"a": "x  y"}', '{"a": "x y"}', False),  # white space inside a value is part of it
        ('{"a": null}', "{}", False),
        ('{"a": true}', '{"a": 1}', False),
        ('{"a": [1, {"b": false}]}', '{"a": [1, {"b": 0}]}', False),
        ('{"a": "1"}', '{"a": 1}', False),
        ('{"a": "\\u00e9"}', '{"a": "é"}', True),
        ("[1, 2]", "[1,2]", False),  # only objects are compared as values
        ('{"a": 1', '{"a": 1}', False),
    ],
)
def test_exact_match(completion: str, reference: str, expected: bool):
    assert exact_match(completion, reference) is expected


@pytest.mark.parametrize("text", ["", "null", "[1]", "3", '{"a": NaN}', '{"a": 1} x', "[" * 100_000, "{'a': 1}"])
def test_text_that_is_no_json_object(text: str):
    assert parse_object(text) is None


def test_pairs_worked_by_hand():
    reference = '{"name": "Zoë", "date": null, "order": "7", "amount": "1 EUR"}'
    completion = '{"name": "Zoë", "date": "2024-01-02", "order": "8", "extra": 1}'
    counts = field_scores(completion, reference)
    assert counts == {
        "name": PairCounts(1, 1, 1),
        "date": PairCounts(0, 1, 0),  # null is no pair: only the invented date counts
        "order": PairCounts(0, 1, 1),  # wrong: predicted and expected
        "amount": PairCounts(0, 0, 1),  # missing
        "extra": PairCounts(0, 1, 0),  # invented
    }
    assert score(completion, reference).to_dict() == {
        "exact_match": 0.0,
        "json_valid": 1.0,
        "field_f1": 2 * 1 / (4 + 3),
    }


def test_split_worked_by_hand():
    references = ['{"a": "x", "b": null}', '{"a": "y", "b": 2}', '{"a": "z", "b": null}']
    completions = ['{"a": "x", "b": null}', '{"a": "y", "b": 3, "c": 1}', "no idea"]
    metrics = aggregate([score(c, r) for c, r in zip(completions, references, strict=True)])
    # a: matched x, y of predicted x, y and expected x, y, z. b: predicted 3, expected 2. c: predicted.
    assert metrics == {
        "num_scored": 3,
        "exact_match": 1 / 3,
        "num_json_references": 3,
        "json_valid": 2 / 3,
        "field_f1": 2 * 2 / (4 + 4),
        "field_f1/a": 2 * 2 / (2 + 3),
        "field_f1/b": 0,
    }


def test_a_field_that_is_null_everywhere_has_no_f1():
    assert json_field_f1([score('{"a": null}', '{"a": null}')]) == {}


def test_prose_has_no_field_f1():
    scored = [score("four", "four"), score('{"a": 1}', "five")]
    assert aggregate(scored) == {"num_scored": 2, "exact_match": 0.5, "num_json_references": 0}
    assert scored[1].to_dict() == {"exact_match": 0.0}
    assert field_scores('{"a": 1}', "five") is None


def test_mixed_references_are_counted_over_the_json_ones():
    metrics = aggregate([score('{"a": 1}', '{"a": 1}'), score("prose", "prose")])
    assert (metrics["num_scored"], metrics["num_json_references"]) == (2, 1)
    assert (metrics["exact_match"], metrics["json_valid"], metrics["field_f1"]) == (1, 1, 1)


def test_nothing_to_score():
    assert aggregate([]) == {"num_scored": 0}
