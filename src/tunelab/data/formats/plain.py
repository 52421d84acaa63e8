"""The formats that no template touches: text, segments, pretokenized."""

from itertools import compress
from typing import Any, cast

from tunelab.data.formats.fields import MEND, Fields, shown
from tunelab.data.formats.registry import data_format
from tunelab.data.records import IGNORE_INDEX, Passage, Segment, TokenSequence

_MAX_ID = 2**31 - 1  # ids are kept as int32


@data_format("text", required={"text": "text"}, last_resort=True)
def read_text(fields: Fields) -> Passage:
    """One document, all of it trained, cut into windows where it is long."""
    return Passage((Segment(fields.text("text"), supervised=True),), fields.origin, windowed=True)


@data_format("segments", required={"segments": "segments"})
def read_segments(fields: Fields) -> Passage:
    """Pieces of text in order, each with a label that says whether it is trained."""
    name = fields.column("segments")
    pieces = enumerate(fields.items("segments"))
    return Passage(tuple(_segment(fields, piece, f"{name}[{index}]") for index, piece in pieces), fields.origin)


def _segment(fields: Fields, piece: Any, where: str) -> Segment:
    if type(piece) is not dict:
        raise fields.refusal("an object with 'label' and 'text'", shown(piece), where)
    piece = cast("dict[str, Any]", piece)
    label = piece.get("label")
    if not isinstance(label, bool):
        raise fields.refusal("true (trained) or false", shown(label), f"{where}.label")
    return Segment(fields.checked(piece.get("text"), f"{where}.text"), label)


@data_format(
    "pretokenized",
    required={"input_ids": "input_ids"},
    optional={"labels": "labels", "loss_mask": "loss_mask", "attention_mask": "attention_mask"},
)
def read_pretokenized(fields: Fields) -> TokenSequence:
    """Token ids, with labels (-100 where nothing is trained) or a loss mask; with neither all of them are trained."""
    ids = _integers(fields, "input_ids")
    if min(ids) < 0 or max(ids) > _MAX_ID:
        wrong = next(token for token in ids if not 0 <= token <= _MAX_ID)
        raise fields.refusal("token ids of 0 or more", shown(wrong), f"column {fields.column('input_ids')!r}")
    attention = _optional_integers(fields, "attention_mask", ids)
    if attention is not None and set(attention) != {1}:
        remedy = f"remove the padding, or {MEND}"
        raise fields.refusal("ones alone", shown(min(attention)), f"column {fields.column('attention_mask')!r}", remedy)
    return TokenSequence(tuple(ids), tuple(_loss_mask(fields, ids)), fields.origin)


def _loss_mask(fields: Fields, ids: list[int]) -> list[bool]:
    labels, mask = _optional_integers(fields, "labels", ids), _optional_integers(fields, "loss_mask", ids)
    if mask is not None and not set(mask) <= {0, 1}:
        wrong = next(value for value in mask if value not in (0, 1))
        raise fields.refusal("true and false or 1 and 0", shown(wrong), f"column {fields.column('loss_mask')!r}")
    if labels is None:
        return [True] * len(ids) if mask is None else list(map(bool, mask))
    trained = [label != IGNORE_INDEX for label in labels]
    if list(compress(labels, trained)) != list(compress(ids, trained)):
        index = next(i for i, (label, token) in enumerate(zip(labels, ids, strict=True)) if label not in (-100, token))
        remedy = f"labels are not shifted: write the id itself, or {MEND}"
        where = f"{fields.column('labels')}[{index}]"
        raise fields.refusal(f"-100 or the token id {ids[index]}", shown(labels[index]), where, remedy)
    if mask is not None and trained != list(map(bool, mask)):
        raise fields.refusal("the positions that 'loss_mask' trains", "others", f"column {fields.column('labels')!r}")
    return trained


def _optional_integers(fields: Fields, part: str, ids: list[int]) -> list[int] | None:
    """The integers of a column as long as the ids, or None where the row has none."""
    if fields.value(part) is None:
        return None
    values = _integers(fields, part, booleans=part != "labels")
    if len(values) != len(ids):
        where = f"column {fields.column(part)!r}"
        raise fields.refusal(f"{len(ids)} values, one for each token id,", f"{len(values)}", where)
    return values


def _integers(fields: Fields, part: str, booleans: bool = False) -> list[int]:
    values = fields.items(part)
    kinds = {int, bool} if booleans else {int}
    if not set(map(type, values)) <= kinds:
        index = next(i for i, value in enumerate(values) if type(value) not in kinds)
        raise fields.refusal("an integer", shown(values[index]), f"{fields.column(part)}[{index}]")
    return cast("list[int]", values)
