"""Files that are whole or as they were: written under another name in the same folder, flushed to disk, renamed."""

import contextlib
import json
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

from tunelab.strict_json import finite


def write_bytes(path: Path, content: bytes) -> None:
    """Replace `path` by a file of this content; whatever fails, a kill included, leaves the old file.

    Raises:
        OSError: the folder cannot be written, or the disk is full; it names `path`.
    """
    staging = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with naming(path):
            _replace(path, staging, content)
    finally:
        staging.unlink(missing_ok=True)


def append_line(path: Path, line: str) -> None:
    """Add a line to a UTF-8 text file.

    Raises:
        OSError: as `write_bytes`.
    """
    with naming(path), path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


@contextlib.contextmanager
def naming(path: Path) -> Generator[None]:
    """Name `path` in the error of the system: that of a full disk names no file, and ours go by another name first."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def _replace(path: Path, staging: Path, content: bytes) -> None:
    with staging.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    staging.replace(path)
    fsync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """The same for UTF-8 text; a lone surrogate, which UTF-8 cannot hold, becomes a backslash escape (as in JSON)."""
    write_bytes(path, text.encode("utf-8", errors="backslashreplace"))


def write_json(path: Path, content: Any) -> None:
    """The same for JSON; it knows no infinity and no nan, they become null."""
    write_text(path, json.dumps(finite(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def fsync_folder(folder: Path) -> None:
    """Make a rename in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems refuse; the rename itself is still atomic
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_files(folder: Path) -> None:
    """Make the content of every file in `folder` and below durable."""
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            with file.open("rb+") as opened:
                os.fsync(opened.fileno())


def remove_stale(folder: Path) -> None:
    """Delete temporary files that a killed process left in `folder`."""
    for stale in folder.glob(".*.tmp"):
        stale.unlink(missing_ok=True)
