"""A cache entry is whole or absent, built once, and found by content alone."""

import errno
import os
from pathlib import Path

import pytest
from forked_processes import Forked

from tunelab.data import caching
from tunelab.data.caching import cache_key, cached, uncached
from tunelab.errors import DataError


class Builder:
    """Writes two files and counts how often."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, folder: Path) -> dict:
        self.calls += 1
        (folder / "train").mkdir()
        (folder / "train" / "ids").write_bytes(bytes(range(100)))
        (folder / "empty").touch()
        return {"rows": 3, "pairs": [(1, 2)]}


def test_built_once_and_the_facts_are_the_same(tmp_path):
    build = Builder()
    first, second = (cached(tmp_path / "cache", "key", build) for _ in range(2))
    assert first == second == (tmp_path / "cache" / "key", {"rows": 3, "pairs": [[1, 2]]})
    assert build.calls == 1
    assert cached(tmp_path / "cache", "other", build)[0] != first[0]
    assert build.calls == 2


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "manifest", "empty manifest", "list manifest"])
def test_a_damaged_entry_is_built_again(tmp_path, damage):
    build = Builder()
    folder, facts = cached(tmp_path, "key", build)
    file = folder / "train" / "ids"
    if damage == "flip":
        file.write_bytes(bytes([255, *range(1, 100)]))
    elif damage == "truncate":
        file.write_bytes(bytes(range(99)))
    elif damage == "remove":
        file.unlink()
    else:
        content = {"manifest": '{"facts": ', "empty manifest": "", "list manifest": "[]"}[damage]
        (folder / "manifest.json").write_text(content)
    assert cached(tmp_path, "key", build) == (folder, facts)
    assert build.calls == 2
    assert file.read_bytes() == bytes(range(100))


def test_a_build_that_fails_leaves_nothing(tmp_path):
    def fail(folder: Path) -> dict:
        (folder / "half").write_text("half")
        raise DataError("a.jsonl:3: bad")

    with pytest.raises(DataError, match=r"a\.jsonl:3"):
        cached(tmp_path, "key", fail)
    assert [path.name for path in tmp_path.iterdir()] == ["key.lock"]
    assert cached(tmp_path, "key", Builder())[1]["rows"] == 3


def test_what_a_killed_build_left_is_removed(tmp_path):
    stale = tmp_path / "key.123.tmp"
    (stale / "train").mkdir(parents=True)
    cached(tmp_path, "key", Builder())
    assert not stale.exists()


def test_a_full_disk_is_said_in_one_sentence(tmp_path):
    def full(folder: Path) -> dict:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(DataError, match=r"output_dir: .*No space left on device.*data\.cache=false"):
        cached(tmp_path, "key", full)
    with pytest.raises(DataError, match=r"data\.cache: .*No space left on device.*TMPDIR"):
        uncached(full)


def test_uncached_removes_its_folder_on_failure(tmp_path, monkeypatch):
    monkeypatch.setattr(caching.tempfile, "tempdir", str(tmp_path))

    def fail(folder: Path) -> dict:
        raise DataError("bad")

    with pytest.raises(DataError):
        uncached(fail)
    assert list(tmp_path.iterdir()) == []
    folder, facts = uncached(Builder())
    assert facts["rows"] == 3
    assert (folder / "train" / "ids").is_file()


def test_the_longest_unused_entries_go(tmp_path, monkeypatch):
    monkeypatch.setattr(caching, "_NUM_KEPT", 3)
    for number in range(5):
        folder, _ = cached(tmp_path, f"key{number}", Builder())
        os.utime(folder, (number, number))
    cached(tmp_path, "key4", Builder())
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["key2", "key3", "key4"]


def race(folder: Path) -> None:
    def build(path: Path) -> dict:
        with (folder / "builds").open("a") as log:
            log.write("built\n")
        (path / "data").write_bytes(b"x" * 1000)
        return {"rows": 1}

    print(cached(folder / "cache", "key", build)[1]["rows"])


def test_of_two_processes_one_builds(tmp_path):
    racers = [Forked(tmp_path / f"said-{number}", race, tmp_path) for number in range(2)]
    assert [racer.ended() for racer in racers] == [(0, "1\n"), (0, "1\n")]
    assert (tmp_path / "builds").read_text() == "built\n"


def test_the_key_depends_on_every_part_and_on_the_code(monkeypatch):
    base = cache_key(template="a", data=[{"f": "1"}])
    assert cache_key(data=[{"f": "1"}], template="a") == base
    assert cache_key(template="b", data=[{"f": "1"}]) != base
    assert cache_key(template="a", data=[{"f": "2"}]) != base
    monkeypatch.setattr(caching, "version", lambda name: "0")
    assert cache_key(template="a", data=[{"f": "1"}]) != base
