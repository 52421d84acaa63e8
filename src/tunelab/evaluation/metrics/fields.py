"""Field F1 of JSON objects: over all fields together, and of each field that the references name."""

from collections.abc import Sequence

from tunelab.evaluation.metrics.matching import fits_json
from tunelab.evaluation.metrics.registry import Answer, Sums, metric
from tunelab.evaluation.scoring import PairCounts, field_scores, parse_object


def by_field(answers: Sequence[Answer]) -> dict[str, list[Sums | None]]:
    """The sums of each field that a reference names, answer by answer; None where the reference is no JSON object."""
    counts = [field_scores(answer.completion, answer.reference) for answer in answers]
    named = dict.fromkeys(name for answer in answers for name in parse_object(answer.reference) or {})
    return {name: [None if each is None else _sums(each.get(name, PairCounts())) for each in counts] for name in named}


@metric("field F1 (micro)", needs="a JSON object with fields as its reference", fits=fits_json, breakdown=by_field)
def field_f1(answer: Answer) -> Sums | None:
    """2 x matched over predicted + expected (field, value) pairs, counted over all examples and divided once."""
    fields = field_scores(answer.completion, answer.reference)
    return None if fields is None else _sums(sum(fields.values(), PairCounts()))


def _sums(counts: PairCounts) -> Sums:
    return float(2 * counts.num_matched), float(counts.num_predicted + counts.num_expected)
