"""Sweeps that run: their folders, what they leave out the second time, and jobs that end badly."""

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sweeping_runs
import torch
from safetensors.torch import load_file
from sweeping_runs import adapter_of, jobs_of, kill_job, metrics_of, once, signal_self, steps_done, summary_of, until

from tunelab.config import RunConfig, mark_read
from tunelab.errors import TunelabError
from tunelab.finetune import fine_tune
from tunelab.locking import held
from tunelab.run import RunFolder
from tunelab.sweeping.folder import SweepFolder
from tunelab.sweeping.jobs import make_jobs
from tunelab.sweeping.machine import Machine
from tunelab.sweeping.pool import Limits, Pool, Running
from tunelab.sweeping.source import Listed, Stop

sweep = sweeping_runs.sweep

REPOSITORY = Path(__file__).resolve().parents[2]
ONE_AT_A_TIME = ("sweep.workers=1", "sweep.name=mine")
LONG = ("trainer.max_steps=2000", "trainer.val_every_steps=2000", "trainer.checkpoint_every_steps=5")


def alone(config: RunConfig, place: Path) -> Path:
    """The folder of a single run in this process."""
    folder = RunFolder(place / "alone")
    folder.path.mkdir()
    mark_read(config, "output_dir", "resume", "name")
    fine_tune(config, folder, [])
    return folder.path


def test_a_job_is_the_run_of_its_configuration_bit_for_bit(sweep, tiny_config, tmp_path: Path):
    done = sweep("peft.r=2,4", "seed=1")
    assert done.returncode == 0, done.stderr
    jobs = jobs_of(tmp_path)
    assert [folder.name.rpartition("_")[0] for folder in jobs.values()] == ["r-2", "r-4"]
    single = alone(tiny_config("peft.r=4", "seed=1"), tmp_path)
    assert adapter_of(jobs["4"]) == adapter_of(single) != adapter_of(jobs["2"])
    assert summary_of(jobs["4"])["metrics"] == summary_of(single)["metrics"]
    log = (jobs["4"] / "run.log").read_text()
    assert log.count("optimizer steps of") == 1  # once, though its terminal is the log too
    assert "finished: r=4" in done.stdout


def test_the_same_command_runs_what_is_missing(sweep, tmp_path: Path):
    first = sweep("seed=1,2")
    assert "2 jobs, 2 to run" in first.stdout
    before = {name: (folder / "summary.json").stat().st_mtime_ns for name, folder in jobs_of(tmp_path).items()}
    more = sweep("seed=1,2,3")  # the same folder, though a value was added
    assert "3 jobs, 1 to run" in more.stdout
    after = {name: (folder / "summary.json").stat().st_mtime_ns for name, folder in jobs_of(tmp_path).items()}
    assert {name: after[name] for name in before} == before
    assert set(after) == {"1", "2", "3"}
    again = sweep("seed=1", "sweep.rerun=all", "peft.r=4,4")  # other keys: another sweep
    assert again.returncode == 0
    assert "peft.r (2): 2 jobs, 1 of them like another" in again.stdout
    assert "1 of 2 jobs is the same as another of them: run once" in again.stdout


@pytest.mark.slow
def test_a_killed_job_is_a_result_and_goes_on_from_its_checkpoint(sweep, tiny_config, tmp_path: Path):
    mine = tmp_path / "outputs" / "sweeps" / "mine"
    killer = once(lambda: any(steps_done(each) > 12 for each in mine.glob("*-40_*")), lambda: kill_job(signal.SIGKILL))
    steps = ("trainer.val_every_steps=60", "trainer.checkpoint_every_steps=5")
    swept = ("trainer.max_steps=40,2", *steps)
    done = sweep(*ONE_AT_A_TIME, *swept)
    killer.join()
    assert done.returncode == 1
    assert "1 of 2 jobs did not finish" in done.stderr
    assert "trainer.max_steps=40" in done.stderr
    jobs = jobs_of(tmp_path)
    killed = summary_of(jobs["40"])
    assert (killed["status"], killed["exit_code"]) == ("failed", -signal.SIGKILL)
    assert "SIGKILL" in killed["reason"]
    assert summary_of(jobs["2"])["status"] == "finished"
    kept = sweep(*ONE_AT_A_TIME, *swept, "sweep.rerun=none")
    assert kept.returncode == 1
    assert "0 to run" in kept.stdout
    again = sweep(*ONE_AT_A_TIME, *swept)
    assert again.returncode == 0, again.stderr
    assert "resuming from" in (jobs["40"] / "run.log").read_text()
    uninterrupted = alone(tiny_config("trainer.max_steps=40", *steps), tmp_path)
    assert adapter_of(jobs["40"]) == adapter_of(uninterrupted)


def test_a_job_that_fails_does_not_stop_the_others(sweep, tmp_path: Path):
    done = sweep(*ONE_AT_A_TIME, "peft.target_modules=all-linear,[nowhere]")
    assert done.returncode == 1
    assert "[1/2] finished" in done.stdout
    assert "peft.target_modules" in done.stderr
    failed = summary_of(jobs_of(tmp_path)["[nowhere]"])
    assert failed["status"] == "failed"
    assert "nowhere" in failed["reason"]


def test_a_silent_job_is_killed(sweep, tmp_path: Path):
    done = sweep(*ONE_AT_A_TIME, "sweep.job_timeout=1", *LONG, "trainer.log_every_steps=2000", "seed=1,1",
                 "trainer.checkpoint_every_steps=2000")  # fmt: skip
    assert done.returncode == 1
    [folder] = jobs_of(tmp_path).values()
    assert "1 seconds without output (sweep.job_timeout)" in summary_of(folder)["reason"]


def test_a_signal_stops_the_sweep_in_order_and_the_command_goes_on(sweep, tmp_path: Path):
    mine = tmp_path / "outputs" / "sweeps" / "mine"
    once(lambda: any(steps_done(each) > 3 for each in mine.glob("*-40_*")), lambda: signal_self(signal.SIGTERM))
    steps = ("trainer.max_steps=40,2", "trainer.val_every_steps=40")
    done = sweep(*ONE_AT_A_TIME, *steps)
    assert done.returncode == 128 + signal.SIGTERM
    assert "the same command goes on" in done.stderr
    [stopped] = mine.glob("*-40_*")
    assert summary_of(stopped)["status"] == "interrupted"
    assert list(mine.glob("*-2_*")) == []
    again = sweep(*ONE_AT_A_TIME, *steps)
    assert again.returncode == 0, again.stderr
    assert "2 to run" in again.stdout
    assert summary_of(stopped)["status"] == "finished"


@pytest.mark.slow
def test_a_second_signal_stops_at_once(sweep, tmp_path: Path, monkeypatch):
    mine = tmp_path / "outputs" / "sweeps" / "mine"
    heard, on_signal = threading.Event(), Pool._on_signal

    def on_first(pool: Pool, *arguments) -> None:
        on_signal(pool, *arguments)
        heard.set()

    monkeypatch.setattr(Pool, "_on_signal", on_first)

    def stop() -> None:
        kill_job(signal.SIGSTOP)  # deaf to the first
        signal_self(signal.SIGTERM)
        assert heard.wait(60)  # or the two would be one
        signal_self(signal.SIGTERM)

    once(lambda: any(steps_done(each) > 3 for each in mine.glob("seed-1*")), stop)
    done = sweep(*ONE_AT_A_TIME, *LONG, "seed=1,2")
    assert done.returncode == 128 + signal.SIGTERM
    [stopped] = mine.glob("seed-1*")
    assert summary_of(stopped)["status"] == "interrupted"


def test_an_error_of_the_source_stops_the_jobs_and_blames_none(sweep, tmp_path: Path, monkeypatch):
    mine = tmp_path / "outputs" / "sweeps" / "mine"

    def to_stop(source: Listed) -> dict[str, Stop]:
        if any(steps_done(each) > 3 for each in mine.glob("seed-1*")):
            raise TunelabError("optuna.db: the disk is full")
        return {}

    monkeypatch.setattr(Listed, "to_stop", to_stop)
    done = sweep(*ONE_AT_A_TIME, *LONG, "seed=1,2")
    assert (done.returncode, done.stderr) == (1, "error: optuna.db: the disk is full\n")
    [stopped] = mine.glob("seed-1*")
    assert summary_of(stopped)["status"] == "interrupted"
    assert list(mine.glob("seed-2*")) == []


@pytest.mark.parametrize(
    ("code", "written", "status"),
    [
        (1, "failed", "failed"),  # by itself, while it was to stop
        (143, "interrupted", "pruned"),
        (-signal.SIGTERM, None, "pruned"),  # before it could hear
        (143, None, "pruned"),  # before the run began
        (-signal.SIGKILL, None, "failed"),  # no memory, say
        (0, "finished", "finished"),
    ],
)
def test_a_job_that_was_given_up_is_pruned_where_it_has_not_ended_by_itself(
    tmp_path: Path, monkeypatch, code: int, written: str | None, status: str
):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # the pool sets it: taken back afterwards
    [job] = make_jobs([RunConfig()], [["seed=0"]], ["seed"])[0]
    pool = Pool(SweepFolder(tmp_path), Limits(Machine(1, 1, 0)), lambda outcomes, seconds: None)
    folder = pool._sweep.job(job)
    folder.path.mkdir()
    place = pool._place(job)
    assert place is not None
    process: Any = SimpleNamespace(exitcode=code, pid=None)
    running = Running(job, process, place, {}, is_told=True, stop=Stop("median pruner: …", 40))
    pool._running.append(running)
    if written:
        folder.write_json("summary.json", {"status": written, "reason": "no memory", "metrics": {}})
    assert pool._end(running).status.value == status
    summary = folder.read_summary()
    assert summary["status"] == status
    assert ("pruned_at_step" in summary) is (status == "pruned")


def test_what_another_sweep_runs_is_left_to_it(sweep, tmp_path: Path):
    steps = ("trainer.max_steps=2", "seed=1,2")
    assert sweep(*ONE_AT_A_TIME, *steps).returncode == 0
    first, second = jobs_of(tmp_path).values()
    log, summary = (first / "run.log").read_text(), summary_of(first)
    for folder in (first, second):
        (folder / "summary.json").write_text(json.dumps({**summary_of(folder), "status": "interrupted"}))
    claimed = threading.Event()

    def other_sweep() -> None:
        with held(first / ".sweep.lock") as mine:
            assert mine
            claimed.set()
            until(lambda: summary_of(second)["status"] == "finished")  # by then ours has passed over the first
            (first / "summary.json").write_text(json.dumps(summary))

    other = threading.Thread(target=other_sweep)
    other.start()
    claimed.wait()
    done = sweep(*ONE_AT_A_TIME, *steps)
    other.join()
    assert done.returncode == 0
    assert "2 to run" in done.stdout
    assert (first / "run.log").read_text() == log


@pytest.mark.slow
def test_two_devices_give_the_run_of_one_and_a_killed_job_leaves_no_process(sweep, tiny_config, tmp_path: Path):
    """One sweep for both: to start a job on several devices is to import everything in each of its processes."""
    mine = tmp_path / "outputs" / "sweeps" / "mine"
    once(lambda: any(steps_done(each) > 3 for each in mine.glob("*-2000_*")), lambda: kill_job(signal.SIGKILL))
    # Answers are scored in the first process; early stopping needs the figure in both, or they wait for each other.
    scored = ("evaluation.generate=true", "evaluation.max_new_tokens=2", "trainer.score_every_validations=1")
    scored += ("trainer.num_scored_examples=4", "trainer.monitor=val/exact_match")
    scored += ("trainer.early_stopping_patience=900",)
    two = ("trainer.devices=2", "trainer.accelerator=cpu")
    done = sweep(*ONE_AT_A_TIME, *two, *scored, "trainer.max_steps=6,2000")
    assert done.returncode == 1
    finished, killed = jobs_of(tmp_path).values()
    expected = alone(tiny_config(*scored), tmp_path)
    ours, other = (load_file(each / "adapter" / "adapter_model.safetensors") for each in (finished, expected))
    assert ours.keys() == other.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], other[name], rtol=1e-4, atol=1e-4)
    found, wanted = ([line for line in metrics_of(each) if "train/loss" in line] for each in (finished, expected))
    assert [line["step"] for line in found] == [1, 2, 3, 4, 5, 6]
    assert [line["train/loss"] for line in found] == pytest.approx([line["train/loss"] for line in wanted], rel=1e-4)
    summary = summary_of(finished)
    assert summary["metrics"]["test/loss"] == pytest.approx(summary_of(expected)["metrics"]["test/loss"], rel=1e-4)
    assert summary["best"] == summary_of(expected)["best"] == {"metric": "val/exact_match", "value": 0.0, "step": 6}
    assert [line["step"] for line in metrics_of(finished) if "val/exact_match" in line] == [3, 6]
    assert (finished / "run.log").read_text().count("optimizer steps of") == 1  # one process speaks
    assert "SIGKILL" in summary_of(killed)["reason"]
    with held(killed / ".lock", timeout=10) as free:
        assert free


@pytest.mark.slow
def test_a_sweep_in_a_shell_gives_the_bits_of_single_runs(
    tiny_overrides: list[str], tiny_config, quiet_environment: dict[str, str], tmp_path: Path
):
    more = ["evaluation.base=true", "peft.r=2"]
    command = [sys.executable, str(REPOSITORY / "train.py"), "-m", *tiny_overrides, *more, "peft=lora,dora", "seed=1,2"]
    environment = quiet_environment | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    subprocess.run([*command, "sweep.workers=2"], check=True, env=environment, cwd=tmp_path, timeout=300)
    jobs = jobs_of(tmp_path)
    assert len(jobs) == 4
    single = alone(tiny_config(*more, "peft=dora", "seed=2"), tmp_path)
    assert adapter_of(jobs["dora 2"]) == adapter_of(single)
    assert summary_of(jobs["dora 2"])["metrics"] == summary_of(single)["metrics"]
    assert sum("base_measured_by" in summary_of(each) for each in jobs.values()) == 3
