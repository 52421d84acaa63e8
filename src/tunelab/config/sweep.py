"""A sweep: which jobs it has, where it lies, how many of them run at a time, and which run again."""

from dataclasses import dataclass, field
from enum import Enum
from pathlib import PurePath
from typing import Any

from tunelab.config.section import Section, require

_ZIP = "a list of swept keys, or several such lists, each key once"


class Rerun(Enum):
    """Which jobs the same command runs again besides those that are missing or were stopped half-way.

    `failed`: those that failed; `all`: every one, from its start; `none`: no other.
    """

    failed = "failed"
    all = "all"
    none = "none"


class Design(Enum):
    """Which combinations of the swept values are jobs.

    `one_at_a_time`: the first values together, and each other value alone in its place; seeds are always crossed.
    """

    grid = "grid"
    one_at_a_time = "one_at_a_time"


class Match(Enum):
    """What all jobs of a sweep are to spend alike: trained weights, or training tokens or FLOPs of the whole run."""

    trainable_parameters = "trainable_parameters"
    tokens = "tokens"
    flops = "flops"


@dataclass(kw_only=True)
class SweepConfig(Section):
    """How `python train.py -m` runs its jobs; a single run uses none of it."""

    name: str | None = None  # outputs/sweeps/<name>; None: what is swept, and a hash of all that is not
    workers: int | None = None  # jobs at a time; None: one a core, or one an accelerator
    job_timeout: float | None = None  # seconds without output after which a job is killed; None: never
    rerun: Rerun = Rerun.failed
    metric: str | None = None  # of summary.json, for "best so far"; None: trainer.monitor
    design: Design = Design.grid
    zip: list[Any] = field(default_factory=list[Any])  # keys whose values go together, [peft,optim.lr]; or several such
    only: list[str] = field(default_factory=list[str])  # 'peft.r if peft=lora,dora': elsewhere the key is not set
    match: Match | None = None  # solve the rank-like key of each method, or trainer.max_steps, for an equal budget
    match_target: float | None = None  # parameters, tokens or FLOPs; None: what the first job of the sweep has

    def __post_init__(self) -> None:
        parts = PurePath(self.name or "").parts
        inside = self.name is None or (bool(parts) and ".." not in parts and not PurePath(self.name).is_absolute())
        require(inside, "sweep.name", "a folder name under <output_dir>/sweeps", self.name)
        require(self.workers is None or self.workers >= 1, "sweep.workers", "null or at least 1", self.workers)
        limit = self.job_timeout
        require(limit is None or limit > 0, "sweep.job_timeout", "null or seconds above 0", limit)
        groups = self.zip_groups()
        keys = [key for group in groups for key in group]
        require(all(len(group) > 1 for group in groups) and len(set(keys)) == len(keys), "sweep.zip", _ZIP, self.zip)
        target = self.match_target
        require(target is None or target > 0, "sweep.match_target", "null or a number above 0", target)

    def zip_groups(self) -> list[list[str]]:
        """The groups of keys that move together: `zip` is one, or a list of them; [[]] where it is neither."""
        groups: list[Any] = self.zip if self.zip and isinstance(self.zip[0], list) else [self.zip] if self.zip else []
        lists = all(isinstance(group, list) and all(isinstance(key, str) for key in group) for group in groups)
        return groups if lists else [[]]
