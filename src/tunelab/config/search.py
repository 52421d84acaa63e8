"""A search: how many trials, by which figures, who proposes them, and which of them end early."""

from dataclasses import dataclass, field
from enum import Enum

from tunelab.config.section import Section, require


class Sampler(Enum):
    """Who proposes the next trial: the algorithms of Optuna."""

    tpe = "tpe"
    random = "random"
    grid = "grid"
    cmaes = "cmaes"
    nsgaii = "nsgaii"


class Pruner(Enum):
    """Who ends a trial early, by its validations so far: the rules of Optuna. `none`: nobody."""

    none = "none"
    median = "median"
    successive_halving = "successive_halving"
    hyperband = "hyperband"


@dataclass(kw_only=True)
class SearchConfig(Section):
    """How `python train.py -m hydra/sweeper=optuna` searches; a grid and a single run use none of it."""

    num_trials: int = 20  # of the whole search, those of earlier commands included
    timeout: float | None = None  # seconds of one command after which no new trial begins; None: no limit
    objectives: list[str] = field(default_factory=list[str])  # val/<metric>, say; empty: trainer.monitor
    sampler: Sampler = Sampler.tpe
    seed: int = 0  # of the sampler: trial n is drawn with seed + n
    num_startup_trials: int | None = None  # tpe: drawn at random before the others; None: 10
    population_size: int | None = None  # cmaes, nsgaii: trials of a generation; None: by the keys, and 10
    seeds: list[int] = field(default_factory=list[int])  # of the runs of each trial; empty: one run, of `seed`
    racing: bool = False  # add the seeds of a trial one by one, until it is shown to be worse than the best
    pruner: Pruner = Pruner.none
    prune_after_trials: int | None = None  # median: trials that are not pruned, at the start; None: 5
    prune_after_steps: int | None = None  # median: optimizer steps of each trial before it can be pruned; None: 0
    min_steps: int | None = None  # successive_halving, hyperband: the first rung; None: see docs/search.md
    reduction_factor: int | None = None  # the same: one of so many goes on from a rung; None: Optuna's 4 and 3

    def __post_init__(self) -> None:
        require(self.num_trials >= 1, "search.num_trials", "at least 1", self.num_trials)
        limit = self.timeout
        require(limit is None or limit > 0, "search.timeout", "null or seconds above 0", limit)
        require(0 <= self.seed < 2**31, "search.seed", "an integer in [0, 2**31)", self.seed)
        lowest = {"num_startup_trials": 0, "prune_after_trials": 0, "prune_after_steps": 0, "min_steps": 1}
        for key, least in (lowest | {"reduction_factor": 2, "population_size": 4}).items():
            value = getattr(self, key)
            require(value is None or value >= least, f"search.{key}", f"null or at least {least}", value)
        self._check_lists()

    def _check_lists(self) -> None:
        for key, values in (("objectives", self.objectives), ("seeds", self.seeds)):
            require(len({*values}) == len(values), f"search.{key}", "each once", list(values))
        require(all(0 <= each < 2**32 for each in self.seeds), "search.seeds", "integers in [0, 2**32)", self.seeds)
        if self.racing:
            require(len(self.seeds) >= 3, "search.seeds", "three or more with search.racing=true", list(self.seeds))
