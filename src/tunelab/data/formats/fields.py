"""Typed access to the parts of one row: what a format's function reads, with errors that say where and what else."""

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

from tunelab.config import ColumnsConfig, TrainOn
from tunelab.data.formats.registry import Layout
from tunelab.data.records import Row
from tunelab.errors import DataError

MEND = "mend the row"
OVERRIDABLE = frozenset(field.name for field in dataclasses.fields(ColumnsConfig))


@dataclass(frozen=True, slots=True)
class Fields:
    """One row seen through its layout. Parts are named as in `data.columns.<part>`."""

    row: Row
    layout: Layout
    train_on: TrainOn

    @property
    def origin(self) -> str:
        """Where the row stands (`train.jsonl:17`)."""
        return self.row.origin

    def column(self, part: str) -> str:
        """The name of the column that holds `part`."""
        return self.layout.required.get(part) or self.layout.optional[part]

    def value(self, part: str) -> Any:
        """The raw value of `part`; None where the row lacks an optional part."""
        return self.row.fields.get(self.column(part))

    def text(self, part: str) -> str:
        """The text of a part that must hold one."""
        value = self.value(part)
        return value if is_clean(value) else self.checked(value, f"column {self.column(part)!r}")

    def optional_text(self, part: str) -> str:
        """The text of a part that a row may leave out or hold as null; then empty."""
        value = self.value(part)
        return "" if value is None else self.text(part)

    def items(self, part: str) -> list[Any]:
        """The list that a part must hold, with at least one item."""
        value = self.value(part)
        if type(value) is not list or not value:
            raise self.refusal("a list with at least one item", shown(value), f"column {self.column(part)!r}")
        return cast("list[Any]", value)

    def checked(self, value: Any, where: str) -> str:
        """Return `value` where it is text without lone surrogates and NUL characters. Raises DataError otherwise."""
        if is_clean(value):
            return cast(str, value)
        if not isinstance(value, str):
            raise self.refusal("text", shown(value), where)
        if "\0" in value:
            raise self.refusal("text", f"a NUL character at character {value.index(chr(0))}", where)
        position = next(i for i, character in enumerate(value) if "\ud800" <= character <= "\udfff")
        found = f"half a surrogate pair (U+{ord(value[position]):04X}) at character {position}"
        raise self.refusal("text", found, where)

    def refusal(self, expected: str, found: str, where: str, remedy: str = MEND) -> DataError:
        """The error for a value of this row: what was expected where, what was found, and what to do."""
        return DataError(f"{self.origin}: expected {expected} in {where}, found {found}; {remedy}.")

    def plain_json(self, value: Any, where: str) -> Any:
        """Return `value` where it holds JSON values only, its texts clean. Raises DataError otherwise."""
        try:
            self._walk(value, where)
        except RecursionError as error:
            raise self.refusal("JSON of moderate depth", "too many nested lists or objects", where) from error
        return value

    def parsed(self, text: str, where: str) -> Any:
        """The JSON value that `text` spells. Raises DataError where it spells none."""
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise self.refusal("JSON text", shown(text), where) from error

    def _walk(self, value: Any, where: str) -> None:
        if isinstance(value, dict):
            for key, item in cast("dict[Any, Any]", value).items():
                self.checked(key, f"a key of {where}")
                self._walk(item, where)
        elif isinstance(value, list):
            for item in cast("list[Any]", value):
                self._walk(item, where)
        elif isinstance(value, str):
            self.checked(value, where)
        elif not (value is None or isinstance(value, bool | int) or (isinstance(value, float) and value - value == 0)):
            raise self.refusal("JSON values (no infinity, no nan)", shown(value), where)


def is_clean(value: Any) -> bool:
    """Whether `value` is text that a file in UTF-8 can hold, without NUL characters."""
    if not isinstance(value, str) or "\0" in value:
        return False
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown(value: Any) -> str:
    """A short description of a value found where another was expected: its type, and the value where it is short."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, str):
        return f"the text {value!r}" if len(value) <= 40 else f"the text {value[:40]!r}…"
    if isinstance(value, list):
        length = len(cast("list[Any]", value))
        return f"a list of {length}" if length else "an empty list"
    if isinstance(value, dict):
        return f"an object with {keys_of(cast('dict[str, Any]', value))}"
    return f"a value of type {type(value).__name__}"


def keys_of(fields: Iterable[str], noun: str = "key") -> str:
    """`keys 'a', 'b'`, shortened."""
    names = [repr(name) for name in fields]
    if not names:
        return f"no {noun}s"
    return f"{noun}{'s' * (len(names) > 1)} {', '.join(names[:8])}{', …' * (len(names) > 8)}"
