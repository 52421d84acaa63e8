"""Where a result came from: command, code, versions, hardware, data and base model."""

import datetime
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PACKAGES = (
    "tunelab",
    "torch",
    "transformers",
    "peft",
    "pytorch-lightning",
    "bitsandbytes",
    "hydra-core",
    "tokenizers",
)


def provenance(overrides: Sequence[str], facts: dict[str, Any]) -> dict[str, Any]:
    """Where a result came from: command, code, versions, hardware. `facts` adds fingerprints of data and base model."""
    return {
        "command": [Path(sys.argv[0]).name, *overrides],
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "git": _git(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "hardware": _hardware(),
        **facts,
    }


def _git() -> dict[str, Any] | None:
    """Commit and uncommitted changes of the code in use; None where it is not a git checkout."""

    def ask(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout

    try:
        return {"commit": ask("rev-parse", "HEAD").strip(), "diff": ask("diff", "HEAD")}
    except (OSError, subprocess.SubprocessError):
        return None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _hardware() -> dict[str, Any]:
    import torch

    cuda = torch.cuda.is_available()
    return {
        "machine": platform.machine(),
        "system": platform.platform(),
        "cpu_count": os.cpu_count(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),  # bit-exactness holds within one instruction set
        "num_threads": torch.get_num_threads(),
        "cuda_devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else [],
        "cuda": torch.version.cuda,
    }
