"""`python train.py -m …` typed in the test's process, what it has left, and ways to disturb it under way."""

import json
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.core.config_store import ConfigStore

REPOSITORY = Path(__file__).resolve().parents[2]
Sweep = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def sweep(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path, tiny_overrides: list[str]
) -> Sweep:
    """Type a sweep over the smallest runs, in `tmp_path`; `tiny=False`: over what is typed alone.

    Its jobs run in processes of their own, as always. Test modules take the fixture as `sweep = sweeping_runs.sweep`.
    """
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")  # the command sets it: taken back afterwards
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))  # the same, and bits depend on it
    monkeypatch.setattr(ConfigStore.instance(), "repo", dict(ConfigStore.instance().repo))
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str, tiny: bool = True) -> subprocess.CompletedProcess[str]:
        usual = tiny_overrides if tiny else []
        monkeypatch.setattr(sys, "argv", [str(REPOSITORY / "train.py"), "-m", *usual, *arguments])
        capfd.readouterr()
        try:
            runpy.run_path(str(REPOSITORY / "train.py"), run_name="__main__")
            code: Any = 0
        except SystemExit as end:
            code = end.code or 0
        return subprocess.CompletedProcess(arguments, code, *capfd.readouterr())

    return call


def jobs_of(folder: Path) -> dict[str, Path]:
    """The folders of the only sweep below `folder`, by what the index calls them."""
    [index] = (folder / "outputs" / "sweeps").glob("*/sweep.json")
    entries = json.loads(index.read_text())["jobs"]
    return {" ".join(entry["axes"].values()): index.parent / entry["folder"] for entry in entries}


def summary_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


def adapter_of(folder: Path) -> bytes:
    return (folder / "adapter" / "adapter_model.safetensors").read_bytes()


def metrics_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def steps_done(folder: Path) -> int:
    """Lines of metrics so far."""
    metrics = folder / "metrics.jsonl"
    return len(metrics.read_text().splitlines()) if metrics.is_file() else 0


def until(condition: Callable[[], bool], limit: float = 600) -> bool:
    """Look again and again, as nothing tells what other processes write; False where the time is up."""
    never, end = threading.Event(), time.monotonic() + limit
    while not condition():
        if time.monotonic() > end:
            return False
        never.wait(0.02)
    return True


def once(condition: Callable[[], bool], action: Callable[[], None], limit: float = 600) -> threading.Thread:
    """Do `action` in another thread as soon as `condition` holds."""
    thread = threading.Thread(target=lambda: until(condition, limit) and action(), daemon=True)
    thread.start()
    return thread


def signal_self(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


def kill_job(number: signal.Signals) -> None:
    """Send a signal to the job that runs."""
    [process] = multiprocessing.active_children()
    assert process.pid
    os.kill(process.pid, number)
