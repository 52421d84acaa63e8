"""Opens a data file as bytes, decompressed on the way, and cuts it into lines: no more than one line is in memory."""

import codecs
import gzip
import io
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

from tunelab.errors import DataError, first_line

MAX_RECORD_BYTES = 256 * 2**20  # of one line, one object or one text file
HEAD_BYTES = 64
_BUFFER_BYTES = 2**20

# How files begin that carry another file's name: beginning (in lower case) → what it is, and what to do.
_FOREIGN = {
    b"\x1f\x8b": ("data compressed by gzip", "let the file's name end in .gz"),
    b"\x28\xb5\x2f\xfd": ("data compressed by zstd", "let the file's name end in .zst"),
    b"pk\x03\x04": ("a ZIP archive", "unpack it"),
    b"par1": ("a Parquet file", "let the file's name end in .parquet"),
    b"arrow1": ("an Arrow file", "let the file's name end in .arrow"),
    codecs.BOM_UTF16_LE: ("UTF-16", "save the file as UTF-8"),
    codecs.BOM_UTF16_BE: ("UTF-16", "save the file as UTF-8"),
    b"version https://git-lfs": ("a Git LFS pointer in place of the file", "run git lfs pull"),
    b"<!doctype html": ("a web page", "download the file itself"),
    b"<html": ("a web page", "download the file itself"),
}


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file to read. `name` is what origins quote (`train.jsonl`); `key` is the configuration key that led to it."""

    path: Path
    name: str
    key: str = "data.path"


@contextmanager
def opened(file: DataFile) -> Generator[BinaryIO]:
    """Open a text file for reading bytes, behind its byte-order mark; .gz and .zst are decompressed.

    Raises DataError for a file that cannot be read to its end, and for one that is plainly something else.
    """
    try:
        with _open(file.path) as stream:
            head = cast(Any, stream).peek(HEAD_BYTES)[:HEAD_BYTES]
            refuse_foreign(head, file)
            if head.startswith(codecs.BOM_UTF8):
                stream.read(len(codecs.BOM_UTF8))
            yield stream
    except (OSError, EOFError, zlib.error) as error:
        raise unreadable(file, error) from error


def _open(path: Path) -> BinaryIO:
    suffix = path.suffix.lower()
    if suffix == ".gz":
        return io.BufferedReader(cast(Any, gzip.open(path)), _BUFFER_BYTES)
    if suffix == ".zst":
        import pyarrow as pa  # a fifth of a second, which plain files need not wait for

        return io.BufferedReader(cast(Any, pa.CompressedInputStream(str(path), "zstd")), _BUFFER_BYTES)
    return path.open("rb", buffering=_BUFFER_BYTES)


def unreadable(file: DataFile, error: BaseException) -> DataError:
    """The sentence for a file that the system, or a decompressor, cannot read to its end."""
    strerror = getattr(error, "strerror", None)
    why = strerror if isinstance(strerror, str) else first_line(error)
    damage = "is cut off or damaged" if strerror is None else "cannot be read"
    return DataError(
        f"{file.name}: expected a file that can be read to its end, found one that {damage} ({why}); "
        f"mend or copy it again, or set {file.key}=<another file>."
    )


def refuse_foreign(head: bytes, file: DataFile, own: bytes = b"") -> None:
    """Raise DataError where a file begins like a file of quite another kind. `own`: how its own kind begins."""
    lowered = head.lower()
    for beginning, (what, remedy) in _FOREIGN.items():
        if beginning != own.lower() and lowered.startswith(beginning):
            raise DataError(f"{file.name}: expected what the name's ending says, found {what}; {remedy}.")


def lines_of(stream: BinaryIO, file: DataFile) -> Iterator[bytes]:
    """The lines of a stream, with their ends. Raises DataError for one longer than `MAX_RECORD_BYTES`."""
    limit = MAX_RECORD_BYTES
    for number, line in enumerate(iter(partial(stream.readline, limit + 1), b""), start=1):
        if len(line) > limit:
            raise too_long(f"{file.name}:{number}", "line")
        yield line


def too_long(origin: str, what: str) -> DataError:
    """The sentence for a record that would not fit in memory."""
    return DataError(
        f"{origin}: expected a {what} of at most {MAX_RECORD_BYTES:,} bytes, found a longer one; "
        "put line ends between the records, or split it into several rows."
    )


def empty(file: DataFile) -> DataError:
    """The sentence for a file that holds nothing."""
    return DataError(f"{file.name}: expected at least one row, found an empty file; set {file.key}=<file with rows>.")
