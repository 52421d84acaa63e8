"""Finds keys that were set and would be ignored: a run must not pretend to have used them."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from tunelab.config import DataConfig, RunConfig, Section, read_entries, read_keys
from tunelab.embedded import PREFIX
from tunelab.errors import ConfigError


def refuse_unread_keys(config: Section, overrides: Sequence[str], below: str = "") -> None:
    """Check, at the end of set-up, that every key typed on the command line that begins with `below` has been read.

    Raises:
        ConfigError: one was not, because another choice makes it meaningless.
    """
    typed = [key for key in map(_key_of, overrides) if key and key.startswith(below)]
    unread = [key for key in typed if _is_unread(config, key.split("."))]
    several = [key for key in unread if key.startswith(("sweep.", "search."))]
    if several and isinstance(config, RunConfig) and not below:
        raise ConfigError(
            f"{', '.join(several)}: expected in a sweep (-m), found in a single run; add -m, or remove it."
        )
    if unread:
        raise ConfigError(
            f"{', '.join(unread)}: set, but nothing uses it in this configuration (another choice makes it "
            "meaningless); remove it, or change that choice."
        )


def refuse_foreign_splits(data: DataConfig, overrides: Sequence[str]) -> None:
    """Check that data of one's own are not measured on the embedded set that is the default, unless it was chosen.

    Raises:
        ConfigError: training data were typed, and the other splits are those of a set that nobody typed.
    """
    typed = {key: value for key, _, value in (each.lstrip("+").partition("=") for each in overrides)}
    own = next((key for key in ("data.path", "data.mix", "data.info") if key in typed), None)
    if own is None or "data" in typed or typed[own].strip("'\"").startswith(PREFIX):
        return
    splits = {"data.validation_path": data.validation_path, "data.test_path": data.test_path}
    foreign = [key for key, path in splits.items() if key not in typed and (path or "").startswith(PREFIX)]
    if foreign:
        raise ConfigError(
            f"{own}: set beside {' and '.join(foreign)} of the embedded set, which is the default; set data=file too "
            "(or data=tickets, to train on yours and measure on these)."
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
