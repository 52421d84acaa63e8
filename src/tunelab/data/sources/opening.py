"""Where rows come from: each source of the configuration becomes a `Source`, which can be read again and again."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import TypeVar

from tunelab.config import ColumnsConfig, DataConfig, MixedSourceConfig, TagsConfig
from tunelab.data.records import BadRow, Row
from tunelab.data.sources.dataset_info import InfoEntry, read_entry
from tunelab.data.sources.hub import HubName, HubRows, load_from_hub
from tunelab.data.sources.locating import SPLIT_OF_KEY, Files, exists, find_files
from tunelab.data.sources.readers import kind_of
from tunelab.errors import ConfigError, DataError

_HUB_NAME = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?::(?P<split>[\w.-]+))?")
_Names = TypeVar("_Names", ColumnsConfig, TagsConfig)


@dataclass(frozen=True, slots=True)
class Source:
    """One data set: its rows, and how they are to be understood.

    `name` is what was typed, `key` the configuration key that messages name. `weight` says how often each row is seen
    in an epoch; of the rows, the first `max_rows` are read. `format` is "auto" or a name.
    """

    name: str
    key: str
    format: str
    columns: ColumnsConfig
    tags: TagsConfig
    content: Files | HubRows
    weight: float = 1.0
    max_rows: int | None = None

    @property
    def note(self) -> str:
        """What was decided about reading it, for the report; empty where there was nothing to decide."""
        return self.content.note

    def rows(self) -> Iterator[Row | BadRow]:
        """Read the rows from the beginning, in the same order each time, a little at a time.

        Raises DataError for what breaks a whole file, and where no row can be used.
        """
        num_rows, first_bad = 0, None
        for row in self.content.rows():
            yield row
            if isinstance(row, BadRow):
                first_bad = first_bad or row.reason
                continue
            num_rows += 1
            if num_rows == self.max_rows:
                return
        if not num_rows:
            found = f"bad rows only, the first: {first_bad.rstrip('.')}" if first_bad else "none"
            raise DataError(f"{self.key}: expected at least one row in {self.name!r}, found {found}; set another file.")

    def fingerprints(self) -> dict[str, str]:
        """SHA-256 of each file by its name; of a hub data set the commit, or the SHA-256 of its Arrow files."""
        return self.content.fingerprints()


def training_sources(config: DataConfig) -> list[Source]:
    """Return what `data.path`, `data.mix`, or `data.info` with `data.name` mean.

    Raises ConfigError unless exactly one of the three is set, DataError for what cannot be found.
    """
    given = [key for key, value in (("path", config.path), ("mix", config.mix), ("info", config.info)) if value]
    if len(given) != 1:
        found = " and ".join(f"data.{key}" for key in given) or "none of them"
        raise ConfigError(
            f"data.path: expected one of data.path, data.mix or data.info (with data.name), found {found}; "
            "set data.path=<file, folder, glob or hub name>."
        )
    if config.path:
        return [_source(config, config.path, "data.path")]
    if config.info:
        return [_from_info(config, _entry(config, config.info))]
    return [_mixed(config, item, f"data.mix[{index}].path") for index, item in enumerate(config.mix)]


def evaluation_source(config: DataConfig, key: str) -> Source | None:
    """Return what `data.validation_path` or `data.test_path` (the `key`) means; None where it is not set.

    Format, columns and tags are those of the training rows: of `data`, or of the entry of `data.info`.
    """
    path = config.validation_path if key == "data.validation_path" else config.test_path
    if path is None:
        return None
    if not config.info:
        return _source(config, path, key)
    entry = _entry(config, config.info)
    return Source(path, key, entry.format, entry.columns, entry.tags, _content(config, path, key))


def _entry(config: DataConfig, info: str) -> InfoEntry:
    return read_entry(info, config.name)


def _source(config: DataConfig, path: str, key: str) -> Source:
    return Source(path, key, config.format, config.columns, config.tags, _content(config, path, key))


def _mixed(config: DataConfig, item: MixedSourceConfig, key: str) -> Source:
    return Source(
        name=item.path,
        key=key,
        format=config.format if item.format is None else item.format,
        columns=_merged(item.columns, config.columns),
        tags=_merged(item.tags, config.tags),
        content=_content(config, item.path, key),
        weight=item.weight,
        max_rows=item.max_rows,
    )


def _merged(own: _Names, shared: _Names) -> _Names:
    """The names of `own`, and those of `shared` where `own` has none; `shared` itself where `own` has none at all."""
    names = {field.name: getattr(own, field.name) for field in fields(own)}
    if not any(names.values()):
        return shared
    return type(own)(**{name: getattr(shared, name) if value is None else value for name, value in names.items()})


def _content(config: DataConfig, path: str, key: str) -> Files | HubRows:
    match = _HUB_NAME.fullmatch(path)
    if match is None or exists(path) or kind_of(path):
        return find_files(path, key)
    split = match["split"] or SPLIT_OF_KEY.get(key) or config.hub_split
    return load_from_hub(HubName(match["name"], config.subset, split, config.revision), key)


def _from_info(config: DataConfig, entry: InfoEntry) -> Source:
    if entry.hub is None:
        content: Files | HubRows = find_files(entry.path, "data.name")
    else:
        revision = entry.hub.revision or config.revision
        content = load_from_hub(replace(entry.hub, revision=revision), "data.name")
    return Source(
        name=entry.name,
        key="data.name",
        format=entry.format,
        columns=entry.columns,
        tags=entry.tags,
        content=content,
        max_rows=entry.max_rows,
    )
