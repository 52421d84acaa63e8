"""What a sweep has left, and ways to disturb one under way."""

import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def jobs_of(folder: Path) -> dict[str, Path]:
    """The folders of the only sweep below `folder`, by what the index calls them."""
    [index] = (folder / "outputs" / "sweeps").glob("*/sweep.json")
    entries = json.loads(index.read_text())["jobs"]
    return {" ".join(entry["axes"].values()): index.parent / entry["folder"] for entry in entries}


def summary_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


def adapter_of(folder: Path) -> bytes:
    return (folder / "adapter" / "adapter_model.safetensors").read_bytes()


def steps_done(folder: Path) -> int:
    """Lines of metrics so far."""
    metrics = folder / "metrics.jsonl"
    return len(metrics.read_text().splitlines()) if metrics.is_file() else 0


def once(condition: Callable[[], bool], action: Callable[[], None], limit: float = 60) -> threading.Thread:
    """Do `action` in another thread as soon as `condition` holds."""

    def wait() -> None:
        end = time.monotonic() + limit
        while time.monotonic() < end:
            if condition():
                action()
                return
            time.sleep(0.02)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def signal_self(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


def kill_job(number: signal.Signals) -> None:
    """Send a signal to the job that runs."""
    [process] = multiprocessing.active_children()
    assert process.pid
    os.kill(process.pid, number)
