"""What a sweep tells the process of a job; light to import, for the sweep itself needs no torch."""

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
    from tunelab.sweeping.job_process import run_process  # imports torch, in that process

    run_process(order)
