"""Finds keys that were set and would be ignored: a run must not pretend to have used them."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from tunelab.config import Section, read_entries, read_keys
from tunelab.errors import ConfigError


def refuse_unread_keys(config: Section, overrides: Sequence[str], below: str = "") -> None:
    """Check, at the end of set-up, that every key typed on the command line that begins with `below` has been read.

    Raises:
        ConfigError: one was not, because another choice makes it meaningless.
    """
    typed = [key for key in map(_key_of, overrides) if key and key.startswith(below)]
    unread = [key for key in typed if _is_unread(config, key.split("."))]
    if unread:
        raise ConfigError(
            f"{', '.join(unread)}: set, but nothing uses it in this configuration (another choice makes it "
            "meaningless); remove it, or change that choice."
        )


def _key_of(override: str) -> str:
    return override.partition("=")[0].lstrip("+") if "=" in override and override[0] != "~" else ""


def _is_unread(section: Any, path: list[str]) -> bool:
    """True for a field, a whole section, or a key of a dictionary that was not read; a dictionary was chosen whole.

    What a dictionary holds may be sections, of which keys are typed.
    """
    if not isinstance(section, Section) or path[0] not in {f.name for f in dataclasses.fields(section)}:  # pyright: ignore
        return False
    value = object.__getattribute__(section, "__dict__")[path[0]]
    if len(path) == 1:
        return not isinstance(value, Mapping) and path[0] not in read_keys(section)
    if isinstance(value, Mapping):
        if path[1] not in read_entries(section, path[0]):
            return True
        return len(path) > 2 and _is_unread(value.get(path[1]), path[2:])
    return _is_unread(value, path[1:])
