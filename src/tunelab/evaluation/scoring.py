"""Equality of two answers, as JSON objects field by field or as text: pure functions on strings."""

import json
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, cast


@dataclass(frozen=True, slots=True)
class PairCounts:
    """Numbers of (field, value) pairs: in both texts, in the completion, in the reference."""

    num_matched: int = 0
    num_predicted: int = 0
    num_expected: int = 0

    def __add__(self, other: "PairCounts") -> "PairCounts":
        return PairCounts(
            self.num_matched + other.num_matched,
            self.num_predicted + other.num_predicted,
            self.num_expected + other.num_expected,
        )


def parse_object(text: str) -> dict[str, Any] | None:
    """Return the JSON object that `text` is, white space around it aside; None where it is anything else.

    NaN and Infinity, which JSON does not have, make it invalid. A repeated field has its last value.
    """
    try:
        value = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    return cast(dict[str, Any], value) if isinstance(value, dict) else None


def normalise(text: str) -> str:
    """Strip white space at the ends and make every other run of it one space. Case and accents stay."""
    return " ".join(text.split())


def exact_match(completion: str, reference: str) -> bool:
    """True where both say the same.

    Two JSON objects are compared as values: the order of fields and white space do not count; 1 equals 1.0,
    but not true and not "1"; a field that is null is not a field that is missing. Other texts are compared
    after `normalise`.
    """
    expected, found = parse_object(reference), parse_object(completion)
    if expected is not None and found is not None:
        return _canonical(expected) == _canonical(found)
    return normalise(completion) == normalise(reference)


def exact_answer(text: str) -> Hashable:
    """The answer that `text` gives, as `exact_match` compares it: a JSON object as a value, else normalised text."""
    found = parse_object(text)
    return normalise(text) if found is None else _canonical(found)


def field_scores(completion: str, reference: str) -> dict[str, PairCounts] | None:
    """Count (field, value) pairs, field by field; None where `reference` is no JSON object.

    A pair is a top-level field with a value that is not null: null, or no such field, is no pair. Values are
    equal as in `exact_match` (strings to the letter; lists and objects as a whole). A wrong value is one pair
    predicted and one expected, none matched. A completion that is no JSON object predicts no pair.
    """
    expected = parse_object(reference)
    if expected is None:
        return None
    found = parse_object(completion) or {}
    return {name: _pair_counts(name, expected, found) for name in {**expected, **found}}


def _pair_counts(name: str, expected: dict[str, Any], found: dict[str, Any]) -> PairCounts:
    is_expected, is_found = expected.get(name) is not None, found.get(name) is not None
    matched = is_expected and is_found and _canonical(expected[name]) == _canonical(found[name])
    return PairCounts(num_matched=int(matched), num_predicted=int(is_found), num_expected=int(is_expected))


def _canonical(value: Any) -> Hashable:
    """A form in which equality means equality as JSON: Python holds True == 1, JSON does not."""
    if isinstance(value, dict):
        return "object", frozenset((name, _canonical(item)) for name, item in cast(dict[str, Any], value).items())
    if isinstance(value, list):
        return "list", tuple(_canonical(item) for item in cast(list[Any], value))
    return ("bool", value) if isinstance(value, bool) else value


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
