"""A search from its folder to its last word, without jobs: what is refused, and a disk that is full at the end."""

import errno
from pathlib import Path
from typing import Any

import pytest

from tunelab.config import Sampler, SearchConfig
from tunelab.errors import ConfigError, Interrupted, TunelabError
from tunelab.locking import held
from tunelab.sweeping.folder import SweepFolder
from tunelab.sweeping.searching import conducting
from tunelab.sweeping.searching.conducting import Plan, run_search
from tunelab.sweeping.searching.objectives import Objective
from tunelab.sweeping.searching.space import Choices, Space
from tunelab.sweeping.searching.study import Study
from tunelab.sweeping.searching.trials import Rules

LOSS = (Objective("val/loss", higher_is_better=False),)
SPACE = Space((Choices("a", ("1", "2")),))


def plan(folder: Path, **fixed: Any) -> Plan:
    settings = SearchConfig(sampler=Sampler.grid, num_trials=1)
    return Plan(SPACE, LOSS, settings, SweepFolder(folder), fixed, [f"{key}={fixed[key]}" for key in fixed], None)


def searched(folder: Path, **fixed: Any) -> Study:
    """A search that has come to its end."""
    asked = plan(folder, **fixed)
    asked.folder.record([], SPACE.keys, asked.typed)
    study = Study(folder / "optuna.db", SPACE, LOSS, asked.settings, fixed)
    study.complete(study.ask().number, [0.25], {0: [0.25]}, raced=False)
    return study


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


def run(asked: Plan) -> None:
    run_search(asked, Rules(LOSS), lambda _: {})


def test_what_is_refused_leaves_no_command_behind(tmp_path: Path):
    searched(tmp_path, steps=4)
    before = content(tmp_path)
    with pytest.raises(ConfigError, match="differs in steps"):
        run(plan(tmp_path, steps=8))
    with held(tmp_path / ".search.lock"), pytest.raises(ConfigError, match="in which no search is under way"):
        run(plan(tmp_path, steps=4))
    assert content(tmp_path) == before
    (tmp_path / "grid").mkdir()
    (tmp_path / "grid" / "sweep.json").write_text("{")
    with pytest.raises(ConfigError, match="found a damaged file"):
        run(plan(tmp_path / "grid"))
    assert content(tmp_path / "grid") == {"sweep.json": b"{"}
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"sweep.name: '.*' cannot be written \(File exists\)"):
        run(plan(tmp_path / "file"))


def no_room(*_: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device", "sweep.json")


def test_a_disk_that_is_full_at_the_end_takes_no_result(tmp_path: Path, monkeypatch, capsys):
    searched(tmp_path)
    monkeypatch.setattr(SweepFolder, "note", no_room)
    with pytest.raises(TunelabError) as raised:
        run(plan(tmp_path))
    assert "best         trial 0: val/loss 0.25" in capsys.readouterr().out
    assert str(raised.value) == (
        f"{tmp_path / 'sweep.json'}: expected room for the trials of this search, found: No space left on device; "
        "optuna.db has all of them: make room, and the same command writes them."
    )
    monkeypatch.undo()
    run(plan(tmp_path))
    assert b'"objectives": [\n' in content(tmp_path)["sweep.json"]


def test_a_signal_is_a_signal_on_a_full_disk_too(tmp_path: Path, monkeypatch, capsys):
    def signalled(*_: Any) -> None:
        raise Interrupted(2)

    monkeypatch.setattr(conducting, "run_source", signalled)
    monkeypatch.setattr(SweepFolder, "note", no_room)
    with pytest.raises(Interrupted):
        run(plan(tmp_path))
    assert "the same command goes on" in capsys.readouterr().err
