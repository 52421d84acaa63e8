"""What this machine has for the jobs of a sweep: cores, threads for each job, CUDA devices; found without torch."""

import ctypes
import multiprocessing
import os
from dataclasses import dataclass
from multiprocessing.connection import Connection


@dataclass(frozen=True, slots=True)
class Machine:
    """Jobs at a time, torch threads of each, and the CUDA devices to deal out."""

    workers: int
    num_threads: int
    num_devices: int


def plan_machine(workers: int | None, num_jobs: int) -> Machine:
    """Share the machine out: one job a CUDA device; without one, one a core, or one for each OMP_NUM_THREADS cores.

    `workers` is the most jobs at a time, where it is given; what is left of the cores goes to their threads.
    """
    cores, typed = num_cores(), os.environ.get("OMP_NUM_THREADS", "")
    threads = int(typed) if typed.isdigit() and int(typed) else None
    num_devices = count_devices()
    usual = num_devices or max(1, cores // (threads or 1))
    at_a_time = max(1, min(workers or usual, num_jobs))
    return Machine(at_a_time, threads or max(1, cores // at_a_time), num_devices)


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def count_devices() -> int:
    """CUDA devices that a job would see; asked in a process of its own, for who asks cannot fork any more."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_report_devices, args=(sender,))
    process.start()
    sender.close()
    try:
        return int(receiver.recv())
    except EOFError:
        return 0
    finally:
        process.join()


def _report_devices(sender: Connection) -> None:
    import torch

    sender.send(torch.cuda.device_count())
