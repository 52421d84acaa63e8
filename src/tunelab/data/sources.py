"""Data files become rows; every row remembers where it stands, and every failure says where it lies."""

import csv
import difflib
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

from tunelab.data.records import Row
from tunelab.embedded import locate
from tunelab.errors import DataError

_FIELD_LIMIT = 2**31 - 1  # bytes of one CSV field; Python's own limit is 128 KiB, less than a long document


def read_rows(path: str, key: str = "data.path") -> list[Row]:
    """Read all rows of a .json (list of objects), .jsonl or .csv file in UTF-8, with or without BOM.

    `path` may start with `embedded:`; `key` is the configuration key that messages name. An `origin` is
    `train.jsonl:17` (line, from 1; for .csv the line where the record starts) or `train.json[17]` (index,
    from 0). Raises DataError for a file or a row that cannot be read, and for a file without rows.
    """
    file = data_file(path, key)
    reader = _READERS.get(file.suffix.lower())
    if reader is None:
        known = ", ".join(_READERS)
        raise DataError(f"{key}: expected a file ending in one of {known}, found {path!r}.")
    rows = list(reader(file.name, _read_text(file)))
    if not rows:
        raise DataError(f"{file.name}: expected at least one row, found an empty file; set {key}=<file with rows>.")
    return rows


def data_file(path: str, key: str = "data.path") -> Path:
    """Return the existing file that `path` means. Raises DataError naming `key` and the nearest file name."""
    file = Path(locate(path))
    if file.is_dir():
        raise DataError(f"{key}: expected a file, found the folder {path!r}; set {key}=<a file in it>.")
    if not file.exists():
        raise DataError(f"{key}: no file {path!r} (looked for {file.absolute()}){_hint(file)}; set {key}=<file>.")
    return file


def _hint(file: Path) -> str:
    if not file.parent.is_dir():
        return f", and there is no folder {str(file.parent)!r}"
    names = [other.name for other in file.parent.iterdir() if other.is_file()]
    near = difflib.get_close_matches(file.name, names, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _read_text(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise DataError(f"{file.name}:{line}: expected UTF-8, found {error.reason}; save the file as UTF-8.") from error
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}).") from error


def _read_jsonl(name: str, text: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), start=1):  # not splitlines: U+2028 is no end of a JSON line
        if line.strip():
            origin = f"{name}:{number}"
            yield _row(_parse_json(line, origin), origin)


def _read_json(name: str, text: str) -> Iterator[Row]:
    if not text.strip():
        return
    try:
        records = _parse_json(text, name)
    except DataError as error:
        lines = "; one object a line belongs in a .jsonl file" if "Extra data" in str(error) else ""
        raise DataError(f"{error}{lines}") from error
    if not isinstance(records, list):
        raise DataError(f"{name}: expected a list of objects, found {_kind(records)}; use [{{…}}, {{…}}] or .jsonl.")
    for index, record in enumerate(cast("list[Any]", records)):
        origin = f"{name}[{index}]"
        yield _row(record, origin)


def _parse_json(text: str, origin: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}" if "\n" in text.strip() else f"column {error.colno}"
        raise DataError(f"{origin}: expected JSON, found an error at {where}: {error.msg}") from error
    except RecursionError as error:
        raise DataError(f"{origin}: expected JSON of moderate depth, found too many nested brackets.") from error


def _row(record: Any, origin: str) -> Row:
    if not isinstance(record, dict):
        raise DataError(f"{origin}: expected an object with named fields, found {_kind(record)}.")
    return Row(cast("dict[str, Any]", record), origin)


def _kind(value: Any) -> str:
    kinds = ((str, "a string"), (list, "a list"), (dict, "an object"), (bool, "true or false"))
    return "null" if value is None else next((name for kind, name in kinds if isinstance(value, kind)), "a number")


def _read_csv(name: str, text: str) -> Iterator[Row]:
    csv.field_size_limit(_FIELD_LIMIT)
    lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] | None = None
    start = 1
    try:
        for fields in lines:
            origin, start = f"{name}:{start}", lines.line_num + 1
            if header is None:
                header = _header(fields, origin)
            elif fields:  # a blank line is no record
                yield _record(header, fields, origin)
    except csv.Error as error:
        raise DataError(f"{name}:{start}: expected CSV, found an error: {error}.") from error


def _header(fields: list[str], origin: str) -> list[str]:
    repeated = sorted({column for column in fields if fields.count(column) > 1})
    if repeated:
        raise DataError(f"{origin}: expected distinct column names, found {', '.join(map(repr, repeated))} twice.")
    return fields


def _record(header: list[str], fields: list[str], origin: str) -> Row:
    if len(fields) != len(header):
        raise DataError(f"{origin}: expected {len(header)} fields as in the header, found {len(fields)}.")
    return Row(dict(zip(header, fields, strict=True)), origin)


_READERS: dict[str, Callable[[str, str], Iterator[Row]]] = {
    ".json": _read_json,
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
}
