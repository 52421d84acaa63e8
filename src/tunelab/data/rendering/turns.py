"""Messages as the dictionaries that chat templates read, and what of them a rendering must show."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from tunelab.data.records import Conversation, Message, Role
from tunelab.errors import DataError

_THOUGHT = re.compile(r"</?think>")
_REMEDY = "set data.template=<file>.jinja with a template that shows it, or take it out of the data"


def to_turns(messages: Sequence[Message], arguments_as_text: bool = False) -> list[dict[str, Any]]:
    """Return what the template reads; arguments of tool calls are objects, or JSON text where the template wants it."""
    return [_turn(message, arguments_as_text) for message in messages]


def _turn(message: Message, arguments_as_text: bool) -> dict[str, Any]:
    turn: dict[str, Any] = {"role": message.role.value, "content": message.content}
    if not message.extra:
        return turn
    turn |= {key: plain(value) for key, value in message.extra.items() if value is not None}
    if turn.get("tool_calls"):
        turn["tool_calls"] = [_call(call, arguments_as_text) for call in turn["tool_calls"]]
    if turn.get("reasoning_content") is not None:
        turn["thinking"] = turn["reasoning_content"]  # transformers gives a template both names
    return turn


def plain(value: Any) -> Any:
    """A copy in plain dictionaries and lists: a template may see nothing else."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in cast("Mapping[str, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in cast("Sequence[Any]", value)]
    return value


def _call(call: dict[str, Any], as_text: bool) -> dict[str, Any]:
    function: Any = call.get("function", call)
    arguments = _parsed(function.get("arguments")) if isinstance(function, dict) else None
    if not isinstance(arguments, dict):
        return call
    form = json.dumps(arguments, ensure_ascii=False) if as_text else arguments
    changed = {**cast("dict[str, Any]", function), "arguments": form}
    return {**call, "function": changed} if "function" in call else changed


def _parsed(arguments: Any) -> Any:
    try:
        return json.loads(arguments) if isinstance(arguments, str) else arguments
    except ValueError:
        return arguments


def pieces(content: str) -> list[str]:
    """The stretches between thinking tags, which a template may lay out anew, without white space around them."""
    return [piece.strip() for piece in _THOUGHT.split(content) if piece.strip()]


def ways_to_write(message: Message) -> list[str]:
    """What a rendering may hold for a message: its content, and for a tool's result that content as a JSON string."""
    content = message.content.strip()
    return [content, *_as_json(content)] if message.role is Role.TOOL else [content]


def require_shown(example: Conversation, last: int, text: str) -> None:
    """Raise DataError where a message up to `last`, a tool or a tool call is not found in what the template wrote.

    The thoughts of an answer before the last may be gone (templates of reasoning models take them out).
    """
    cursor = 0
    for index, message in enumerate(example.messages[: last + 1]):
        wanted = ways_to_write(message)
        if message.role is Role.ASSISTANT:
            wanted = [*wanted, *pieces(message.content)[-1:]]
        if message.role is Role.SYSTEM:  # some templates move it
            found = next((i for way in wanted if (i := text.find(way)) >= 0), -1)
        else:
            found = next((i + len(way) for way in wanted if (i := text.find(way, cursor)) >= 0), -1)
            cursor = max(found, cursor)
        _require(found >= 0, example, f"message {index + 1} ({message.role})", message.content)
        for part in _call_texts(message):
            _require(_holds(text, part), example, f"the tool call of message {index + 1}", part)
    for tool in example.tools:
        name = _name(tool)
        _require(_holds(text, name), example, "the tool", name)


def require_answer(example: Conversation, index: int, stretch: str) -> None:
    """Raise DataError where the answer, its thoughts included, is not found in the stretch that is to be trained."""
    message = example.messages[index]
    cursor = 0
    thought = str(message.extra.get("reasoning_content") or "").strip()
    for piece in [*([thought] if thought else []), *pieces(message.content)]:
        found = stretch.find(piece, cursor)
        _require(found >= 0, example, f"message {index + 1} ({message.role})", piece)
        cursor = found + len(piece)


def _require(shown: bool, example: Conversation, what: str, text: str) -> None:
    if not shown:
        raise DataError(
            f"{example.origin}: expected {what} in what the chat template writes, found it left out or changed "
            f"({text[:60]!r}); {_REMEDY}."
        )


def _call_texts(message: Message) -> Iterator[str]:
    for call in cast("Sequence[Any]", message.extra.get("tool_calls") or ()):
        function: Any = call.get("function", call) if isinstance(call, Mapping) else {}
        yield str(function.get("name", ""))
        yield from _leaves(_parsed(function.get("arguments")))


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in cast("Mapping[str, Any]", value).items():
            yield key
            yield from _leaves(item)
    elif isinstance(value, list | tuple):
        for item in cast("Sequence[Any]", value):
            yield from _leaves(item)


def _name(tool: Mapping[str, Any]) -> str:
    function = tool.get("function", tool)
    return str(cast("Mapping[str, Any]", function).get("name", "")) if isinstance(function, Mapping) else ""


def _holds(text: str, part: str) -> bool:
    return any(way in text for way in (part, *_as_json(part)))


def _as_json(text: str) -> list[str]:
    return [json.dumps(text, ensure_ascii=ascii_only)[1:-1] for ascii_only in (False, True)]
