"""Files that are whole or as they were, whatever fails and whenever."""

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tunelab import atomic
from tunelab.atomic import remove_stale, write_bytes, write_json, write_text


def no_space(*args: Any, **kwargs: Any) -> None:
    raise OSError(28, "No space left on device")


class FullDisk:
    """A file that takes half of what it is given."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def __enter__(self) -> "FullDisk":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, content: bytes) -> None:
        self._file.write(content[: len(content) // 2])
        no_space()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("failing", ["open", "write", "fsync", "replace"])
def test_a_failure_at_any_point_leaves_the_old_file(failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "a.json"
    write_text(path, "old")
    opened = Path.open
    if failing == "open":
        monkeypatch.setattr(Path, "open", no_space)
    elif failing == "write":
        monkeypatch.setattr(Path, "open", lambda self, *a, **k: FullDisk(opened(self, *a, **k)))
    elif failing == "fsync":
        monkeypatch.setattr(os, "fsync", no_space)
    else:
        monkeypatch.setattr(Path, "replace", no_space)
    with pytest.raises(OSError, match="No space left"):
        write_text(path, "new and longer")
    monkeypatch.undo()
    assert path.read_text(encoding="utf-8") == "old"
    assert names(tmp_path) == ["a.json"]


@pytest.mark.parametrize(
    ("moment", "number"),  # killed before this call: the file is flushed, takes its name, the folder is flushed
    [("os.fsync", 1), ("pathlib.Path.replace", 1), ("os.fsync", 2), ("pathlib.Path.unlink", 1)],
)
def test_a_kill_at_any_moment_leaves_a_whole_file(moment: str, number: int, tmp_path: Path):
    path, old, new = tmp_path / "a", b"0" * 200_000, b"1" * 200_000
    write_bytes(path, old)
    program = (
        "import itertools, os, pathlib, signal, sys\n"
        "from tunelab.atomic import write_bytes\n"
        f"original, calls = {moment}, itertools.count(1)\n"
        "def killed(*a, **k):\n"
        f"    if next(calls) == {number}: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return original(*a, **k)\n"
        f"{moment} = killed\n"
        "write_bytes(pathlib.Path(sys.argv[1]), b'1' * 200_000)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert ended.returncode == -signal.SIGKILL
    renamed = (moment, number) in (("os.fsync", 2), ("pathlib.Path.unlink", 1))
    assert path.read_bytes() == (new if renamed else old)
    remove_stale(tmp_path)
    assert names(tmp_path) == ["a"]


def test_the_new_file_is_on_disk_before_it_has_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    order: list[str] = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (order.append("fsync"), fsync(descriptor))[1])
    monkeypatch.setattr(Path, "replace", lambda self, to: (order.append("replace"), replace(self, to))[1])
    write_bytes(tmp_path / "a", b"content")
    assert order == ["fsync", "replace", "fsync"]  # the file, its name, the folder


def test_a_file_system_without_folder_sync_still_saves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "fsync", no_space)
    atomic.fsync_folder(tmp_path)


def test_permissions_are_those_of_any_new_file(tmp_path: Path):
    (tmp_path / "plain").touch()
    write_bytes(tmp_path / "ours", b"")
    assert stat.S_IMODE((tmp_path / "ours").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_json_is_strict_and_text_is_always_utf8(tmp_path: Path):
    write_json(tmp_path / "a.json", {"loss": float("nan"), "name": "Zoë", "odd": "\ud800"})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert "Zoë" in text
    assert json.loads(text) == {"loss": None, "name": "Zoë", "odd": "\ud800"}


def test_only_temporary_files_are_stale(tmp_path: Path):
    for name in (".last.ckpt.77.tmp", "last.ckpt", "mine.tmp"):
        (tmp_path / name).touch()
    remove_stale(tmp_path)
    assert names(tmp_path) == ["last.ckpt", "mine.tmp"]
