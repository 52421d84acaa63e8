"""From what a person typed as a path to the data files that it means: a file, a folder, a glob, a saved data set."""

import difflib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunelab.data.records import BadRow, Row
from tunelab.data.sources.readers import ENDINGS, READERS, kind_of
from tunelab.data.sources.streams import DataFile
from tunelab.embedded import locate
from tunelab.errors import DataError, first_line
from tunelab.hashing import file_sha256

SPLIT_OF_KEY = {"data.validation_path": "validation", "data.test_path": "test"}
_MAGIC = re.compile(r"[*?\[]")
_SPLIT_NAMES = re.compile(r"(?:^|[-_./])(train|valid|val|dev|test|eval)(?:ing|ation|uation)?(?=[-_./0-9]|$)")
_SAVED_BESIDE = {"state.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json"}
_NUM_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Files:
    """Data files of one kind, in reading order. `name` is what was typed, `note` what was decided."""

    name: str
    files: tuple[DataFile, ...]
    kind: str
    note: str = ""

    def rows(self) -> Iterator[Row | BadRow]:
        """The rows of all files, one file after the other."""
        for file in self.files:
            yield from READERS[self.kind](file)

    def fingerprints(self) -> dict[str, str]:
        """SHA-256 of each file's bytes, by its name below the typed path."""
        return {self._label(file): _sha256(file) for file in self.files}

    def _label(self, file: DataFile) -> str:
        whole = len(self.files) == 1 and file.name == file.path.name and not Path(locate(self.name)).is_dir()
        return self.name if whole and not _MAGIC.search(self.name) else f"{self.name}:{file.name}"


def _sha256(file: DataFile) -> str:
    try:
        return file_sha256(file.path)
    except OSError as error:
        raise DataError(f"{file.path}: cannot be read ({error.strerror}); set {file.key}=<another file>.") from error


def exists(path: str) -> bool:
    """Whether a file or folder of this path is there."""
    try:
        return _local(path).exists()
    except OSError:
        return True  # it is there in some way: opening it says what is wrong


def find_files(path: str, key: str) -> Files:
    """Return the files that `path` means.

    A folder written by `save_to_disk` is read as that data set (of several splits: the one that `key` asks for); any
    other folder, or a glob, means all data files in it, sorted, of one kind. `embedded:` paths lie in the package.
    Raises DataError naming `key` where there are none, and where they do not go together.
    """
    local = _local(path)
    try:
        if local.is_dir():
            return _in_folder(path, local, key)
        if not local.exists() and _MAGIC.search(path):
            return _in_glob(path, local, key)
        return _one_file(path, local, key)
    except OSError as error:
        raise DataError(f"{key}: {path!r} cannot be read ({error.strerror}); set {key}=<another file>.") from error


def _local(path: str) -> Path:
    return Path(locate(path)).expanduser()


def _one_file(path: str, file: Path, key: str) -> Files:
    if re.match(r"[a-z0-9]+://", path):
        raise DataError(f"{key}: expected a local path, found the address {path!r}; download it and set {key}=<file>.")
    if not file.exists():
        raise DataError(f"{key}: no file {path!r} (looked for {file.absolute()}){hint(file)}; set {key}=<file>.")
    if not file.is_file():
        raise DataError(
            f"{key}: expected a regular file, found {path!r}, which cannot be read twice; save it as a file."
        )
    kind = kind_of(file.name)
    if kind is None:
        raise DataError(f"{key}: expected a file ending in one of {ENDINGS}, found {path!r}; rename or convert it.")
    note = "a text file is one row" if kind == "txt" else ""
    return Files(path, (DataFile(file, file.name, key),), kind, note)


def hint(file: Path) -> str:
    """What a missing file's name may have meant: the nearest name beside it."""
    if not file.parent.is_dir():
        return f", and there is no folder {str(file.parent)!r}"
    near = difflib.get_close_matches(file.name, [other.name for other in file.parent.iterdir()], n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _in_folder(path: str, folder: Path, key: str) -> Files:
    if (folder / "dataset_dict.json").is_file():
        return _of_dictionary(path, folder, key)
    if (folder / "state.json").is_file():
        return _saved(path, folder, "", key, "a data set saved to disk")
    files = [file for file in _visible(folder, "**/*") if file.name not in _SAVED_BESIDE]
    return _several(path, [file for file in files if kind_of(file.name)], files, folder, key)


def _in_glob(path: str, local: Path, key: str) -> Files:
    parts = local.parts
    fixed = next(index for index, part in enumerate(parts) if _MAGIC.search(part))
    base = Path(*parts[:fixed])
    files = _visible(base, "/".join(parts[fixed:]))
    unknown = next((file for file in files if kind_of(file.name) is None), None)
    if unknown:
        raise DataError(f"{key}: expected files ending in one of {ENDINGS}, found {str(unknown)!r}; narrow {path!r}.")
    return _several(path, files, files, base, key)


def _visible(base: Path, pattern: str) -> list[Path]:
    """The files below `base` that match, sorted, without those that begin with a dot or lie in such a folder."""
    found = sorted(file for file in base.glob(pattern) if file.is_file())
    return [file for file in found if not any(part.startswith(".") for part in file.relative_to(base).parts)]


def _several(path: str, data: list[Path], all_files: list[Path], base: Path, key: str) -> Files:
    files = tuple(DataFile(file, file.relative_to(base).as_posix(), key) for file in data)
    if not files:
        beside = f" ({_listed([file.name for file in all_files])} is none)" if all_files else ""
        raise DataError(
            f"{key}: expected data files in {path!r}, found none{beside}; set {key}=<files ending in {ENDINGS}>."
        )
    by_kind = {kind_of(file.name) or "": file.name for file in files}
    if len(by_kind) > 1:
        found = ", ".join(f"{kind} ({name})" for kind, name in by_kind.items())
        raise DataError(
            f"{key}: expected files of one kind in {path!r}, found {found}; set {key} to a glob such as {base}/*.jsonl."
        )
    _refuse_several_splits(path, files, base, key)
    left_out = len(all_files) - len(files)
    note = (
        f"{len(files)} file{'s' * (len(files) > 1)}: {_listed([file.name for file in files])}"
        + f"; {left_out} others left out" * (left_out > 0)
    )
    return Files(path, files, next(iter(by_kind)), note + "; each text file is one row" * ("txt" in by_kind))


def _refuse_several_splits(path: str, files: tuple[DataFile, ...], base: Path, key: str) -> None:
    """A folder of train and test files must not become training rows as a whole."""
    named = {match[1]: file.name for file in files if (match := _SPLIT_NAMES.search(file.name.lower()))}
    if "train" in named and len(named) > 1:
        raise DataError(
            f"{key}: expected the files of one split in {path!r}, found {_listed(list(named.values()))}; set "
            f"data.path, data.validation_path and data.test_path to them, each a file or a glob in {str(base)!r}."
        )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NUM_SHOWN} more" if len(names) > _NUM_SHOWN else ""
    return ", ".join(names[:_NUM_SHOWN]) + more


def _of_dictionary(path: str, folder: Path, key: str) -> Files:
    splits = _read_state(folder / "dataset_dict.json", key).get("splits", [])
    wanted = SPLIT_OF_KEY.get(key, "train")
    if wanted not in splits:
        raise DataError(
            f"{key}: expected a split {wanted!r} in the saved data sets {path!r}, found {', '.join(splits) or 'none'}; "
            f"set {key}={path.rstrip('/')}/<split>."
        )
    return _saved(path, folder, wanted, key, f"split {wanted!r} of the data sets saved there ({', '.join(splits)})")


def _saved(path: str, folder: Path, split: str, key: str, note: str) -> Files:
    """The Arrow files that the state of a data set names; with `split`, of that data set in the folder."""
    state = folder / split / "state.json"
    entries: list[dict[str, str]] = _read_state(state, key).get("_data_files", [])
    names = [f"{split}/{entry['filename']}" if split else entry["filename"] for entry in entries]
    files = tuple(DataFile(folder / name, name, key) for name in names)
    missing = next((file for file in files if not file.path.is_file()), None)
    if missing or not files:
        what = f"{missing.name!r} missing" if missing else "no files"
        raise DataError(f"{key}: expected the files that {state} names, found {what}; save it again.")
    return Files(path, files, "arrow", note)


def _read_state(file: Path, key: str) -> dict[str, Any]:
    try:
        state = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(state, dict):
            raise ValueError("it is no object")
    except (ValueError, OSError) as error:
        raise DataError(
            f"{key}: expected {file} as save_to_disk writes it, found another content ({first_line(error)}); save the "
            "data set again."
        ) from error
    return state
