"""The run folder: names, summary, provenance."""

import contextlib
import datetime
import errno
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from safetensors import SafetensorError

from tunelab import atomic, run
from tunelab.config import RunConfig, to_plain
from tunelab.errors import ConfigError, DataError, Interrupted, TunelabError
from tunelab.finetune import fine_tune
from tunelab.folders import make_new_folder
from tunelab.run import (
    RunFolder,
    config_hash,
    create_run_folder,
    open_run_folder,
    recorded,
    resumable,
)


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


def test_a_dangling_link_is_no_free_name(tmp_path: Path):
    (tmp_path / "run").symlink_to(tmp_path / "nowhere")
    assert make_new_folder(tmp_path / "run") == tmp_path / "run-2"


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
        with recorded(folder, config), folder.stage("train"):
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
    with recorded(RunFolder(tmp_path), config, is_main=False):
        pass
    assert list(tmp_path.iterdir()) == []


def test_paths_of_a_summary_are_relative_and_exist(config, tmp_path: Path):
    folder = RunFolder(tmp_path)
    with recorded(folder, config):
        folder.write_text("config.yaml", "")
        folder.adapter.mkdir()
    assert read(folder)["paths"] == {"config": "config.yaml", "adapter": "adapter"}


def test_metrics_are_merged_into_what_is_there(tmp_path: Path):
    folder = RunFolder(tmp_path)
    folder.write_json("summary.json", {"status": "finished", "metrics": {"a": 1, "b": 2}})
    folder.merge_results({"metrics": {"b": 3, "c": 4}})
    assert read(folder) == {"status": "finished", "metrics": {"a": 1, "b": 3, "c": 4}}


def test_a_resumed_run_takes_memory_knobs_only():
    typed = ["resume=somewhere", "trainer.micro_batch_tokens=64"]
    assert resumable(typed) == ["trainer.micro_batch_tokens=64"]
    with pytest.raises(ConfigError, match=r"^optim\.lr: a resumed run keeps the configuration"):
        resumable(["resume=somewhere", "optim.lr=1"])


def attempt(folder: RunFolder, config: RunConfig, error: BaseException | None, **metrics: float) -> None:
    """One start of a run, which measures and then ends so."""
    folder = RunFolder(folder.path)
    with contextlib.suppress(TunelabError, Interrupted), recorded(folder, config):
        folder.summary.metrics |= metrics
        if error:
            raise error


def test_a_failed_attempt_leaves_a_finished_run_as_it_is(config, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = RunFolder(tmp_path)
    attempt(folder, config, None, loss=0.5)
    before = read(folder)
    for error in (DataError("the file is gone"), Interrupted(signal.SIGTERM)):
        attempt(folder, config, error)
        assert read(folder) == before
    said = capsys.readouterr().out
    assert "failed: the file is gone\nthe results of the finished run stay as they were" in said
    assert "interrupted: stopped by SIGTERM" in said


def test_an_attempt_keeps_the_metrics_of_those_before(config, tmp_path: Path):
    folder = RunFolder(tmp_path)
    attempt(folder, config, Interrupted(signal.SIGTERM), loss=0.5)
    attempt(folder, config, DataError("the file is gone"), other=1.0)
    assert (read(folder)["status"], read(folder)["metrics"]) == ("failed", {"loss": 0.5, "other": 1.0})
    attempt(folder, config, None, loss=0.25)
    assert (read(folder)["status"], read(folder)["reason"]) == ("finished", None)
    assert read(folder)["metrics"] == {"loss": 0.25, "other": 1.0}


HOLDS = """
import os, signal, sys
from tunelab.run import RunFolder
from pathlib import Path
with RunFolder(Path(sys.argv[1])).only_process():
    print("held", flush=True)
    signal.pause()
"""


def test_a_folder_has_one_process_and_a_killed_one_blocks_nothing(config, tmp_path: Path):
    other = subprocess.Popen([sys.executable, "-c", HOLDS, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    try:
        with pytest.raises(ConfigError, match="another process is writing"), recorded(RunFolder(tmp_path), config):
            pytest.fail("the folder is held")
        assert not (tmp_path / "summary.json").exists()
    finally:
        other.kill()
        other.communicate()
    attempt(RunFolder(tmp_path), config, None)
    assert read(RunFolder(tmp_path))["status"] == "finished"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("has_checkpoint", [False, True])
def test_a_full_disk_ends_in_one_sentence(number: int, has_checkpoint: bool, config, tmp_path: Path):
    folder = RunFolder(tmp_path)
    if has_checkpoint:
        folder.checkpoints.mkdir()
        (folder.checkpoints / "last.ckpt").touch()
    remedy = f"resume={tmp_path}" if has_checkpoint else "start the run again"
    file = tmp_path / "metrics.jsonl"
    with (
        pytest.raises(TunelabError, match=f"^{file}: {os.strerror(number)}; .*{remedy}"),
        recorded(folder, config),
        atomic.naming(file),
    ):
        raise OSError(number, os.strerror(number))  # as of a write: no file name
    assert read(folder)["reason"].startswith(f"{file}: ")
    assert not (tmp_path / "traceback.txt").exists()


def test_a_disk_too_full_for_the_summary(config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(TunelabError, match=r"summary\.json: No space left"), recorded(RunFolder(tmp_path), config):
        pass
    with pytest.raises(DataError, match="first"), recorded(RunFolder(tmp_path), config):
        raise DataError("first")


def test_an_error_of_a_rust_library_is_understood(config, tmp_path: Path):
    with pytest.raises(TunelabError, match="No space left"), recorded(RunFolder(tmp_path), config):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_outside_of_training_is_recorded(number: signal.Signals, config, tmp_path: Path):
    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as caught, recorded(RunFolder(tmp_path), config):
        os.kill(os.getpid(), number)
    assert caught.value.exit_code == 128 + number
    assert read(RunFolder(tmp_path))["reason"] == f"stopped by {number.name}"
    assert signal.getsignal(number) is before


def test_an_ignored_signal_stays_ignored(config, tmp_path: Path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    try:
        with recorded(RunFolder(tmp_path), config):
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert read(RunFolder(tmp_path))["status"] == "finished"


def test_a_damaged_json_file_is_named(tmp_path: Path):
    (tmp_path / "summary.json").write_bytes(b"\xff{")
    with pytest.raises(ConfigError, match=r"summary\.json: expected JSON"):
        RunFolder(tmp_path).read_summary()


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


def test_what_was_typed_is_kept_to_the_letter(tmp_path: Path):
    typed = (
        "seed=1",
        "peft.target_modules=[q_proj,v_proj]",
        "data.path='x: y #z, \"q\" [a]=ü.jsonl'",
        "data.plain_template=a\nb\u2028c",
        'name="back\\slash"',
        "~peft",
    )
    folder = RunFolder(tmp_path)
    folder.write_overrides(typed)
    assert folder.read_overrides() == typed
    assert yaml.safe_load((tmp_path / "overrides.yaml").read_text(encoding="utf-8"))[2:] == list(typed[2:])
    (tmp_path / "overrides.yaml").write_text("- data.path=x: y\n- 'seed=1'\n")  # older runs, and YAML of others
    assert folder.read_overrides() == ("data.path=x: y", "seed=1")
