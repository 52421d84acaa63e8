"""`python train.py -m …` typed in the test's process, what it has left, and ways to disturb it under way."""

import json
import multiprocessing
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
Sweep = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def sweep(command: Sweep, tiny_overrides: list[str]) -> Sweep:
    """Type a sweep over the smallest runs; `tiny=False`: over what is typed alone.

    Test modules take the fixture as `sweep = sweeping_runs.sweep`.
    """
    return lambda *arguments, tiny=True: command("train.py", "-m", *(tiny_overrides if tiny else []), *arguments)


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
