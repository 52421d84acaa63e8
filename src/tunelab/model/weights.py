"""Checks the weight files of a folder without reading the weights: all there, whole, and with what they should have."""

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open

from tunelab.errors import ModelError, first_line

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def check_weight_files(folder: Path) -> None:
    """Open every weight file that loading will read; only headers and lengths are looked at, so it takes no time.

    Raises:
        ModelError: there is no weight file, or one of them is missing, damaged, cut short, or lacks a weight.
    """
    if (folder / SINGLE).is_file():
        _weights_in(folder / SINGLE)
        return
    if not (folder / INDEX).is_file():
        found = sorted(path.name for path in folder.glob("*.safetensors"))
        raise ModelError(
            f"model.path: expected *.safetensors in {str(folder)!r}, by name {SINGLE} or those that {INDEX} names, "
            f"found {', '.join(found[:3]) or 'none'}; other weights are not read."
        )
    files = _indexed(folder / INDEX)
    missing = sorted(name for name in set(files.values()) if not (folder / name).is_file())
    if missing:
        raise ModelError(
            f"model.path: {INDEX} in {str(folder)!r} names {len(set(files.values()))} weight files, of which "
            f"{len(missing)} are missing, first {missing[0]}; get the missing files."
        )
    held = {name: _weights_in(folder / name) for name in sorted(set(files.values()))}
    for weight, name in files.items():
        if weight not in held[name]:
            raise ModelError(
                f"model.path: expected the weight {weight!r} in {str(folder / name)!r}, where {INDEX} has it, "
                "found none; get both files again, from one version."
            )


def _indexed(path: Path) -> Mapping[str, str]:
    """The file of each weight, by the weight's name."""
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        return {str(weight): str(name) for weight, name in listed.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"model.path: expected a JSON object with weight_map in {str(path)!r}, found another content "
            f"({first_line(error)}); get the file again."
        ) from error


def _weights_in(path: Path) -> set[str]:
    try:
        with safe_open(path, framework="pt") as file:
            return set(file.keys())
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"model.path: the weight file {str(path)!r} of {path.stat().st_size:,} bytes is damaged or cut short "
            f"({first_line(error)}); get it again."
        ) from error
