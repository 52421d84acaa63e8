"""The run folder: names, summary, provenance."""

import datetime
import json
import os
import re
import signal
from pathlib import Path

import pytest

from tunelab import run
from tunelab.config import RunConfig, to_plain
from tunelab.errors import ConfigError, DataError
from tunelab.finetune import fine_tune
from tunelab.run import RunFolder, config_hash, create_run_folder, open_run_folder, recorded, resumed_config
from tunelab.training.callbacks import Interrupted


class OneSecond(datetime.datetime):
    """A clock that stands still."""

    @classmethod
    def now(cls, tz=None):
        return cls(2026, 1, 2, 3, 4, 5, tzinfo=tz)


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return RunConfig(output_dir=str(tmp_path), name="mine")


def read(folder: RunFolder) -> dict:
    return json.loads((folder.path / "summary.json").read_text(encoding="utf-8"))


def test_two_runs_of_the_same_second_have_two_folders(config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(run.datetime, "datetime", OneSecond)
    folders = [create_run_folder(config, None).path for _ in range(3)]
    name = f"2026-01-02_03-04-05_{config_hash(config)}"
    assert folders == [tmp_path / "runs" / "mine" / each for each in (name, f"{name}-2", f"{name}-3")]
    assert all(folder.is_dir() for folder in folders)


def test_jobs_of_a_sweep_lie_side_by_side(config, tmp_path: Path):
    other = RunConfig(output_dir=str(tmp_path), name="mine", seed=1)
    first, second = (create_run_folder(each, tmp_path / "sweep").path for each in (config, other))
    assert first.parent == second.parent == tmp_path / "sweep"
    assert first.name == config_hash(config) != second.name


def test_a_folder_that_cannot_be_made(config, tmp_path: Path):
    (tmp_path / "runs").write_text("a file", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"^output_dir: the run folder .* cannot be made"):
        create_run_folder(config, None)


def test_a_folder_without_a_run_is_not_opened(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"expected a run folder with config\.yaml"):
        open_run_folder(str(tmp_path))
    (tmp_path / "config.yaml").touch()
    assert open_run_folder(str(tmp_path)).path == tmp_path


def test_the_hash_is_of_what_the_result_depends_on(config):
    digest = config_hash(config)
    assert re.fullmatch("[0-9a-f]{8}", digest)
    assert config_hash(RunConfig(output_dir="elsewhere", name="mine", resume="some/run")) == digest
    changed = [RunConfig(name="mine", seed=1), RunConfig(name="mine", peft={"r": 2}), RunConfig(name="other")]
    changed[0].data.max_length = 77
    assert len({digest, *map(config_hash, changed)}) == 4


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (None, "finished", None),
        (DataError("rows.jsonl:3: no response"), "failed", "rows.jsonl:3: no response"),
        (ZeroDivisionError("one by nought"), "failed", "ZeroDivisionError: one by nought"),
        (SystemExit(3), "failed", "SystemExit: 3"),
        (Interrupted(signal.SIGTERM), "interrupted", "stopped by SIGTERM"),
        (KeyboardInterrupt(), "interrupted", "stopped from the keyboard"),
    ],
)
def test_every_ending_leaves_a_summary(error, status: str, reason: str | None, config, tmp_path: Path):
    folder = RunFolder(tmp_path)

    def work() -> None:
        with recorded(folder, config, (Interrupted,)), folder.stage("train"):
            folder.summary.metrics["test/loss"] = 0.5
            if error:
                raise error

    if error:
        with pytest.raises(type(error)):
            work()
    else:
        work()
    summary = read(folder)
    assert (summary["status"], summary["reason"], summary["schema_version"]) == (status, reason, 1)
    assert summary["metrics"] == {"test/loss": 0.5}
    assert summary["config_hash"] == config_hash(config)
    assert set(summary["times_seconds"]) == {"train", "total"}
    unexpected = isinstance(error, (ZeroDivisionError, SystemExit))
    assert (tmp_path / "traceback.txt").exists() == unexpected
    assert [path for path in tmp_path.iterdir() if path.name.endswith(".tmp")] == []


def test_only_the_main_process_writes(config, tmp_path: Path):
    with recorded(RunFolder(tmp_path), config, (), is_main=False):
        pass
    assert list(tmp_path.iterdir()) == []


def test_paths_of_a_summary_are_relative_and_exist(config, tmp_path: Path):
    folder = RunFolder(tmp_path)
    with recorded(folder, config, ()):
        folder.write_text("config.yaml", "")
        folder.adapter.mkdir()
    assert read(folder)["paths"] == {"config": "config.yaml", "adapter": "adapter"}


def test_metrics_are_merged_into_what_is_there(tmp_path: Path):
    folder = RunFolder(tmp_path)
    folder.write_json("summary.json", {"status": "finished", "metrics": {"a": 1, "b": 2}})
    folder.merge_metrics({"b": 3, "c": 4})
    assert read(folder) == {"status": "finished", "metrics": {"a": 1, "b": 3, "c": 4}}


def test_a_resumed_run_takes_memory_knobs_only():
    saved, given = RunConfig(seed=3), RunConfig()
    given.trainer.micro_batch_tokens = 64
    config = resumed_config(saved, given, ["resume=somewhere", "trainer.micro_batch_tokens=64"])
    assert (config.seed, config.trainer.micro_batch_tokens) == (3, 64)
    with pytest.raises(ConfigError, match=r"^optim\.lr: a resumed run keeps the configuration"):
        resumed_config(saved, given, ["resume=somewhere", "optim.lr=1"])


def test_no_secret_reaches_a_file(tiny_config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    names = ("HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY")
    secrets = {name: os.urandom(16).hex() for name in names}  # not written here: provenance quotes this file's diff
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    config = tiny_config("logger=[tensorboard,csv]", "trainer.max_steps=1", "trainer.val_every_steps=1")
    fine_tune(config, RunFolder(tmp_path), ("logger=[tensorboard,csv]",))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"provenance.json", "run.log", "summary.json", "metrics.csv"} <= {path.name for path in files}
    for path in files:
        content = path.read_bytes()
        assert [name for name, value in secrets.items() if value.encode() in content] == [], path


def test_plain_is_what_json_can_hold(config):
    assert json.loads(json.dumps(to_plain(config))) == to_plain(config)
