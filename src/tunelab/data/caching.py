"""Prepared data is kept by content: the same data, template, tokenizer and code find it again, nothing else does."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock

from tunelab.errors import DataError
from tunelab.hashing import file_sha256

_MANIFEST = "manifest.json"
_NUM_KEPT = 20  # entries of a cache folder; the longest unused go first

Build = Callable[[Path], dict[str, Any]]  # fills an empty folder and returns facts that JSON can hold


def cache_key(**parts: Any) -> str:
    """Return the name of the entry that depends on `parts` (JSON values), this package's code and its libraries."""
    code = {path.name: file_sha256(path) for path in sorted(Path(__file__).parent.rglob("*.py"))}
    libraries = {name: version(name) for name in ("transformers", "tokenizers", "jinja2", "numpy")}
    canonical = json.dumps([parts, code, libraries], sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()[:32]


def cached(cache: Path, key: str, build: Build) -> tuple[Path, dict[str, Any]]:
    """Return the folder of entry `key` and its facts, built now where it is missing or damaged.

    Of several processes that ask at once one builds and the others wait for it. An entry appears whole or not at all.
    Raises DataError where the cache cannot be written.
    """
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / f"{key}.lock"):
            facts = _read(cache / key)
            if facts is None:
                facts = _build(cache, key, build)
            os.utime(cache / key)
            _prune(cache, key)
    except OSError as error:
        raise DataError(
            f"output_dir: prepared data cannot be kept in {str(cache)!r} ({error.strerror or error}); free some space, "
            "set output_dir=<another folder>, or data.cache=false."
        ) from error
    return cache / key, facts


def uncached(build: Build) -> tuple[Path, dict[str, Any]]:
    """As `cached`, in a temporary folder that the caller removes."""
    try:
        with ExitStack() as stack:
            folder = Path(tempfile.mkdtemp(prefix="tunelab-data-"))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            facts = build(folder)
            stack.pop_all()
        return folder, json.loads(json.dumps(facts))
    except OSError as error:
        raise DataError(
            f"data.cache: prepared data cannot be kept in {tempfile.gettempdir()!r} ({error.strerror or error}); "
            "free some space or set TMPDIR=<another folder>."
        ) from error


def _build(cache: Path, key: str, build: Build) -> dict[str, Any]:
    for stale in (*cache.glob(f"{key}.*.tmp"), cache / key):  # of a process that was killed; the lock is ours
        shutil.rmtree(stale, ignore_errors=True)
    with _staging(cache / f"{key}.{os.getpid()}.tmp") as folder:
        facts = json.loads(json.dumps(build(folder)))  # as it will be read back
        files = {str(path.relative_to(folder)): file_sha256(path) for path in folder.rglob("*") if path.is_file()}
        (folder / _MANIFEST).write_text(json.dumps({"facts": facts, "sha256": files}), encoding="utf-8")
        folder.rename(cache / key)
    return facts


@contextmanager
def _staging(folder: Path) -> Generator[Path]:
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _read(folder: Path) -> dict[str, Any] | None:
    """The facts of an entry, or None where a byte of it is not as it was written."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        sound = all(file_sha256(folder / name) == digest for name, digest in manifest["sha256"].items())
        return manifest["facts"] if sound and isinstance(manifest["facts"], dict) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _prune(cache: Path, key: str) -> None:
    """A process that still reads an entry that goes keeps its mapped files."""
    entries = [folder for folder in cache.iterdir() if (folder / _MANIFEST).is_file() and folder.name != key]
    for folder in sorted(entries, key=lambda entry: -entry.stat().st_mtime)[_NUM_KEPT - 1 :]:
        shutil.rmtree(folder, ignore_errors=True)
