"""Errors a user can act on: each message says what was expected, what was found, where, and the remedy."""


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


def first_line(error: BaseException) -> str:
    """The first line of another library's message, shortened, to be quoted within a sentence of ours."""
    lines = str(error).strip().splitlines()
    return lines[0][:200].rstrip(". ") if lines else type(error).__name__
