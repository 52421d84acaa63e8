"""Checkpoints that survive anything: one safetensors file with its state as JSON and a SHA-256, replaced atomically.

Lightning decides what is in a checkpoint; this module decides how it reaches the disk. Nothing is pickled.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import CheckpointIO
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from tunelab.atomic import write_bytes
from tunelab.errors import CheckpointError, first_line

LAST, BEST, PREVIOUS = "last.ckpt", "best.ckpt", "previous.ckpt"
FORMAT_VERSION = 2


class SafetensorsCheckpointIO(CheckpointIO):
    """Writes and reads Lightning's checkpoint dictionary as one verified safetensors file."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write `checkpoint` to `path`; the file of that name is replaced only when the new one is safe on disk."""
        del storage_options
        write_checkpoint(checkpoint, Path(path))

    def load_checkpoint(
        self, path: Any, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read and verify `path`; tensors arrive on the CPU."""
        del map_location, weights_only
        return read_checkpoint(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        """Delete the file."""
        Path(path).unlink(missing_ok=True)


def write_checkpoint(checkpoint: dict[str, Any], path: Path) -> None:
    """Replace `path`, and make its folder where there is none.

    Raises:
        CheckpointError: a value is neither a tensor nor plain data.
    """
    tensors: dict[str, torch.Tensor] = {}
    state = json.dumps(_encode(checkpoint, "checkpoint", tensors))
    digest = _digest(state, tensors)
    content = save(tensors, {"format": str(FORMAT_VERSION), "state": state, "sha256": digest})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, content)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint back and verify its checksum.

    Raises:
        CheckpointError: missing, truncated, altered, or written by another version of the format.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: no readable checkpoint ({first_line(error)}).") from error
    if not {"format", "state", "sha256"} <= metadata.keys():
        raise CheckpointError(
            f"{path}: expected a checkpoint of tunelab, found another safetensors file or a damaged one."
        )
    if metadata["format"] != str(FORMAT_VERSION):
        raise CheckpointError(f"{path}: expected checkpoint format {FORMAT_VERSION}, found {metadata['format']}.")
    if _digest(metadata["state"], tensors) != metadata["sha256"]:
        raise CheckpointError(f"{path}: the content does not match its SHA-256; the file was damaged.")
    return _decode(json.loads(metadata["state"]), tensors)


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """A checkpoint to go on from: its optimizer step, and what is wrong with newer ones."""

    path: Path
    step: int
    problems: list[str]


def newest_checkpoint(folder: Path) -> ResumePoint:
    """Return the newest checkpoint of `folder` that verifies; best.ckpt, often the oldest, where no other does.

    Raises:
        CheckpointError: there is none, or the best weights that the run has to end with are lost.
    """
    problems: list[str] = []
    for name in (LAST, PREVIOUS, BEST):
        try:
            content = read_checkpoint(folder / name)
        except CheckpointError as error:
            problems.append(str(error).rstrip("."))
            continue
        best_step = content.get("callbacks", {}).get("RunCheckpoint", {}).get("best_step")
        if best_step is not None and name != BEST:
            _require_best(folder / BEST, best_step)
        return ResumePoint(folder / name, content["global_step"], problems)
    raise CheckpointError(
        f"{folder}: expected a checkpoint to resume from, found none that can be read ({'; '.join(problems)}); "
        "start the run again without resume."
    )


def _require_best(path: Path, step: int) -> None:
    """Read it now: the run ends with these weights, and would otherwise miss them after training."""
    try:
        read_checkpoint(path)
    except CheckpointError as error:
        raise CheckpointError(
            f"{str(error).rstrip('.')}; it holds the best weights so far, of step {step}: put the file back, or start "
            "the run again without resume."
        ) from error


def keep_previous(folder: Path) -> None:
    """Give the present last.ckpt a second name, so that two verified checkpoints exist after the next save."""
    last, staging = folder / LAST, folder / f".{PREVIOUS}.{os.getpid()}.tmp"
    if last.exists():
        try:
            staging.unlink(missing_ok=True)
            os.link(last, staging)
            staging.replace(folder / PREVIOUS)
        except OSError:  # a file system without hard links
            write_bytes(folder / PREVIOUS, last.read_bytes())
        finally:
            staging.unlink(missing_ok=True)  # renaming a name to another of the same file does nothing


def _encode(value: Any, name: str, tensors: dict[str, torch.Tensor]) -> Any:
    """Replace tensors by references and keep what JSON would lose: tuples and keys that are no strings.

    `name` is the path to `value`, for messages only: paths are ambiguous.
    """
    if isinstance(value, torch.Tensor):
        key = str(len(tensors))
        tensors[key] = value.detach().cpu().contiguous().clone()
        return {"__tensor__": key}
    if isinstance(value, dict):
        pairs = [[_encode(k, name, tensors), _encode(v, f"{name}/{k}", tensors)] for k, v in _items(value)]
        return {"__dict__": pairs}
    if isinstance(value, (list, tuple)):
        items = [_encode(v, f"{name}/{i}", tensors) for i, v in enumerate(_values(value))]
        return items if isinstance(value, list) else {"__tuple__": items}
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise CheckpointError(f"a checkpoint holds plain data only, found {type(value).__name__} at {name!r}.")


def _decode(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, list):
        return [_decode(item, tensors) for item in _values(value)]
    if not isinstance(value, dict):
        return value
    [(kind, content)] = _items(value)
    if kind == "__tensor__":
        return tensors[content]
    if kind == "__tuple__":
        return tuple(_decode(item, tensors) for item in content)
    return {_decode(k, tensors): _decode(v, tensors) for k, v in content}


def _items(value: dict[Any, Any]) -> Iterable[tuple[Any, Any]]:
    return value.items()


def _values(value: list[Any] | tuple[Any, ...]) -> Iterable[Any]:
    return value


def _digest(state: str, tensors: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256(state.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
