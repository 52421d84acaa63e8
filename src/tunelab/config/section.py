"""What every section of the configuration has: checked values, plain form, and a record of what was read."""

import dataclasses
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any

from tunelab.errors import ConfigError

MISSING: Any = "???"


class Entries(Mapping[str, Any]):
    """A dictionary of the configuration that remembers which of its keys were read."""

    __slots__ = ("_content", "_record")

    def __init__(self, content: Mapping[str, Any], record: set[str]) -> None:
        self._content, self._record = content, record

    def __getitem__(self, key: str) -> Any:
        value = self._content[key]
        self._record.add(key)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._content)

    def __len__(self) -> int:
        return len(self._content)

    def __contains__(self, key: object) -> bool:
        return key in self._content

    def __repr__(self) -> str:
        return repr(self._content)

    def __or__(self, more: Mapping[str, Any]) -> "Entries":
        """The same with `more` entries; what is read of it counts as read of these."""
        return Entries({**self._content, **more}, self._record)


class Section:
    """Base of every config section: remembers which of its keys were read (for the unread-key audit).

    What its fields of type `dict` hold is given as `Entries`, which remember it for their keys, from the first
    `forget_reads` on: while the tree is built, OmegaConf wants the dictionaries themselves.
    """

    def __getattribute__(self, name: str) -> Any:
        value = object.__getattribute__(self, name)
        if name.startswith("_"):
            return value
        attributes = object.__getattribute__(self, "__dict__")
        attributes.setdefault("_read", set()).add(name)
        if isinstance(value, dict) and "_read_entries" in attributes:
            return Entries(value, attributes["_read_entries"].setdefault(name, set()))
        return value


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
    if isinstance(value, Entries):
        return to_plain(value._content)  # pyright: ignore[reportPrivateUsage]
    if isinstance(value, Mapping):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    return value


def read_keys(section: Section) -> set[str]:
    """Names of the fields of `section` that have been read since it was made."""
    return set(object.__getattribute__(section, "__dict__").get("_read", ()))


def read_entries(section: Section, name: str) -> set[str]:
    """Keys that have been read of the dictionary `name` of `section`; all of them where there is no record."""
    attributes = object.__getattribute__(section, "__dict__")
    return set(attributes["_read_entries"].get(name, ()) if "_read_entries" in attributes else attributes[name])


def mark_read(section: Section | Mapping[str, Any], *names: str) -> None:
    """Record that these keys are used, where the use comes after the unread-key audit or in another process."""
    for name in names:
        _ = getattr(section, name) if isinstance(section, Section) else section.get(name)


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
    attributes["_read_entries"] = {}
    for value in attributes.values():
        for each in value.values() if isinstance(value, dict) else (value,):
            if isinstance(each, Section):
                forget_reads(each)
