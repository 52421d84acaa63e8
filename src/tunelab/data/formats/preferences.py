"""The formats of preferences: two answers to one prompt, or one answer with a label. Only the answers are trained."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any

from tunelab.data.formats.conversations import (
    COMPLETION,
    check_answer,
    instruction,
    read_answer,
    read_history,
    read_prompt,
    read_response,
)
from tunelab.data.formats.fields import MEND, Fields, shown
from tunelab.data.formats.order import check_order, converse
from tunelab.data.formats.registry import data_format
from tunelab.data.formats.turns import ANSWERS, LAST_ANSWER, UNTRAINED, read_turn, read_turns
from tunelab.data.records import Conversation, Message, Role

_PAIR = {"chosen": "chosen", "rejected": "rejected"}
_SHARED = {"system": "system", "tools": "tools"}
_LABELS = ("label", "kto_tag")
_TURNS = ("conversations", "messages")


@data_format(
    "preference",
    required={"prompt": ("prompt", "question", "instruction"), **_PAIR},
    optional={"input": "input", "history": "history", **_SHARED},
    turns=("prompt", "chosen", "rejected"),
)
def read_preference(fields: Fields) -> Conversation:
    """A prompt and two answers, each a text or turns; the answers may also be whole conversations."""
    chosen, rejected = _answer(fields, "chosen"), _answer(fields, "rejected")
    asked = fields.value("prompt")
    if isinstance(asked, list):
        return _pair(fields, read_prompt(fields, UNTRAINED), chosen, rejected)
    if _whole(chosen) and _whole(rejected):
        return _split(fields, chosen, rejected, prompt=fields.text("prompt"))
    return _pair(fields, [*read_history(fields, UNTRAINED), instruction(fields, trained=False)], chosen, rejected)


@data_format(
    "preference",
    required={"messages": _TURNS, **_PAIR},
    optional=_SHARED,
    turns=("messages", "chosen", "rejected"),
)
def read_preference_turns(fields: Fields) -> Conversation:
    """The turns before the answer, and two answers to them."""
    prompt = read_turns(fields, "messages", UNTRAINED)
    return _pair(fields, prompt, _answer(fields, "chosen"), _answer(fields, "rejected"))


@data_format("preference", required=_PAIR, optional=_SHARED, turns=("chosen", "rejected"))
def read_preference_whole(fields: Fields) -> Conversation:
    """Two whole conversations that begin alike: the prompt is what they share."""
    return _split(fields, read_turns(fields, "chosen", ANSWERS), read_turns(fields, "rejected", ANSWERS))


@data_format(
    "kto",
    required={"prompt": ("prompt", "question", "instruction"), "response": (*COMPLETION, "output"), "label": _LABELS},
    optional={"input": "input", "history": "history", **_SHARED},
    turns=("prompt", "response"),
)
def read_kto(fields: Fields) -> Conversation:
    """A prompt and an answer, each a text or turns, with a label that says whether the answer is desirable."""
    if isinstance(fields.value("prompt"), list):
        prompt = read_prompt(fields, UNTRAINED)
    else:
        prompt = [*read_history(fields, UNTRAINED), instruction(fields, trained=False)]
    return converse(fields, [*prompt, *read_response(fields, ANSWERS)], desirable=_label(fields))


@data_format(
    "kto",
    required={"messages": _TURNS, "label": _LABELS},
    optional=_SHARED,
    turns=("messages",),
)
def read_kto_turns(fields: Fields) -> Conversation:
    """A conversation with a label that says whether its last answer is desirable."""
    return converse(fields, read_turns(fields, "messages", LAST_ANSWER), desirable=_label(fields))


def _label(fields: Fields) -> bool:
    value = fields.value("label")
    if not isinstance(value, bool):
        raise fields.refusal("true or false", shown(value), f"column {fields.column('label')!r}")
    return value


def _answer(fields: Fields, part: str) -> list[Message]:
    """The messages of an answer that is a text, one turn, or a list of turns."""
    value: Any = fields.value(part)
    if isinstance(value, dict):
        return [read_turn(fields, value, fields.column(part), ANSWERS[1])]
    return read_answer(fields, part, ANSWERS)


def _whole(answer: Sequence[Message]) -> bool:
    return answer[0].role in (Role.SYSTEM, Role.USER)


def _pair(fields: Fields, prompt: Sequence[Message], chosen: list[Message], rejected: list[Message]) -> Conversation:
    check_answer(fields, "chosen", chosen)
    check_answer(fields, "rejected", rejected)
    check_order([*prompt, *rejected], fields.origin)
    return converse(fields, [*prompt, *chosen], rejected)


def _split(fields: Fields, chosen: list[Message], rejected: list[Message], prompt: str = "") -> Conversation:
    """The pair of two whole conversations. `prompt`, where given, must be among the user turns that they share."""
    alike = takewhile(lambda pair: pair[0] == pair[1], zip(chosen[:-1], rejected[:-1], strict=False))
    shared = [replace(message, trained=False) for message, _ in alike]
    chosen, rejected = chosen[len(shared) :], rejected[len(shared) :]
    both = f"columns {fields.column('chosen')!r} and {fields.column('rejected')!r}"
    remedy = f"give the prompt in a column of its own (data.columns.prompt=<column>), or {MEND}"
    if _whole(chosen) or _whole(rejected) or not shared:
        found = f"turn {len(shared)} (from 0) of {chosen[0].role} and of {rejected[0].role}, not alike"
        raise fields.refusal("conversations that begin with the same prompt", found, both, remedy)
    if prompt and not any(message.role is Role.USER and message.content == prompt for message in shared):
        raise fields.refusal(
            f"the text of column {fields.column('prompt')!r}", "other user turns", both, f"remove the column, or {MEND}"
        )
    return _pair(fields, shared, chosen, rejected)
