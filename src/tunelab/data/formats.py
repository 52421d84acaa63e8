"""Rows become examples: one function for each layout of columns, and the rule that recognises a layout."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from tunelab.config import ColumnsConfig, Format, to_plain
from tunelab.data.records import Example, Message, Role, Row
from tunelab.errors import DataError

_UNSUPPORTED_MESSAGE_KEYS = ("tool_calls", "function_call", "train", "weight")  # they change what is learned


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of the columns that a format reads: `required` in every row, `optional` where a row has them.

    Both are keyed by the part they hold, as in `data.columns.<part>`.
    """

    required: dict[str, str]
    optional: dict[str, str]

    def names(self) -> set[str]:
        """All columns that the format may read."""
        return {*self.required.values(), *self.optional.values()}


def decide_format(format_: Format, columns: ColumnsConfig, first: Row) -> Format:
    """Return the format of a data set whose first row is `first`; `auto` decides from its column names.

    A column that was overridden decides first: `data.columns.messages` means messages, `data.columns.input`
    alpaca. Raises DataError where no format has all of its columns.
    """
    if format_ is not Format.auto:
        return format_
    given: dict[str, str | None] = to_plain(columns)  # a look at them all: only the chosen format reads its own
    if given["messages"]:
        return Format.messages
    if given["input"]:
        return Format.alpaca
    turns = [] if given["prompt"] or given["response"] else [Format.messages]
    for candidate in (*turns, Format.prompt_response, Format.alpaca):
        names = {part: given[part] or default for part, default in _DEFAULTS[candidate].required.items()}
        if set(names.values()) <= first.fields.keys():
            return candidate
    raise DataError(
        f"{first.origin}: expected the columns of a known format ({_known()}), "
        f"found {_listed(first.fields)}; set data.columns.prompt=<column> data.columns.response=<column>."
    )


def resolve_columns(format_: Format, columns: ColumnsConfig) -> Columns:
    """Return the columns that `format_` reads, with overrides applied; an overridden column is required."""
    default = _DEFAULTS[format_]
    overrides = {part: getattr(columns, part) for part in (*default.required, *default.optional)}
    given = {part: name for part, name in overrides.items() if name is not None}
    return Columns(
        required={**default.required, **given},
        optional={part: name for part, name in default.optional.items() if part not in given},
    )


def to_example(row: Row, format_: Format, columns: Columns) -> Example:
    """Turn a row into an example. Every message of the assistant is trained.

    Raises DataError, quoting the row's origin, for a missing column, a value of another type, or turns out
    of order.
    """
    for part, name in columns.required.items():
        if name not in row.fields:
            raise DataError(
                f"{row.origin}: expected a column {name!r}, found {_listed(row.fields)}; "
                f"set data.columns.{part}=<column>."
            )
    return _FORMATS[format_](row, columns)


def _from_messages(row: Row, columns: Columns) -> Example:
    name = columns.required["messages"]
    turns = row.fields[name]
    if not isinstance(turns, list) or not turns:
        raise DataError(f"{row.origin}: expected a list of messages in {name!r}, found {_shown(turns)}.")
    messages = [_message(turn, row.origin, f"{name}[{index}]") for index, turn in enumerate(cast("list[Any]", turns))]
    return _example([*_system(row, columns), *messages], row.origin)


def _message(turn: Any, origin: str, where: str) -> Message:
    if not isinstance(turn, dict):
        raise DataError(f"{origin}: expected an object with role and content in {where}, found {_shown(turn)}.")
    fields = cast("dict[str, Any]", turn)
    role = fields.get("role")
    if role not in list(Role):
        raise DataError(f"{origin}: expected a role ({', '.join(Role)}) in {where}, found {_shown(role)}.")
    unsupported = [key for key in _UNSUPPORTED_MESSAGE_KEYS if fields.get(key) is not None]
    if unsupported:
        raise DataError(
            f"{origin}: expected role and content alone in {where}, found {unsupported[0]!r} (unsupported)."
        )
    content = _string(fields.get("content"), origin, f"{where}.content")
    return Message(Role(role), content, trained=role == Role.ASSISTANT)


def _from_alpaca(row: Row, columns: Columns) -> Example:
    instruction, response = _text(row, columns, "prompt"), _text(row, columns, "response")
    extra = _optional(row, columns, "input")
    content = f"{instruction}\n\n{extra}" if extra else instruction
    user = Message(Role.USER, content, parts=(instruction, extra) if extra else None)
    return _example([*_system(row, columns), user, Message(Role.ASSISTANT, response, trained=True)], row.origin)


def _from_prompt_response(row: Row, columns: Columns) -> Example:
    user = Message(Role.USER, _text(row, columns, "prompt"))
    response = Message(Role.ASSISTANT, _text(row, columns, "response"), trained=True)
    return _example([*_system(row, columns), user, response], row.origin)


def _system(row: Row, columns: Columns) -> list[Message]:
    text = _optional(row, columns, "system")
    return [Message(Role.SYSTEM, text)] if text else []


def _example(messages: Sequence[Message], origin: str) -> Example:
    """Check the order of roles: a system message first if any, then user and assistant in turn to the end."""
    roles = [message.role for message in messages]
    turns = roles[1:] if roles[0] is Role.SYSTEM else roles
    if Role.ASSISTANT not in turns:
        raise DataError(f"{origin}: expected a message of the assistant, found roles {', '.join(roles)}.")
    if turns != [Role.USER, Role.ASSISTANT] * (len(turns) // 2):
        raise DataError(
            f"{origin}: expected an optional system message, then user and assistant in turn, "
            f"the assistant last; found roles {', '.join(roles)}."
        )
    return Example(tuple(messages), origin)


def _text(row: Row, columns: Columns, part: str) -> str:
    name = columns.required[part]
    return _string(row.fields[name], row.origin, f"column {name!r}")


def _optional(row: Row, columns: Columns, part: str) -> str:
    """The text of a part that a row may leave out or hold as null or empty."""
    name = columns.required.get(part) or columns.optional[part]
    value = row.fields.get(name)
    return "" if value is None else _string(value, row.origin, f"column {name!r}")


def _string(value: Any, origin: str, where: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{origin}: expected text in {where}, found {_shown(value)}.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        found = f"half a surrogate pair (U+{ord(value[error.start]):04X}) at character {error.start}"
        raise DataError(f"{origin}: expected text in {where}, found {found}.") from error
    return value


def _shown(value: Any) -> str:
    text = "null" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _listed(fields: dict[str, Any]) -> str:
    return f"columns {', '.join(map(repr, fields))}" if fields else "no columns"


def _known() -> str:
    return "; ".join(f"{f.value}: {', '.join(c.required.values())}" for f, c in _DEFAULTS.items())


_DEFAULTS: dict[Format, Columns] = {
    Format.messages: Columns({"messages": "messages"}, {"system": "system"}),
    Format.alpaca: Columns({"prompt": "instruction", "response": "output"}, {"input": "input", "system": "system"}),
    Format.prompt_response: Columns({"prompt": "prompt", "response": "response"}, {"system": "system"}),
}

_FORMATS: dict[Format, Callable[[Row, Columns], Example]] = {
    Format.messages: _from_messages,
    Format.alpaca: _from_alpaca,
    Format.prompt_response: _from_prompt_response,
}
