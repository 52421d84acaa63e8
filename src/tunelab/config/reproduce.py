"""A reproduction: which runs are done again, where, and by which noise they are judged."""

from dataclasses import dataclass, field

from tunelab.config.section import Section, require
from tunelab.config.sweep import SweepConfig
from tunelab.errors import ConfigError


@dataclass(kw_only=True)
class ReproduceConfig(Section):
    """What `tunelab reproduce` does again."""

    runs: list[str] = field(default_factory=list[str])  # a report, a sweep, runs, or folders that hold runs
    rows: list[int] = field(default_factory=list[int])  # of the report's table, by its numbers (#); empty: all
    max_runs: int | None = None  # do only so many again, the first of each row first; null: all
    metrics: list[str] = field(default_factory=list[str])  # to compare; empty: those of the report's table
    noise: str | None = None  # a noise study (its folder, or noise.json); null: the one beside the runs, if any
    to: str | None = None  # a folder, new or of this reproduction; null: <sweep>_reproduction beside it
    sweep: SweepConfig = field(default_factory=SweepConfig)  # workers, job_timeout and rerun: as in a sweep

    def __post_init__(self) -> None:
        if not self.runs:
            raise ConfigError(
                "runs: expected a report, a sweep or run folders, found none; python -m tunelab reproduce <folder> "
                "[<folder> …]."
            )
        require(len(set(self.rows)) == len(self.rows), "rows", "each row once", self.rows)
        require(self.max_runs is None or self.max_runs >= 1, "max_runs", "null or at least 1", self.max_runs)
