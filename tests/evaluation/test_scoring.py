import pytest

from tunelab.evaluation.scoring import PairCounts, exact_match, field_scores, parse_object


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
    assert field_scores('{"a": 1}', "five") is None
