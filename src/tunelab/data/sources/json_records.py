"""Reads JSON: lines of objects, or one list of objects whose elements are decoded one by one as the file is read."""

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

from tunelab.data.records import BadRow, Row
from tunelab.data.sources.streams import MAX_RECORD_BYTES, DataFile, empty, lines_of, opened, too_long
from tunelab.errors import DataError

_CHUNK_BYTES = 2**20
_NEAR_END = 16  # characters: longer than what a decoder can mistake because the text stops there (`-Infinity`)
_BLANK = re.compile(r"[ \t\n\r]*")


class _AmbiguousError(ValueError):
    """JSON that readers understand differently."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise _AmbiguousError(f"expected each key once in an object, found {repeated!r} twice; keep one of them")
    return fields


def _constant(name: str) -> Any:
    raise _AmbiguousError(f"expected JSON, found {name}, which JSON does not have; write null or a string")


_STRICT = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant)
_LENIENT = json.JSONDecoder(parse_int=str, parse_float=str)  # finds where a value ends


def read_jsonl(file: DataFile) -> Iterator[Row | BadRow]:
    """One object a line; blank lines are passed over. Origins count lines from 1. Raises DataError for no lines."""
    anything = False
    with opened(file) as stream:
        for number, line in enumerate(lines_of(stream, file), start=1):
            if text := line.strip():
                if not anything:
                    _refuse_json(text, file)
                    anything = True
                yield _parse_line(text, f"{file.name}:{number}")
    if not anything:
        raise empty(file)


def _refuse_json(first: bytes, file: DataFile) -> None:
    """An object or list that begins on the first line and does not end there is JSON, not JSON lines."""
    found = {b"[": "a list", b"{": "an object"}.get(first[:1])
    whole_list = first.startswith(b"[{") and first.endswith(b"}]")
    if found and (whole_list or first in (b"[", b"{") or (first[:1] == b"[" and first.endswith((b"{", b",")))):
        remedy = "let the name end in .json" if found == "a list" else "write each object on one line"
        raise DataError(
            f"{file.name}:1: expected one whole object a line, found {found} that spans the file, which is JSON and "
            f"not JSON lines; {remedy}."
        )


def _parse_line(line: bytes, origin: str) -> Row | BadRow:
    try:
        text = line.decode()
        value, end = _STRICT.raw_decode(text)
        if end != len(text):
            raise json.JSONDecodeError("Extra data", text, end)
    except (ValueError, RecursionError) as error:
        return BadRow(origin, f"{origin}: {_why(error, line)}.")
    return _to_row(value, origin)


def _why(error: BaseException, line: bytes) -> str:
    """What was expected and found, and the remedy, without the end of the sentence."""
    if b"\0" in line:
        return "expected JSON, found NUL bytes: the file is damaged or is no text; copy it again"
    if isinstance(error, UnicodeDecodeError):
        return f"expected UTF-8, found byte 0x{error.object[error.start]:02x} ({error.reason}); save the file as UTF-8"
    if isinstance(error, json.JSONDecodeError):
        return f"expected JSON, found an error at column {error.colno} ({error.msg}); mend the line"
    if isinstance(error, RecursionError):
        return "expected JSON of moderate depth, found too many nested brackets; mend the line"
    return str(error) if isinstance(error, _AmbiguousError) else f"expected JSON, found a value out of range ({error})"


def _to_row(value: Any, origin: str) -> Row | BadRow:
    if isinstance(value, dict):
        return Row(cast("dict[str, Any]", value), origin)
    reason = f"expected an object with named fields, found {kind_of_value(value)}; write {{…}}"
    return BadRow(origin, f"{origin}: {reason}.")


def kind_of_value(value: Any) -> str:
    """What a JSON value is, in words."""
    kinds = ((str, "a string"), (list, "a list"), (dict, "an object"), (bool, "true or false"))
    return "null" if value is None else next((name for kind, name in kinds if isinstance(value, kind)), "a number")


def read_json(file: DataFile) -> Iterator[Row | BadRow]:
    """A list of objects, decoded one by one. Origins count elements from 0.

    Raises DataError for what is no list, for a list that is not closed, and for broken JSON: where an element ends is
    then unknown.
    """
    with opened(file) as stream:
        scanner = _Scanner(stream, file)
        scanner.open_list()
        index = 0
        closed = scanner.take("]")
        while not closed:
            yield scanner.element(index)
            index += 1
            closed = scanner.take("]")
            if not closed and not scanner.take(","):
                raise scanner.broken(f"{file.name}[{index}]", "',' or ']' missing after an element")
        if scanner.peek():
            raise scanner.broken(file.name, "text after the list")


class _Scanner:
    """Reads JSON values off a stream, with no more text in memory than one value and one chunk."""

    def __init__(self, stream: BinaryIO, file: DataFile) -> None:
        self.stream, self.file = stream, file
        self.decoder = codecs.getincrementaldecoder("utf-8")("strict")
        self.text, self.position, self.num_lines_passed = "", 0, 0
        self.ended = self.damaged = False

    def peek(self) -> str:
        """Pass over blanks; the next character, or nothing at the end."""
        while True:
            match = _BLANK.match(self.text, self.position)
            self.position = match.end() if match else self.position
            if self.position < len(self.text) or self.ended:
                return self.text[self.position : self.position + 1]
            self._fill()

    def take(self, character: str) -> bool:
        """Pass over `character` where it is the next."""
        found = self.peek() == character
        self.position += found
        return found

    def open_list(self) -> None:
        """Pass over the bracket that opens the list. Raises DataError where something else begins."""
        first = self.peek()
        if not first:
            raise empty(self.file)
        if self.take("["):
            return
        line, _, rest = self.text[self.position :].partition("\n")
        if first == "{" and rest.strip() and _is_json(line):
            found, remedy = "one object a line, which is JSON lines", "let the name end in .jsonl"
        elif first == "{":
            found, remedy = "an object", "put the list of rows alone in the file: [{…}, {…}]"
        else:
            found, remedy = (
                f"text that begins {line[:20]!r}",
                "save the rows as [{…}, {…}], or one object a line in .jsonl",
            )
        raise DataError(f"{self.file.name}: expected a list of objects, found {found}; {remedy}.")

    def element(self, index: int) -> Row | BadRow:
        """The next value as a row. Raises DataError where its end cannot be found."""
        origin = f"{self.file.name}[{index}]"
        if not self.peek():
            raise self.broken(origin, "the file ends before the list does")
        while True:
            try:
                value, end = self._decode()
            except json.JSONDecodeError as error:
                if self.ended or (error.pos < len(self.text) - _NEAR_END and not error.msg.startswith("Untermin")):
                    raise self.broken(origin, error.msg, error.pos) from error
            except RecursionError as error:
                raise self.broken(origin, "too many nested brackets") from error
            else:
                if end < len(self.text) or self.ended:  # else a number may go on
                    return self._checked(value, end, origin)
            self._fill(origin)

    def _decode(self) -> tuple[Any, int]:
        try:
            return _STRICT.raw_decode(self.text, self.position)
        except json.JSONDecodeError:
            raise
        except ValueError as error:
            return error, _LENIENT.raw_decode(self.text, self.position)[1]

    def _checked(self, value: Any, end: int, origin: str) -> Row | BadRow:
        start, self.position = self.position, end
        reason = None
        if isinstance(value, ValueError):
            reason = _why(value, b"")
        elif self.damaged:
            reason = bad_bytes(self.text[start:end])
        return BadRow(origin, f"{origin}: {reason}.") if reason else _to_row(value, origin)

    def _fill(self, origin: str = "") -> None:
        """Read on: as much again as is held, so that a long value costs twice its length and no more."""
        rest = self.text[self.position :]
        if len(rest) > MAX_RECORD_BYTES:
            raise too_long(origin or self.file.name, "value")
        self.num_lines_passed += self.text.count("\n", 0, self.position)
        chunk = self.stream.read(max(_CHUNK_BYTES, len(rest)))
        self.ended = not chunk
        self.text, self.position = rest + self._decode_bytes(chunk), 0

    def _decode_bytes(self, chunk: bytes) -> str:
        try:
            return self.decoder.decode(chunk, self.ended)
        except UnicodeDecodeError:
            self.damaged, self.decoder.errors = True, "surrogateescape"  # the rows with bad bytes are found later
            return self.decoder.decode(chunk, self.ended)

    def broken(self, origin: str, what: str, position: int | None = None) -> DataError:
        """The sentence for JSON that cannot be read on from here."""
        line = self.num_lines_passed + self.text.count("\n", 0, self.position if position is None else position) + 1
        cut = ": the file is cut off" if self.ended and not self.text[self.position :].strip() else ""
        if "\0" in self.text[self.position :]:
            cut = ": there are NUL bytes"
        return DataError(
            f"{origin}: expected JSON, found an error on line {line} ({what}{cut}); mend the file, or write one object "
            "a line in a .jsonl file, where one bad row does not spoil the others."
        )


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def bad_bytes(text: str) -> str | None:
    """A reason where text decoded with `surrogateescape` came from bytes that are no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        byte = ord(error.object[error.start]) - 0xDC00
        return f"expected UTF-8, found byte 0x{byte:02x}; save the file as UTF-8"
    return None
