"""Reads tables of text: CSV and TSV with a header; and plain text, one document a file."""

import csv
from collections.abc import Iterator
from typing import Any, BinaryIO

from tunelab.data.records import BadRow, Row
from tunelab.data.sources.json_records import bad_bytes
from tunelab.data.sources.streams import MAX_RECORD_BYTES, DataFile, empty, lines_of, opened, too_long
from tunelab.errors import DataError

_SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons"}


def read_csv(file: DataFile) -> Iterator[Row | BadRow]:
    """Records separated by commas, as spreadsheets write them; see `_read_delimited`."""
    return _read_delimited(file, ",")


def read_tsv(file: DataFile) -> Iterator[Row | BadRow]:
    """Records separated by tabs, quoted as in CSV; see `_read_delimited`."""
    return _read_delimited(file, "\t")


def read_text(file: DataFile) -> Iterator[Row | BadRow]:
    """The whole file as one row with the column `text`; its origin is the file's name."""
    with opened(file) as stream:
        data = stream.read(MAX_RECORD_BYTES + 1)
    if len(data) > MAX_RECORD_BYTES:
        raise too_long(file.name, "text file")
    text = data.decode(errors="surrogateescape")
    if not text.strip():
        raise empty(file)
    reason = bad_bytes(text) or _nul(text)
    yield BadRow(file.name, f"{file.name}: {reason}.") if reason else Row({"text": text}, file.name)


def _nul(text: str) -> str | None:
    return (
        "expected text, found NUL characters: the file is damaged or is no text; copy it again" * ("\0" in text) or None
    )


def _read_delimited(file: DataFile, separator: str) -> Iterator[Row | BadRow]:
    """Yield the records below the header, which names the columns. Origins give the line where a record starts.

    Raises DataError for a missing or unusable header and for a quote that is never closed.
    """
    csv.field_size_limit(MAX_RECORD_BYTES)  # Python's own limit is 128 KiB, less than a long document
    with opened(file) as stream:
        lines = _Lines(stream, file)
        records = csv.reader(lines, delimiter=separator, strict=True)
        header = _header(records, file, separator)
        while True:
            start = records.line_num + 1
            record = _next(records, file, start)
            if record is None:
                return
            if record:  # a blank line is no record
                yield _row(header, record, f"{file.name}:{start}", lines.take_damaged(), separator)


class _Lines:
    """Decodes lines for the csv module; remembers whether one was no UTF-8."""

    def __init__(self, stream: BinaryIO, file: DataFile) -> None:
        self._lines = lines_of(stream, file)
        self._damaged = False

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        try:
            return line.decode()
        except UnicodeDecodeError:
            self._damaged = True
            return line.decode(errors="surrogateescape")

    def take_damaged(self) -> bool:
        """Whether a line since the last call was no UTF-8."""
        damaged, self._damaged = self._damaged, False
        return damaged


def _next(records: Any, file: DataFile, start: int) -> list[str] | csv.Error | None:
    """The next record, the error in it, or None at the end. Raises DataError for one that swallows what follows."""
    try:
        return next(records, None)
    except csv.Error as error:
        if "unexpected end of data" in str(error):
            raise DataError(
                f"{file.name}:{start}: expected CSV, found a quote that opens in this record and is never closed; "
                'close it, and write a quote within a quoted field twice ("").'
            ) from error
        if "field limit" in str(error):
            raise too_long(f"{file.name}:{start}", "field") from error
        return error


def _header(records: Any, file: DataFile, separator: str) -> list[str]:
    header: list[str] | csv.Error | None = []
    while header == []:
        start = records.line_num + 1
        header = _next(records, file, start)
    origin = f"{file.name}:{records.line_num}"
    if header is None:
        raise empty(file)
    if isinstance(header, csv.Error):
        raise DataError(f"{origin}: expected a header of column names, found an error ({header}); mend the first line.")
    if not any(column.strip() for column in header) or bad_bytes("".join(header)):
        raise DataError(
            f"{origin}: expected a header of column names in UTF-8, found none; write one as the first line."
        )
    repeated = sorted({column for column in header if header.count(column) > 1})
    if repeated:
        names = ", ".join(map(repr, repeated))
        raise DataError(f"{origin}: expected distinct column names, found {names} more than once; rename one of them.")
    other = next((s for s in _SEPARATORS if s != separator and len(header) == 1 and s in header[0]), None)
    if other:
        remedy = {"\t": "let the name end in .tsv", ",": "let the name end in .csv"}.get(
            other, "separate them by commas"
        )
        raise DataError(
            f"{origin}: expected columns separated by {_SEPARATORS[separator]}, found one column {header[0]!r} with "
            f"{_SEPARATORS[other]} in it; {remedy}."
        )
    return header


def _row(header: list[str], record: list[str] | csv.Error, origin: str, damaged: bool, separator: str) -> Row | BadRow:
    if isinstance(record, csv.Error):
        return BadRow(origin, f"{origin}: expected CSV, found an error ({record}); quote the field that holds it.")
    text = "".join(record)
    reason = (bad_bytes(text) if damaged else None) or _nul(text)
    if reason is None and len(record) != len(header):
        reason = (
            f"expected {len(header)} fields as in the header, found {len(record)}; quote fields that hold "
            f"{_SEPARATORS[separator]} or line ends"
        )
    return BadRow(origin, f"{origin}: {reason}.") if reason else Row(dict(zip(header, record, strict=True)), origin)
