"""Reads Parquet and Arrow files batch by batch; rows hold plain JSON values, whatever the columns' types."""

import json
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any, cast

from tunelab.data.records import BadRow, Row
from tunelab.data.sources.streams import HEAD_BYTES, DataFile, empty, refuse_foreign, unreadable
from tunelab.errors import DataError, first_line

_BATCH_ROWS = 256
_Convert = Callable[[Any], Any]


def read_parquet(file: DataFile) -> Iterator[Row | BadRow]:
    """The rows of a Parquet file. Origins count rows from 0. Raises DataError for what is no whole Parquet file."""
    import pyarrow.parquet as pq

    with _readable(file, b"PAR1", "a Parquet file"), pq.ParquetFile(file.path) as table:
        names = cast("list[str]", table.schema_arrow.names)
        yield from rows_of(table.iter_batches(batch_size=_BATCH_ROWS), _distinct(names, file), file.name)


def read_arrow(file: DataFile) -> Iterator[Row | BadRow]:
    """The rows of an Arrow (Feather 2) file or of the stream that `save_to_disk` writes; memory-mapped."""
    import pyarrow as pa

    with _readable(file, b"ARROW1", "an Arrow file"), pa.memory_map(str(file.path)) as memory:
        if memory.read(6) == b"ARROW1":
            reader = pa.ipc.open_file(memory)
            batches = (reader.get_batch(index) for index in range(reader.num_record_batches))
        else:
            memory.seek(0)
            batches = reader = pa.ipc.open_stream(memory)
        yield from rows_of(batches, _distinct(reader.schema.names, file), file.name)


@contextmanager
def _readable(file: DataFile, magic: bytes, what: str) -> Generator[None]:
    import pyarrow as pa

    try:
        with file.path.open("rb") as stream:
            head = stream.read(HEAD_BYTES)
        if not head:
            raise empty(file)
        refuse_foreign(head, file, own=magic)
        yield
    except pa.ArrowException as error:
        raise DataError(
            f"{file.name}: expected {what}, found one that is cut off, damaged or of another kind "
            f"({first_line(error)}); write or copy it again, or set {file.key}=<another file>."
        ) from error
    except OSError as error:
        raise unreadable(file, error) from error


def _distinct(names: list[str], file: DataFile) -> list[str]:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        found = ", ".join(map(repr, repeated))
        raise DataError(
            f"{file.name}: expected distinct column names, found {found} more than once; rename one of them."
        )
    return names


def rows_of(batches: Any, names: list[str], name: str) -> Iterator[Row | BadRow]:
    """The rows of Arrow record batches; origins are `name[index]`."""
    start = 0
    for whole in batches:
        converts = {field.name: convert for field in whole.schema if (convert := _conversion(field.type))}
        for offset in range(0, whole.num_rows, _BATCH_ROWS):
            batch = whole.slice(offset, _BATCH_ROWS)
            for index, row in enumerate(_records(batch, names, converts), start=start + offset):
                origin = f"{name}[{index}]"
                yield BadRow(origin, f"{origin}: {row}.") if isinstance(row, str) else Row(row, origin)
        start += whole.num_rows


def _records(batch: Any, names: list[str], converts: dict[str, _Convert]) -> Iterator[dict[str, Any] | str]:
    """The rows of one batch; a sentence in place of a row that holds what is no text or no JSON."""
    try:
        columns = [_values(batch.column(name), converts.get(name)) for name in names]
    except ValueError as error:
        if batch.num_rows == 1:
            yield f"expected UTF-8 text and whole JSON values, found others ({first_line(error)}); mend the row"
            return
        for index in range(batch.num_rows):
            yield from _records(batch.slice(index, 1), names, converts)
        return
    for values in zip(*columns, strict=True):
        yield dict(zip(names, values, strict=True))


def _values(column: Any, convert: _Convert | None) -> list[Any]:
    values = column.to_pylist()
    return [None if value is None else convert(value) for value in values] if convert else values


def _conversion(kind: Any) -> _Convert | None:
    """How values of an Arrow type become plain JSON values; None where they are already."""
    import pyarrow as pa

    types = pa.types
    if str(kind) == "extension<arrow.json>":
        return json.loads
    if types.is_struct(kind):
        inner = {field.name: convert for field in kind if (convert := _conversion(field.type))}
        return (lambda value: _convert_struct(value, inner)) if inner else None
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        inside = _conversion(kind.value_type)
        return (lambda value: [None if item is None else inside(item) for item in value]) if inside else None
    if types.is_map(kind):
        return dict
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        return _text_or_hex
    plain = (types.is_integer, types.is_floating, types.is_boolean, types.is_string, types.is_large_string)
    return None if any(test(kind) for test in (*plain, types.is_null, types.is_dictionary)) else str


def _convert_struct(value: dict[str, Any], inner: dict[str, _Convert]) -> dict[str, Any]:
    return {name: inner[name](item) if name in inner and item is not None else item for name, item in value.items()}


def _text_or_hex(value: bytes) -> str:
    """Bytes as text, which some writers store so; others (pictures) in hexadecimal digits, so that nothing is lost."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.hex()
