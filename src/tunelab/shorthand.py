"""What may be typed shorter than Hydra has it: `evaluation.sets=[general,mine.jsonl]`, extra sets by name or file;
`reference=peft=lora,optim.lr=1e-4`, a row of a table by keys and values.
"""

import csv
import re
from pathlib import PurePath

from tunelab.errors import ConfigError

SETS = "evaluation.sets"
REFERENCE = "reference"


def spelled_out(override: str) -> list[str]:
    """The overrides that an override stands for; itself, alone, where it is no shorthand.

    Sets are listed, or a mapping from names. An item is a choice of the group `data`; what looks like a file (with a
    dot, a slash or a colon) is one, and its name is that of the set.

    Raises:
        ConfigError: no sets are named, or two by one name.
    """
    key, _, value = override.partition("=")
    if key == REFERENCE and value not in ("", "null") and value[:1] not in ("'", '"'):  # `1e-4` is a row, no number
        return [f"{key}={_quoted(value)}"]
    if key.lstrip("+") != SETS:
        return [override]
    value = value.strip()
    if value.count("{") > 1:  # sections written out
        return [f"++{SETS}={value}"]
    items = [_pair(item) for item in _items(value)] if value[:1] == "{" else [(_name(i), i) for i in _items(value)]
    names = {name for name, item in items if name and item}
    if not items or len(names) < len(items):
        raise ConfigError(
            f"{SETS}: expected different names of data choices or files, found {value}; set "
            f"{SETS}=[general,safety], say, or leave it out."
        )
    return [each for name, item in items for each in _one(name, item)]


def _items(value: str) -> list[str]:
    listed = value.removeprefix("[").removesuffix("]").removeprefix("{").removesuffix("}")
    [fields] = csv.reader([listed], skipinitialspace=True) if listed.strip() else [[]]
    return [_unquoted(field) for field in fields]


def _pair(item: str) -> tuple[str, str]:
    name, _, rows = item.partition(":")
    return _unquoted(name), _unquoted(rows)


def _unquoted(text: str) -> str:
    return text.strip().strip("'\"")


def _is_file(item: str) -> bool:
    return bool(re.search(r"[./\\:]", item))


def _name(item: str) -> str:
    if not _is_file(item):
        return item
    return re.sub(r"\W+", "_", PurePath(item.rpartition(":")[2]).name.partition(".")[0])


def _one(name: str, item: str) -> list[str]:
    if not _is_file(item):
        return [f"+data@{SETS}.{name}={item}"]
    return [f"+data@{SETS}.{name}=file", f"{SETS}.{name}.data.path={_quoted(item)}"]


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
