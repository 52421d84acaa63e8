"""What every section of the configuration has: checked values, plain form, and a record of what was read."""

import dataclasses
from enum import Enum
from typing import Any

from tunelab.errors import ConfigError

MISSING: Any = "???"


class Section:
    """Base of every config section: remembers which of its keys were read (for the unread-key audit)."""

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_"):
            object.__getattribute__(self, "__dict__").setdefault("_read", set()).add(name)
        return object.__getattribute__(self, name)


def require(condition: bool, key: str, expected: str, found: object) -> None:
    """Raise a ConfigError naming `key` unless `condition` holds."""
    if not condition:
        raise ConfigError(f"{key}: expected {expected}, found {found!r}; set {key}=<value>.")


def to_plain(value: Any) -> Any:
    """Turn a config tree into dictionaries, lists and scalars (enums by their value); reads are not recorded."""
    if isinstance(value, Section):
        attributes = object.__getattribute__(value, "__dict__")
        return {f.name: to_plain(attributes[f.name]) for f in dataclasses.fields(value)}  # pyright: ignore
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dict):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    return value


def read_keys(section: Section) -> set[str]:
    """Names of the fields of `section` that have been read since it was made."""
    return set(object.__getattribute__(section, "__dict__").get("_read", ()))


def mark_read(section: Section, *names: str) -> None:
    """Record that these keys are used, where the use comes after the unread-key audit or in another process."""
    for name in names:
        getattr(section, name)


def all_reads(section: Section, prefix: str = "") -> list[str]:
    """The keys that have been read in `section` and below, as `quality.overlap`."""
    names = sorted(read_keys(section))
    values = object.__getattribute__(section, "__dict__")
    below = [all_reads(values[name], f"{prefix}{name}.") for name in names if isinstance(values[name], Section)]
    return [f"{prefix}{name}" for name in names] + [name for group in below for name in group]


def mark_reads(section: Section, names: list[str]) -> None:
    """Record the keys that `all_reads` gave as read."""
    for name in names:
        owner = section
        for part in name.split("."):
            owner = getattr(owner, part)


def forget_reads(section: Section) -> None:
    """Start the record of reads anew, in `section` and below."""
    attributes = object.__getattribute__(section, "__dict__")
    attributes.pop("_read", None)
    for value in attributes.values():
        if isinstance(value, Section):
            forget_reads(value)
