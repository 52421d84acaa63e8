"""How right a completion is, from its text and the reference's alone: pure functions on strings."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
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

    @property
    def f1(self) -> float | None:
        """2 matched / (predicted + expected), in [0, 1]; None (not applicable) where there is no pair."""
        total = self.num_predicted + self.num_expected
        return 2 * self.num_matched / total if total else None


@dataclass(frozen=True, slots=True)
class ExampleScores:
    """The scores of one completion; `json_valid` None, `fields` empty where the reference is no JSON object.

    `fields`: counts of each field that the reference or the completion names; `reference_fields`: those the
    reference names.
    """

    exact_match: bool
    json_valid: bool | None = None
    fields: dict[str, PairCounts] = field(default_factory=dict[str, PairCounts])
    reference_fields: tuple[str, ...] = ()

    @property
    def field_f1(self) -> float | None:
        """Micro F1 over this example's fields; None where it does not apply."""
        return sum(self.fields.values(), PairCounts()).f1

    def to_dict(self) -> dict[str, float]:
        """The scores that apply, each in [0, 1]: `exact_match`, `json_valid`, `field_f1`."""
        scores = {"exact_match": self.exact_match, "json_valid": self.json_valid, "field_f1": self.field_f1}
        return {name: float(score) for name, score in scores.items() if score is not None}


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


def score(completion: str, reference: str) -> ExampleScores:
    """Score one completion against its reference."""
    matched = exact_match(completion, reference)
    fields = field_scores(completion, reference)
    if fields is None:
        return ExampleScores(exact_match=matched)
    return ExampleScores(
        exact_match=matched,
        json_valid=parse_object(completion) is not None,
        fields=fields,
        reference_fields=tuple(parse_object(reference) or {}),
    )


def json_field_f1(scores: Iterable[ExampleScores]) -> dict[str, float]:
    """F1 of fields: `field_f1` and `field_f1/<field>`, in [0, 1]; what does not apply is absent, never 0.

    `field_f1` is the micro average: pairs are counted over all examples and fields, then divided once. A
    field that the completions made up counts there (as predicted, never matched); a `field_f1/<field>` of its
    own have only the fields that a reference names.
    """
    totals: Counter[str] = Counter()
    by_field: dict[str, PairCounts] = {}
    for example in scores:
        totals.update(example.reference_fields)
        for name, counts in example.fields.items():
            by_field[name] = by_field.get(name, PairCounts()) + counts
    f1s = {"field_f1": sum(by_field.values(), PairCounts()).f1}
    f1s |= {f"field_f1/{name}": by_field[name].f1 for name in totals}
    return {name: f1 for name, f1 in f1s.items() if f1 is not None}


def aggregate(scores: Sequence[ExampleScores]) -> dict[str, float]:
    """Score a split: rates in [0, 1] with the counts they are over; what does not apply is absent.

    `exact_match` over `num_scored` examples; `json_valid` and `json_field_f1` over the `num_json_references`
    examples whose reference is a JSON object.
    """
    metrics = {"num_scored": float(len(scores))}
    if not scores:
        return metrics
    metrics["exact_match"] = sum(example.exact_match for example in scores) / len(scores)
    valid = [example.json_valid for example in scores if example.json_valid is not None]
    metrics["num_json_references"] = float(len(valid))
    if valid:
        metrics["json_valid"] = sum(valid) / len(valid)
    return metrics | json_field_f1(scores)


def _pair_counts(name: str, expected: dict[str, Any], found: dict[str, Any]) -> PairCounts:
    is_expected, is_found = expected.get(name) is not None, found.get(name) is not None
    matched = is_expected and is_found and _canonical(expected[name]) == _canonical(found[name])
    return PairCounts(num_matched=int(matched), num_predicted=int(is_found), num_expected=int(is_expected))


def _canonical(value: Any) -> Any:
    """A form in which equality means equality as JSON: Python holds True == 1, JSON does not."""
    if isinstance(value, dict):
        return {name: _canonical(item) for name, item in cast(dict[str, Any], value).items()}
    if isinstance(value, list):
        return [_canonical(item) for item in cast(list[Any], value)]
    return ("bool", value) if isinstance(value, bool) else value


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
