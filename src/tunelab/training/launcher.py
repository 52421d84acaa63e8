"""Starts one job on several devices of this machine: torchrun's elastic launcher on the run's saved configuration."""

import atexit
import datetime
import logging
import os
import sys
import uuid
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch


def inside_torchrun() -> bool:
    """True in a process that torchrun (or SLURM through it) has started."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def process_rank() -> int:
    """Number of this process among those that train together; 0 where it is alone."""
    return int(os.environ.get("RANK", "0")) if inside_torchrun() else 0


def join_processes(device: torch.device) -> None:
    """Let this process and those that train with it exchange tensors now; Lightning would later, and finds it done.

    The first measures the base model before the others hear of it, so they wait long: one that fails ends all.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
        atexit.register(dist.destroy_process_group)  # else torch warns at the end of the program
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=datetime.timedelta(days=1))


def launch(module: str, arguments: Sequence[str], num_processes: int, on_cpu: bool) -> int:
    """Run `python -m module arguments` in `num_processes` processes that know of each other; return an exit code.

    SIGTERM and Ctrl-C reach the processes, which save and stop in order. On the CPU they share the cores.
    """
    if on_cpu:
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // num_processes)))
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the run folder says what failed
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=num_processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    try:
        elastic_launch(config, sys.executable)("-u", "-m", module, *arguments)
    except ChildFailedError as error:
        codes = [failure.exitcode for failure in error.failures.values()]
        return next((code for code in codes if code > 0), 1)
    except SignalException as error:
        return 128 + error.sigval
    return 0
