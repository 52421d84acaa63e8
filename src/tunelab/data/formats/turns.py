"""Turns become messages: who speaks, what is said, what is trained, and what only chat templates understand."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from tunelab.config import TrainOn
from tunelab.data.formats.calls import read_tool_calls
from tunelab.data.formats.fields import MEND, Fields, is_clean, keys_of, shown
from tunelab.data.formats.registry import Tags
from tunelab.data.records import Message, Role
from tunelab.suggesting import did_you_mean

TrainedRoles = tuple[frozenset[Role], frozenset[Role]]  # in all turns but the last, and in the last

_NONE: frozenset[Role] = frozenset()
_ANSWERS = frozenset({Role.ASSISTANT})
_ALL = frozenset(Role)

UNTRAINED: TrainedRoles = (_NONE, _NONE)
ANSWERS: TrainedRoles = (_ANSWERS, _ANSWERS)
LAST_ANSWER: TrainedRoles = (_NONE, _ANSWERS)

TRAINED: Mapping[TrainOn, TrainedRoles] = {  # of a conversation
    TrainOn.responses: ANSWERS,
    TrainOn.last_response: LAST_ANSWER,
    TrainOn.all: (_ALL, _ALL),
}
TRAINED_PROMPT: Mapping[TrainOn, TrainedRoles] = {  # of what comes before the answer, where a row keeps the two apart
    TrainOn.responses: UNTRAINED,
    TrainOn.last_response: UNTRAINED,
    TrainOn.all: (_ALL, _ALL),
}

_EXTRA = {"tool_calls": Role.ASSISTANT, "reasoning_content": Role.ASSISTANT, "tool_call_id": Role.TOOL, "name": None}
_MEANINGFUL = {  # keys of other tools that change what is read or learned: never passed over
    "function_call": "write it as 'tool_calls'",
    "thinking": "rename it to 'reasoning_content'",
    "loss": "write it as 'train': true or false",
    "loss_scale": "write it as 'weight': 0 or 1",
    "training": "write it as 'train': true or false",
    "train_detail": "write it as 'train': true or false for the whole turn",
    "prefix": "remove it",
    "refusal": "write it as 'content'",
    "images": "remove it: tunelab trains on text alone",
    "audio": "remove it: tunelab trains on text alone",
    "videos": "remove it: tunelab trains on text alone",
}


def read_turns(fields: Fields, part: str, trained: TrainedRoles) -> list[Message]:
    """Return the messages of a column that holds a list of turns."""
    name = fields.column(part)
    turns = fields.items(part)
    earlier, last = trained
    final = len(turns) - 1
    return [
        read_turn(fields, turn, f"{name}[{index}]", last if index == final else earlier)
        for index, turn in enumerate(turns)
    ]


def read_turn(fields: Fields, turn: Any, where: str, trained: frozenset[Role]) -> Message:
    """Return the message of one turn; it is trained where it says so, or says nothing and its role is in `trained`."""
    tags = fields.layout.tags
    if type(turn) is not dict or tags is None:
        expected = f"an object with {tags.role!r} and {tags.content!r}" if tags else "text alone, as in the first rows"
        raise fields.refusal(expected, shown(turn), where)
    turn = cast("dict[str, Any]", turn)
    speaker, content = turn.get(tags.role), turn.get(tags.content)
    role = tags.speakers.get(speaker) if isinstance(speaker, str) else None
    if role is None:
        raise fields.refusal(*_unknown_speaker(turn, tags, where))
    if len(turn) == 2 and speaker not in tags.calls and is_clean(content):  # nearly every turn there is
        return Message(role, cast(str, content), role in trained)
    extra = _extra(fields, turn, role, where)
    if speaker in tags.calls:
        at = f"{where}.{tags.content}"
        calls = fields.parsed(content, at) if isinstance(content, str) else content
        extra, content = {**extra, "tool_calls": read_tool_calls(fields, calls, at)}, ""
    text = _content(fields, content, f"{where}.{tags.content}", optional="tool_calls" in extra)
    flag = _flag(fields, turn, where)
    return Message(role, text, role in trained if flag is None else flag, extra=extra)


def _unknown_speaker(turn: Mapping[str, Any], tags: Tags, where: str) -> tuple[str, str, str, str]:
    expected, known = f"one of {', '.join(tags.speakers)}", list(tags.speakers)
    if tags.role not in turn:
        keys = f"set data.tags.role=<key> data.tags.content=<key>, or {MEND}"
        return f"the keys {tags.role!r} and {tags.content!r}", keys_of(turn), where, keys
    speaker = turn[tags.role]
    hint = did_you_mean(speaker, known) if isinstance(speaker, str) else ""
    remedy = f"set data.tags.user=<name> or data.tags.assistant=<name> where the file has other names, or {MEND}"
    return expected, shown(speaker) + hint, f"{where}.{tags.role}", remedy


def _content(fields: Fields, content: Any, where: str, optional: bool) -> str:
    """The text of a turn: a text, a list of text parts, or null beside tool calls."""
    if is_clean(content):
        return content
    if content is None and optional:
        return ""
    if not isinstance(content, list):
        return fields.checked(content, where)
    return "".join(
        _text_part(fields, part, f"{where}[{index}]") for index, part in enumerate(cast("Sequence[Any]", content))
    )


def _text_part(fields: Fields, part: Any, where: str) -> str:
    value: dict[str, Any] = cast("dict[str, Any]", part) if isinstance(part, dict) else {}
    if value.get("type") != "text":
        found = f"a part of type {value['type']!r}" if "type" in value else shown(part)
        remedy = f"tunelab trains on text alone: {MEND}"
        raise fields.refusal("a part {'type': 'text', 'text': …}", found, where, remedy)
    return fields.checked(value.get("text"), f"{where}.text")


def _flag(fields: Fields, turn: Mapping[str, Any], where: str) -> bool | None:
    """What the turn itself says of being trained: `train` (true or false) or `weight` (0 or 1); None: nothing."""
    train, weight = turn.get("train"), turn.get("weight")
    if train is None and weight is None:
        return None
    if not fields.layout.by_role:
        remedy = f"remove 'train' and 'weight': format {fields.layout.format} trains the answers alone"
        raise fields.refusal("no flag", keys_of(key for key in ("train", "weight") if key in turn), where, remedy)
    if train is not None and not isinstance(train, bool):
        raise fields.refusal("true or false", shown(train), f"{where}.train")
    if weight is not None and not (isinstance(weight, int | float) and weight in (0, 1)):
        raise fields.refusal("0 or 1", shown(weight), f"{where}.weight")
    if train is not None and weight is not None and train != weight:
        raise fields.refusal("'train' and 'weight' to agree", f"{train!r} and {weight!r}", where)
    return bool(weight) if train is None else train


def _extra(fields: Fields, turn: Mapping[str, Any], role: Role, where: str) -> dict[str, Any]:
    """What only a chat template understands; a key that would change what is learned is refused."""
    extra: dict[str, Any] = {}
    for key, value in turn.items():
        if value in (None, "", []):
            continue
        if key in _MEANINGFUL:
            raise fields.refusal("no such key", repr(key), where, f"{_MEANINGFUL[key]}, or {MEND}")
        if key in _EXTRA:
            if _EXTRA[key] not in (None, role):
                raise fields.refusal(f"{key!r} in turns of {_EXTRA[key]} alone", f"it in one of {role}", where)
            at = f"{where}.{key}"
            extra[key] = read_tool_calls(fields, value, at) if key == "tool_calls" else fields.checked(value, at)
    return extra
