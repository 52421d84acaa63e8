"""New folders: under a name that is free, or complete and on the disk before they have their name."""

import contextlib
import itertools
import os
import shutil
from collections.abc import Generator
from pathlib import Path

from tunelab import atomic
from tunelab.errors import ConfigError, storage_problem


def make_new_folder(wanted: Path) -> Path:
    """Create `wanted`, or the first free `wanted-2`, `wanted-3`, …: two runs never share a folder."""
    wanted.parent.mkdir(parents=True, exist_ok=True)
    while True:
        try:
            path = free_name(wanted)
            path.mkdir()
            return path
        except FileExistsError:  # another process was faster
            continue


def free_name(wanted: Path) -> Path:
    """`wanted`, or the first of `wanted-2`, `wanted-3`, … that is not there."""
    names = (wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}") for number in itertools.count(1))
    return next(path for path in names if not os.path.lexists(path))  # a dangling link is taken too


@contextlib.contextmanager
def complete_folder(wanted: Path) -> Generator[Path]:
    """A folder that appears under its name when it is complete and on the disk.

    What a kill leaves has another name, beside it: `.<name>.<process>.tmp`.

    Raises:
        ConfigError: the folder exists already, cannot be written, or the disk is full.
    """
    if wanted.exists():
        raise ConfigError(f"to: expected a new folder, found {str(wanted)!r} there already; set to=<another folder>.")
    staging = wanted.with_name(f".{wanted.name}.{os.getpid()}.tmp")
    try:
        staging.mkdir(parents=True)
        yield staging
        atomic.fsync_files(staging)
        staging.rename(wanted)
        atomic.fsync_folder(wanted.parent)
    except Exception as error:
        problem = storage_problem(error, str(wanted))
        if problem is None and not isinstance(error, OSError):
            raise
        reason = problem.rpartition(": ")[2] if problem else getattr(error, "strerror", None) or error
        raise ConfigError(f"to: {str(wanted)!r} cannot be written ({reason}); set to=<another folder>.") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
