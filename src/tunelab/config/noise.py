"""A noise study: which run is repeated, how often with its own seed, and with which others."""

from dataclasses import dataclass, field

from tunelab.config.section import MISSING, Section, require
from tunelab.config.sweep import SweepConfig


@dataclass(kw_only=True)
class NoiseConfig(Section):
    """What `tunelab noise` repeats."""

    run: str = MISSING  # the folder of a finished run; a job of a sweep is one too
    same_seed: int = 3  # repeats with the run's own seed, besides the run itself
    other_seeds: int = 5  # repeats with the seeds that follow it; where `seeds` names none
    seeds: list[int] = field(default_factory=list[int])  # these other seeds
    to: str | None = None  # the folder of the study; null: <output_dir of the run>/sweeps/noise_<run folder>
    sweep: SweepConfig = field(default_factory=SweepConfig)  # workers, job_timeout and rerun: as in a sweep

    def __post_init__(self) -> None:
        require(self.same_seed >= 0, "same_seed", "0 or more repeats", self.same_seed)
        require(self.other_seeds >= 0, "other_seeds", "0 or more repeats", self.other_seeds)
        sound = len(set(self.seeds)) == len(self.seeds) and all(0 <= seed < 2**32 for seed in self.seeds)
        require(sound, "seeds", "integers in [0, 2**32), each once", self.seeds)
        num_runs = self.same_seed + (len(self.seeds) or self.other_seeds)
        require(num_runs > 0, "same_seed", "at least one repeat, with this seed or another", 0)
