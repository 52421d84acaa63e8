"""Reads adapter folders as PEFT writes them, without the weights: configuration, names and shapes, tokens."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import PeftConfig
from safetensors import SafetensorError, safe_open

from tunelab.errors import ModelError, first_line
from tunelab.hashing import file_sha256

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
Shapes = Mapping[str, tuple[int, ...]]


def is_adapter_folder(folder: Path) -> bool:
    """True where PEFT has written an adapter."""
    return (folder / CONFIG).is_file()


def has_tokenizer(folder: Path) -> bool:
    """True where a tokenizer lies in the folder, as our exports have one."""
    return (folder / "tokenizer_config.json").is_file()


def read_settings(folder: Path) -> dict[str, Any]:
    """The configuration of the adapter in a PEFT folder as it is written, of a method that PEFT may not know."""
    return json.loads((folder / CONFIG).read_text(encoding="utf-8"))


def read_adapter_config(folder: Path, key: str = "adapter") -> PeftConfig:
    """The configuration of the adapter in a PEFT folder; `key` is the one that errors name.

    Raises:
        ModelError: there is no adapter in the folder, or its configuration cannot be read.
    """
    if not is_adapter_folder(folder):
        raise ModelError(f"{key}: expected a PEFT folder with {CONFIG}, found none in {str(folder)!r}.")
    try:
        config = PeftConfig.from_pretrained(str(folder))
        if config.peft_type is None:
            raise ValueError("it names no peft_type")
        return config
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{key}: {str(folder)!r} is incomplete or damaged: it has no usable {CONFIG} ({first_line(error)}); "
            "export it again."
        ) from error


def read_shapes(folder: Path, key: str = "adapter") -> Shapes:
    """Names and shapes of an adapter's weights, from the header of their file.

    Raises:
        ModelError: there is no such file, or it is half-written.
    """
    path = folder / WEIGHTS
    if not path.is_file():
        raise ModelError(
            f"{key}: {str(folder)!r} is incomplete or damaged: expected {WEIGHTS}, found none; export it again."
        )
    try:
        with safe_open(path, "pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{key}: {str(folder)!r} is incomplete or damaged: {WEIGHTS} cannot be read ({first_line(error)}); export "
            "it again."
        ) from error


def trained_token_ids(config: PeftConfig) -> list[int]:
    """Ids of the single rows of embeddings that an adapter of this configuration has trained, in order."""
    found: Any = getattr(config, "trainable_token_indices", None) or []
    groups = found.values() if isinstance(found, dict) else [found]
    return sorted({int(each) for group in groups for each in group})


def added_tokens(folder: Path) -> dict[int, str]:
    """Tokens that the tokenizer beside an adapter adds to its vocabulary, by id; empty where none can be read."""
    try:
        listed: Any = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"]
        return {int(token["id"]): str(token["content"]) for token in listed}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def adapter_sha256(folder: Path) -> dict[str, str]:
    """The SHA-256 of the files that make up an adapter, by name."""
    return {name: file_sha256(folder / name) for name in (CONFIG, WEIGHTS)}
