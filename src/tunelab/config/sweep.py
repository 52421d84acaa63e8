"""A sweep: where it lies, how many of its jobs run at a time, and which of them run again."""

from dataclasses import dataclass, field
from enum import Enum
from pathlib import PurePath

from tunelab.config.section import Section, require


class Rerun(Enum):
    """Which jobs the same command runs again besides those that are missing or were stopped half-way.

    `failed`: those that failed; `all`: every one, from its start; `none`: no other.
    """

    failed = "failed"
    all = "all"
    none = "none"


@dataclass(kw_only=True)
class SweepConfig(Section):
    """How `python train.py -m` runs its jobs; a single run uses none of it."""

    name: str | None = None  # outputs/sweeps/<name>; None: what is swept, and a hash of all that is not
    workers: int | None = None  # jobs at a time; None: one a core, or one an accelerator
    job_timeout: float | None = None  # seconds without output after which a job is killed; None: never
    rerun: Rerun = Rerun.failed
    only: list[str] = field(default_factory=list[str])  # 'peft.r if peft=lora,dora': elsewhere the key is not swept
    metric: str | None = None  # of summary.json, for "best so far"; None: test/exact_match, else test/loss

    def __post_init__(self) -> None:
        parts = PurePath(self.name or "").parts
        inside = self.name is None or (bool(parts) and ".." not in parts and not PurePath(self.name).is_absolute())
        require(inside, "sweep.name", "a folder name under <output_dir>/sweeps", self.name)
        require(self.workers is None or self.workers >= 1, "sweep.workers", "null or at least 1", self.workers)
        limit = self.job_timeout
        require(limit is None or limit > 0, "sweep.job_timeout", "null or seconds above 0", limit)
