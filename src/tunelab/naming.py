"""Short names that tell models apart: by what differs in their settings, else in where they lie."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Begin other keys of summary.json: neither a model nor an extra set is called so.
RESERVED = ("train", "validation", "test", "val", "base", "tuned", "harness")
MAX_PARTS = 3  # of a name that is made of settings
# What says nothing of a model, or is chosen for the machine.
_IGNORED = ("output_dir", "resume", "logger", "evaluation", "trainer.micro_batch_tokens", "trainer.log_every_steps")


def names_by_settings(configs: Sequence[Mapping[str, Any]]) -> list[str] | None:
    """Name runs by the setting that differs in all of them (`seed-1`), else by up to three that do together.

    None where no such settings tell all apart.
    """
    flat = [_flat(config) for config in configs]
    keys = list(dict.fromkeys(key for each in flat for key in each if not key.startswith(_IGNORED)))
    differing = [key for key in keys if len({repr(each.get(key)) for each in flat}) > 1]
    alone = [key for key in differing if len({repr(each.get(key)) for each in flat}) == len(flat)]
    chosen = alone[:1] or (differing if len(differing) <= MAX_PARTS else [])
    names = ["_".join(_part(key, each.get(key)) for key in chosen) for each in flat]
    return names if _all_differ(names) else None


def names_by_place(places: Sequence[Path]) -> list[str]:
    """Name folders by the last part of their paths in which they all differ, else by all parts from the first."""
    parts = [_telling_parts(place) for place in places]
    for depth in range(1, min(map(len, parts)) + 1):
        names = [as_name(each[-depth]) for each in parts]
        if _all_differ(names):
            return names
    shared = next((i for i, each in enumerate(zip(*parts, strict=False)) if len(set(each)) > 1), 0)
    return [as_name("-".join(each[shared:] or each[-1:])) for each in parts]


def as_name(text: str) -> str:
    """The text with hyphens for what a name cannot have: it is typed, and part of keys (`<name>/<split>/<metric>`)."""
    return re.sub(r"[^\w.+-]+", "-", text).strip("-") or "model"


def is_name(text: str) -> bool:
    """Whether a model can be called so."""
    return bool(text) and as_name(text) == text


def _telling_parts(place: Path) -> tuple[str, ...]:
    """The adapter of every run lies in a folder of one name."""
    parts = place.absolute().parts[1:]
    return parts[:-1] if parts[-1:] == ("adapter",) and len(parts) > 1 else parts or ("model",)


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in config.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def _part(key: str, value: Any) -> str:
    last = key.rpartition(".")[2]
    if last == "_target_":  # the class that a method is
        return as_name(str(value).rpartition(".")[2].removesuffix("Config").lower())
    return as_name(str(value)) if key == "name" else as_name(f"{last}-{value}")


def _all_differ(names: Sequence[str]) -> bool:
    return len(set(names)) == len(names)
