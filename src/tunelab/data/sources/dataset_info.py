"""Reads LLaMA-Factory's `dataset_info.json` as it stands: an entry says where rows lie and what their columns mean."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from tunelab.config import ColumnsConfig, TagsConfig
from tunelab.data.sources.hub import HubName
from tunelab.embedded import locate
from tunelab.errors import ConfigError, DataError
from tunelab.suggesting import did_you_mean

# What an entry calls a column or a name inside a turn → what we call it.
_COLUMNS = {
    "prompt": "prompt",
    "query": "input",
    "response": "response",
    "history": "history",
    "messages": "messages",
    "system": "system",
    "tools": "tools",
    "chosen": "chosen",
    "rejected": "rejected",
    "kto_tag": "label",
}
_TAGS = {
    "role_tag": "role",
    "content_tag": "content",
    "system_tag": "system",
    "user_tag": "user",
    "assistant_tag": "assistant",
    "function_tag": "tool_call",
    "observation_tag": "tool",
}
_MEDIA = ("images", "videos", "audios")
_ELSEWHERE = {  # places that rows are not fetched from, before `file_name` in the order that an entry is read
    "ms_hub_url": "ModelScope",
    "om_hub_url": "Modelers",
    "script_url": "a loading script, which would run code",
    "cloud_file_name": "cloud storage",
}
_FORMATTINGS = ("alpaca", "sharegpt", "openai")
_OF_TURNS = {"messages", "system", "tools", "chosen", "rejected", "kto_tag"}  # columns of sharegpt and openai
_OF_TEXTS = set(_COLUMNS) - {"messages"}
_ENTRY_KEYS = {
    *("file_name", "hf_hub_url", "subset", "folder", "split", "revision", "num_samples"),
    *("formatting", "ranking", "columns", "tags", *_ELSEWHERE),
    "file_sha1",  # written by old versions, and read by none
}


@dataclass(frozen=True, slots=True)
class InfoEntry:
    """One entry in our words: `hub` where the rows are on the hub, else `path`; the first `max_rows` of them."""

    name: str
    path: str
    hub: HubName | None
    format: str
    columns: ColumnsConfig
    tags: TagsConfig
    max_rows: int | None


def read_entry(info: str, name: str | None) -> InfoEntry:
    """Return the entry `name` of the file `info`, or of `dataset_info.json` in the folder `info`.

    Raises DataError for a file that cannot be read, ConfigError for an entry that does not exist or asks for what is
    not to be had.
    """
    path = Path(locate(info)).expanduser()
    file = path / "dataset_info.json" if path.is_dir() else path
    entries = _read(file)
    if name is None or not isinstance(entries.get(name), dict):
        some = ", ".join(list(entries)[:10])
        raise ConfigError(
            f"data.name: expected an entry of {info!r} ({some}{', …' * (len(entries) > 10)}), found {name!r}"
            f"{did_you_mean(name or '', entries)}; set data.name=<entry>."
        )
    return _entry(name, _Entry(f"data.name={name}", entries[name]), file.parent)


def _read(file: Path) -> dict[str, Any]:
    try:
        entries = json.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        why = error.strerror or "no such file"
        raise DataError(
            f"data.info: {str(file)!r} cannot be read ({why}); set data.info=<dataset_info.json>."
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: expected JSON in UTF-8, found an error ({error}); mend the file.") from error
    if not isinstance(entries, dict) or not entries:
        raise DataError(
            f"{file}: expected an object with an entry for each data set, found none; set data.info=<file>."
        )
    return cast("dict[str, Any]", entries)


@dataclass(frozen=True, slots=True)
class _Entry:
    """Typed access to the keys of an entry; null counts as not there."""

    label: str
    keys: dict[str, Any]

    def get(self, key: str, kind: type, expected: str) -> Any:
        value = self.keys.get(key)
        if value is None:
            return None
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise ConfigError(f"{self.label}: expected {key} to be {expected}, found {value!r}; mend the entry.")
        return value

    def text(self, key: str) -> str | None:
        return self.get(key, str, "text")

    def names(self, key: str, known: dict[str, str], allowed: set[str]) -> dict[str, str]:
        """The map under `key`, in our words. Raises ConfigError for what is not `allowed` in it."""
        given = cast("dict[str, Any]", self.get(key, dict, "an object") or {})
        for name, value in given.items():
            if value is None or (name in allowed and isinstance(value, str)):
                continue
            found = f"{name!r}" if name not in allowed else f"{name}={value!r}"
            raise ConfigError(
                f"{self.label}: expected {key} to name {', '.join(sorted(allowed))}, found {found}"
                f"{did_you_mean(name, allowed) if name not in allowed else ''}; mend the entry."
            )
        return {known[name]: value for name, value in given.items() if value}


def _entry(name: str, entry: _Entry, folder: Path) -> InfoEntry:
    _refuse(entry)
    formatting = entry.text("formatting") or "alpaca"
    if formatting not in _FORMATTINGS:
        hint = did_you_mean(formatting, _FORMATTINGS)
        raise ConfigError(
            f"{entry.label}: expected formatting {', '.join(_FORMATTINGS)}, found {formatting!r}{hint}; mend the entry."
        )
    columns = entry.names("columns", _COLUMNS, _OF_TEXTS if formatting == "alpaca" else _OF_TURNS)
    tags = entry.names("tags", _TAGS, set(_TAGS)) if formatting != "alpaca" else {}
    format_ = _format(formatting, bool(entry.get("ranking", bool, "true or false")), columns)
    if format_ == "text":
        columns = {"text": columns["prompt"]}
    return InfoEntry(
        name=name,
        path=str(folder / (entry.text("file_name") or "")),
        hub=_hub(entry),
        format=format_,
        columns=ColumnsConfig(**columns),
        tags=TagsConfig(**tags),
        max_rows=_max_rows(entry),
    )


def _refuse(entry: _Entry) -> None:
    """Raise ConfigError for keys nobody knows, for media, and for places that rows are not fetched from."""
    unknown = next((key for key in entry.keys if key not in _ENTRY_KEYS), None)
    if unknown:
        raise ConfigError(
            f"{entry.label}: expected keys that LLaMA-Factory has, found {unknown!r}"
            f"{did_you_mean(unknown, _ENTRY_KEYS)}; mend the entry."
        )
    columns = cast("dict[str, Any]", entry.get("columns", dict, "an object") or {})
    media = next((name for name in _MEDIA if columns.get(name)), None)
    if media:
        raise ConfigError(
            f"{entry.label}: expected rows of text alone, found a column for {media}; take another entry."
        )
    place = next((key for key in _ELSEWHERE if entry.text(key)), None)
    if place and not entry.text("hf_hub_url"):
        raise ConfigError(
            f"{entry.label}: expected file_name or hf_hub_url, found {place} ({_ELSEWHERE[place]}); save the rows "
            "as a file and set data.path=<file>."
        )
    if not entry.text("file_name") and not entry.text("hf_hub_url"):
        raise ConfigError(f"{entry.label}: expected file_name or hf_hub_url, found neither; add one to the entry.")


def _format(formatting: str, ranking: bool, columns: dict[str, str]) -> str:
    """Our name of the format. Where the columns are named, a column that is not named is not read."""
    if "label" in columns:
        return "kto"
    if ranking:
        return "preference"
    if formatting != "alpaca":
        return {"sharegpt": "sharegpt", "openai": "messages"}[formatting]
    if columns.keys() == {"prompt"}:
        return "text"
    apart = columns and not columns.keys() & {"input", "history"}
    return "prompt_completion" if apart and "response" in columns else "alpaca"


def _hub(entry: _Entry) -> HubName | None:
    name, split = entry.text("hf_hub_url"), entry.text("split") or "train"
    if name:
        return HubName(name, entry.text("subset"), split, entry.text("revision"), entry.text("folder"))
    if split != "train":
        raise ConfigError(
            f"{entry.label}: expected split train of a file, found {split!r}; name the file of that split."
        )
    return None


def _max_rows(entry: _Entry) -> int | None:
    rows = entry.get("num_samples", int, "a number of rows")
    if rows is not None and rows < 1:
        raise ConfigError(f"{entry.label}: expected num_samples of at least 1 row, found {rows}; mend the entry.")
    return rows
