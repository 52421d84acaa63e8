"""What a sweep tells the process of a job; light to import, for the sweep itself needs no torch."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tunelab.config import RunConfig

LOG = "run.log"
ELSEWHERE = 75  # exit code where another sweep runs the job (sysexits: try again later)


@dataclass(frozen=True, slots=True)
class Order:
    """One job. `anew`: even where it is finished; `devices`: numbers of the CUDA devices to use."""

    folder: Path
    config: RunConfig
    overrides: tuple[str, ...]
    anew: bool
    shared: Path | None = None
    devices: tuple[int, ...] | None = None


def main(order: Order) -> None:
    """What the process of a job runs."""
    if order.devices is not None:  # now: libraries look at the devices as they are imported
        os.environ["CUDA_VISIBLE_DEVICES"] = visible(order.devices)
    from tunelab.sweeping.job_process import run_process  # imports torch, in that process

    run_process(order)


def visible(devices: Sequence[int]) -> str:
    """CUDA_VISIBLE_DEVICES for some of those that this process sees."""
    names = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return ",".join(names[number] if names else str(number) for number in devices)
