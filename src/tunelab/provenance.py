"""Where a result came from: command, code, versions, hardware, data and base model."""

import datetime
import hashlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

from tunelab.config import ModelConfig, RunConfig
from tunelab.errors import DataError, ModelError, TunelabError
from tunelab.hashing import file_sha256
from tunelab.model.adapter_folder import adapter_sha256
from tunelab.model.locating import resolve_model

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
FINGERPRINTS: dict[str, tuple[str, type[TunelabError]]] = {  # key → what errors call it, and their kind
    "data_sha256": ("data", DataError),
    "base_model": ("model", ModelError),
    "continued_adapter": ("peft.from_adapter", ModelError),
}


def provenance(overrides: Sequence[str], facts: dict[str, Any]) -> dict[str, Any]:
    """Where a result came from: command, code, versions, hardware. `facts` adds fingerprints of data and base model."""
    return {
        "command": [Path(sys.argv[0]).name, *overrides],
        "directory": str(Path.cwd()),  # where paths that are not absolute begin
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "git": _git(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "hardware": _hardware(),
        **facts,
    }


def fingerprints(config: RunConfig, data_sha256: Mapping[str, Any], adapter: Path | None = None) -> dict[str, Any]:
    """What identifies the data, the base model, and the `adapter` that is trained on, where there is one."""
    facts = {"data_sha256": dict(data_sha256), "base_model": _base_model(config.model)}
    if adapter is not None:
        facts["continued_adapter"] = {"path": str(adapter), "sha256": adapter_sha256(adapter)}
    return facts


def _base_model(config: ModelConfig) -> dict[str, Any]:
    """Path and revision, with the commit on the hub or the SHA-256 of a folder's files."""
    source = Path(resolve_model(config.path, config.revision))
    code = {"trust_remote_code": True} if config.trust_remote_code else {}  # the checkpoint's own code was run
    named = {"path": config.path, "revision": config.revision}
    if not source.is_dir():
        cached = try_to_load_from_cache(config.path, "config.json", revision=config.revision)
        commit = Path(cached).parent.name if isinstance(cached, str) else None
        return {**named, "commit": commit, **code}
    own_code = sorted(source.glob("*.py")) if code else []
    files = [*sorted(source.glob("*.safetensors")), source / "config.json", *own_code]
    return {**named, "sha256": {file.name: file_sha256(file) for file in files}, **code}


def continued(first: dict[str, Any], now: dict[str, Any], step: int) -> dict[str, Any]:
    """The record of a run that goes on from `step`: that of its first start, with every later one in `resumed`.

    Raises:
        DataError: the data are not those the run was started with.
        ModelError: the base model, or the adapter that is trained on, is not.
    """
    for key, (name, error) in FINGERPRINTS.items():
        changed = _changed(first.get(key), now.get(key, {}))
        if changed:
            raise error(
                f"{name}: expected what this run was started with, found {changed[0]!r} changed; put it back, "
                "or start a new run without resume."
            )
    later = {key: value for key, value in now.items() if key not in FINGERPRINTS}
    known = first or {key: now[key] for key in FINGERPRINTS if key in now}
    return {**known, "resumed": [*first.get("resumed", []), {"step": step, **later}]}


def doubts(record: dict[str, Any]) -> list[str]:
    """Why the result may differ in the last bits from that of an uninterrupted run; empty where this was verified."""
    if "packages" not in record:
        return ["the start of the run was not recorded"]
    facts, resumed = _facts(record), record.get("resumed", [])
    reasons = [
        "the code changed" if name == "git" else f"{name} was {facts[name]}, then {value}"
        for later in resumed
        for name, value in _facts(later).items()
        if value != facts[name]
    ]
    if any(start.get("device") == "cuda" for start in (record, *resumed)):
        reasons.append("unverified on CUDA")
    if record.get("num_devices", 1) > 1:
        reasons.append("unverified on several devices")
    return list(dict.fromkeys(reasons))


def differences(first: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """What two runs did not have in common of all that the last bit of a result may depend on: name → both, as text."""
    old, new = _facts(dict(first)), _facts(dict(now))
    found = {name: (_said(name, old[name]), _said(name, new[name])) for name in old if old[name] != new[name]}
    for key, (name, _) in FINGERPRINTS.items():
        changed = _changed(first.get(key), now.get(key) or {})
        if changed:
            found[name] = (f"{', '.join(map(str, changed))} as recorded", "another content")
    return {"code" if name == "git" else name: both for name, both in found.items()}


def diff_name(git: Mapping[str, Any]) -> str:
    """Eight hexadecimal digits of the uncommitted changes of a recorded state of the code."""
    return hashlib.sha256(str(git["diff"]).encode()).hexdigest()[:8]


def require_same_inputs(first: Mapping[str, Any], now: Mapping[str, Any], run: str) -> None:
    """Check that a run which is done again has the data, the base model and the adapter that it had.

    Raises:
        DataError: the data are others.
        ModelError: the base model, or the adapter that is trained on, is another.
    """
    for key, (name, error) in FINGERPRINTS.items():
        changed = _changed(first.get(key), now.get(key) or {})
        if changed:
            raise error(f"{name}: expected what {run} was trained on, found {changed[0]!r} changed; put it back.")


def _said(name: str, fact: Any) -> str:
    if name == "git" and fact:
        return f"{fact['commit'][:8]}{f' with uncommitted changes {diff_name(fact)}' if fact.get('diff') else ''}"
    return "not recorded" if fact is None else str(fact)


def _changed(before: dict[str, Any] | None, after: dict[str, Any]) -> list[str]:
    """Names of the files, or of the commit, that are not what they were; what was not known says nothing."""
    if before is None:
        return []
    old, new = ({**each, **each.get("sha256", {})} for each in (before, after))
    names = sorted((old.keys() | new.keys()) - {"sha256"})
    return [name for name in names if old.get(name) != new.get(name) and (name != "commit" or old.get(name))]


def _facts(start: dict[str, Any]) -> dict[str, Any]:
    """What the last bit of a result may depend on, by name."""
    hardware, packages = start.get("hardware", {}), start.get("packages", {})
    return {
        **{name: start.get(name) for name in ("git", "python", "device")},
        **{name: hardware.get(name) for name in ("machine", "cpu_capability", "num_threads", "cuda_devices", "cuda")},
        **{name: packages.get(name) for name in PACKAGES},
        **{name: start.get("memory_knobs", {}).get(name) for name in ("micro_batch_tokens", "head_chunk_tokens")},
    }


def machine_facts() -> dict[str, Any]:
    """What the last bit of a computation may depend on besides the code and its inputs."""
    return {"hardware": _hardware(), "packages": {name: _version(name) for name in PACKAGES}}


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
