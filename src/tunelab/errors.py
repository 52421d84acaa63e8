"""Errors a user can act on: each message says what was expected, what was found, where, and the remedy."""

import errno
import os
import re
import signal

STORAGE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)


class TunelabError(Exception):
    """A problem the user can mend. Commands print its message and exit with code 1, without a traceback."""


class ConfigError(TunelabError):
    """The configuration is wrong or contradicts itself."""


class DataError(TunelabError):
    """A data file is missing, unreadable, or holds rows that cannot be used."""


class ModelError(TunelabError):
    """The base model, its tokenizer or the adapter cannot be used as asked."""


class CheckpointError(TunelabError):
    """A checkpoint or an export is missing, damaged, or belongs to another run."""


class Interrupted(BaseException):
    """Stopped by a signal; no error: a run can go on. Commands exit with 128 + the signal's number."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.exit_code = 128 + number


def storage_problem(error: BaseException, place: str) -> str | None:
    """`<file>: <why>` where the disk is full or may not be written; None where `error` is about something else.

    Libraries written in Rust raise an error of their own, with the number in the text; `place` stands for an unknown
    file.
    """
    if isinstance(error, TunelabError):
        return None
    in_text = re.search(r"\(os error (\d+)\)", str(error))
    number = error.errno if isinstance(error, OSError) else int(in_text[1]) if in_text else None
    if number not in STORAGE_ERRORS:
        return None
    file = error.filename if isinstance(error, OSError) else None
    return f"{file or place}: {os.strerror(number)}"


def first_line(error: BaseException) -> str:
    """The first line of another library's message, shortened, to be quoted within a sentence of ours."""
    lines = str(error).strip().splitlines()
    return lines[0][:200].rstrip(". ") if lines else type(error).__name__
