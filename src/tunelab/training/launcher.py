"""Starts one job on several devices of this machine: torchrun on the run's saved configuration."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from types import FrameType


def inside_torchrun() -> bool:
    """True in a process that torchrun (or SLURM through it) has started."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def process_rank() -> int:
    """Number of this process among those that train together; 0 where it is alone."""
    return int(os.environ.get("RANK", "0")) if inside_torchrun() else 0


def launch(module: str, arguments: Sequence[str], num_processes: int, on_cpu: bool) -> int:
    """Run `python -m module arguments` in `num_processes` processes that know of each other; return the exit code.

    SIGTERM and Ctrl-C are passed on, so that the processes save and stop in order.
    """
    command = [
        *(
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            str(num_processes),
        ),
        *("-m", module, *arguments),
    ]
    environment = dict(os.environ)
    if on_cpu:
        threads = max(1, (os.cpu_count() or 1) // num_processes)
        environment.setdefault("OMP_NUM_THREADS", str(threads))
    process = subprocess.Popen(command, env=environment)

    def pass_on(number: int, frame: FrameType | None) -> None:
        del frame
        process.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        return process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
