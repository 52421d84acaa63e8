"""The whole configuration of each command."""

from dataclasses import dataclass, field
from enum import Enum
from pathlib import PurePath
from typing import Any

from tunelab.config.data import DataConfig
from tunelab.config.evaluation import EvaluationConfig
from tunelab.config.model import ModelConfig
from tunelab.config.section import MISSING, Section, require
from tunelab.config.training import ObjectiveConfig, OptimConfig, TrainerConfig
from tunelab.errors import ConfigError


@dataclass(kw_only=True)
class RunConfig(Section):
    """Everything one training run depends on."""

    name: str = "run"  # outputs/runs/<name>/…; an experiment sets its own
    output_dir: str = "outputs"
    seed: int = 0
    resume: str | None = None  # a run folder to continue
    model: ModelConfig = field(default_factory=ModelConfig)
    peft: dict[str, Any] = field(default_factory=dict)  # `_target_: peft.…Config` and its arguments; null: full
    data: DataConfig = field(default_factory=DataConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    logger: dict[str, Any] = field(default_factory=dict)  # name → `_target_: pytorch_lightning.loggers.…`

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**32, "seed", "an integer in [0, 2**32)", self.seed)
        parts = PurePath(self.name).parts
        inside = bool(parts) and ".." not in parts and not PurePath(self.name).is_absolute()
        require(inside, "name", "a folder name under <output_dir>/runs", self.name)


class AnySplit(Enum):
    """A part of the data."""

    train = "train"
    validation = "validation"
    test = "test"


@dataclass(kw_only=True)
class InspectConfig(RunConfig):
    """What `tunelab inspect` shows: the data as a run with the same configuration would see it."""

    split: AnySplit = AnySplit.train
    num_examples: int = 3
    ids: bool = False  # show each token with its id
    to: str | None = None  # folder for the pages and the report; None: <output_dir>/inspect/<date>_<time>

    def __post_init__(self) -> None:
        RunConfig.__post_init__(self)
        require(self.num_examples >= 0, "num_examples", "0 or more", self.num_examples)


@dataclass(kw_only=True)
class PrepareConfig(RunConfig):
    """What `tunelab prepare` writes: the cleaned and split rows, as ordinary files."""

    to: str = MISSING  # a new folder


class Split(Enum):
    """A part of the data that is not trained on."""

    validation = "validation"
    test = "test"


@dataclass(kw_only=True)
class EvaluateConfig(Section):
    """What `evaluate.py` measures: a run folder, or any adapter on any data."""

    run: str | None = None  # a run folder of train.py: its base model, data and adapter
    adapter: str | None = None  # a PEFT folder; with `run`, instead of the run's own
    split: Split = Split.test
    output_dir: str = "outputs"  # without `run`: results go to <output_dir>/evaluations/…
    model: ModelConfig = field(default_factory=ModelConfig)  # without `run`
    data: DataConfig = field(default_factory=DataConfig)  # without `run`
    trainer: TrainerConfig = field(default_factory=TrainerConfig)  # without `run`: where and how precisely
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        if self.run is None and self.adapter is None:
            raise ConfigError(
                "run: expected a run folder or an adapter, found neither; "
                "set run=<run folder> or adapter=<PEFT folder>."
            )
