"""The whole configuration of each command."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import PurePath
from typing import Any

from tunelab.config.data import DataConfig
from tunelab.config.evaluation import EvaluationConfig
from tunelab.config.harness import HarnessConfig
from tunelab.config.model import DType, ModelConfig
from tunelab.config.search import SearchConfig
from tunelab.config.section import MISSING, Section, require, to_plain
from tunelab.config.sweep import SweepConfig
from tunelab.config.training import ObjectiveConfig, OptimConfig, TrainerConfig
from tunelab.errors import ConfigError

OF_THE_SWEEP = ("sweep", "search")  # sections of RunConfig that no run reads


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
    sweep: SweepConfig = field(default_factory=SweepConfig)  # with -m
    search: SearchConfig = field(default_factory=SearchConfig)  # with -m hydra/sweeper=optuna

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**32, "seed", "an integer in [0, 2**32)", self.seed)
        parts = PurePath(self.name).parts
        inside = bool(parts) and ".." not in parts and not PurePath(self.name).is_absolute()
        require(inside, "name", "a folder name under <output_dir>/runs", self.name)
        for each in self.evaluation.sets.values():  # they are rendered as what the model learned
            if to_plain(each)["data"]["template"] == "auto":
                each.data.template = to_plain(self.data)["template"]


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
class SubjectConfig(Section):
    """What a command works on: a run, or an adapter (a whole tuned model) and the base model that it belongs to."""

    run: str | None = None  # a run folder of train.py: its base model, data, template and adapter
    adapter: str | None = None  # a PEFT folder; with `run`, instead of the run's own
    other_base: bool = False  # let an adapter (or a whole model) go with a base of another name than it was trained on
    model: ModelConfig = field(default_factory=ModelConfig)  # without `run`
    trainer: TrainerConfig = field(default_factory=TrainerConfig)  # accelerator; without `run`: precision too

    @property
    def places(self) -> tuple[str, ...]:
        """The folders that are named beside a run or instead of one; adapters, or one whole model."""
        return () if self.adapter is None else (self.adapter,)

    def as_run(self) -> RunConfig:
        """The run that would have made it, where `run` names none."""
        return RunConfig(model=self.model, trainer=self.trainer)

    def require_tuned(self, more: str = "") -> None:
        """Raise a ConfigError where nothing is named; `more` is another way to name it."""
        if self.run is None and not self.places:
            raise ConfigError(
                "run: expected a run folder or an adapter, found neither; "
                f"set run=<run folder>{',' if more else ' or'} adapter=<PEFT folder>{more}."
            )


@dataclass(kw_only=True)
class EvaluateConfig(SubjectConfig):
    """What `evaluate.py` measures: run folders, or any adapters on any data; all on the data of the first run."""

    runs: Any = None  # more run folders: a list, or name → folder
    adapters: Any = None  # more PEFT folders or whole tuned models: a list, or name → folder
    reference: str | None = None  # the model that the others are compared with; null: base, or the first
    split: Split = Split.test
    pages: bool = False  # write what `tunelab review` writes: completions side by side, and a rating sheet
    output_dir: str = "outputs"  # without `run`: results go to <output_dir>/evaluations/…
    data: DataConfig = field(default_factory=DataConfig)  # without `run`
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    harness: HarnessConfig = field(default_factory=HarnessConfig)  # tasks of lm-evaluation-harness, besides the split

    def __post_init__(self) -> None:
        listed = [each for key in ("runs", "adapters") for each in self.listed(key)]
        if not listed:
            self.require_tuned()
        elif len(listed) == 1 and self.run is None and self.adapter is None:
            key = "runs" if self.runs else "adapters"
            raise ConfigError(
                f"{key}: expected two or more models, found one; name a second, or set {key[:-1]}={listed[0][1]}."
            )
        if self.runs and self.adapter is not None and self.run is None:
            raise ConfigError(
                "adapter: expected it with one run, or without any, found it beside runs; set "
                f"adapters=[{self.adapter}]."
            )

    def listed(self, key: str) -> list[tuple[str | None, str]]:
        """Name (None: to be found) and folder of each model that `runs` or `adapters`, the `key`, lists.

        Raises:
            ConfigError: it is neither a list of folders nor a mapping of names to folders.
        """
        value: Any = getattr(self, key)
        pairs: list[tuple[Any, Any]] = [(None, None)]  # what is refused
        if isinstance(value, Mapping):
            pairs = list(value.items())
        elif value is None or isinstance(value, list):
            pairs = [(None, each) for each in value or ()]
        for name, folder in pairs:
            if not (isinstance(folder, str) and folder) or not (name is None or isinstance(name, str)):
                raise ConfigError(
                    f"{key}: expected a list of folders, or names and folders, found {to_plain(value)!r}; set "
                    f"{key}=[<folder>,<folder>] or {key}={{<name>:<folder>,<name>:<folder>}}."
                )
        return pairs

    def as_run(self) -> RunConfig:
        """The run that would have made it, where `run` names none."""
        return RunConfig(
            output_dir=self.output_dir,
            model=self.model,
            data=self.data,
            trainer=self.trainer,
            evaluation=self.evaluation,
        )


class ExportKind(Enum):
    """`adapter`: a PEFT folder; `merged`: a whole model, the adapter in its weights."""

    adapter = "adapter"
    merged = "merged"


class Combination(Enum):
    """How several LoRA adapters become one. `cat` is the exact weighted sum; the others are PEFT's."""

    cat = "cat"
    linear = "linear"
    svd = "svd"
    ties = "ties"
    ties_svd = "ties_svd"
    dare_linear = "dare_linear"
    dare_linear_svd = "dare_linear_svd"
    dare_ties = "dare_ties"
    dare_ties_svd = "dare_ties_svd"
    magnitude_prune = "magnitude_prune"
    magnitude_prune_svd = "magnitude_prune_svd"

    @property
    def prunes(self) -> bool:
        """Whether it drops values, and so needs `density`."""
        return self.value.startswith(("ties", "dare", "magnitude_prune"))


@dataclass(kw_only=True)
class ExportConfig(SubjectConfig):
    """What `tunelab export` writes: an adapter or a merged model, as other programs read them."""

    to: str = MISSING  # a new folder
    kind: ExportKind = ExportKind.adapter
    adapters: list[str] = field(default_factory=list[str])  # several LoRA folders, combined into one; with `run` or not
    weights: list[float] = field(default_factory=list[float])  # one for each of `adapters`; empty: equal, of sum 1
    combination: Combination = Combination.cat
    density: float | None = None  # fraction of the values that ties, dare and magnitude_prune keep
    dtype: DType = DType.auto  # kind=merged: type of the stored weights; auto: as the base checkpoint
    split: Split = Split.validation  # kind=merged: what it is compared on with the model as trained
    max_examples: int = 32  # kind=merged: first examples of the split; 0: no comparison, and no data needed
    output_dir: str = "outputs"  # without `run`: where prepared data are kept
    data: DataConfig = field(default_factory=DataConfig)  # without `run`: the template, and what to compare on
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)  # what a data group may set; not used here

    def __post_init__(self) -> None:
        require(self.max_examples >= 0, "max_examples", "0 or more", self.max_examples)
        count = len(self.weights)
        require(count in (0, len(self.adapters)), "weights", f"one for each of {len(self.adapters)} adapters", count)
        sound = all(map(math.isfinite, self.weights)) and (not self.weights or any(self.weights))
        require(sound, "weights", "finite numbers, not all of them 0", self.weights)
        require(len(self.adapters) != 1, "adapters", "two or more (of one: adapter=<PEFT folder>)", self.adapters)
        density = self.density
        require(density is None or 0 < density <= 1, "density", "null or a fraction in (0, 1]", density)
        if self.adapters and self.combination.prunes and density is None:
            raise ConfigError(
                f"density: expected a fraction in (0, 1] for combination={self.combination.value}, found none; "
                "set density=0.5."
            )
        if self.adapter is not None and self.adapters:
            raise ConfigError("adapter: expected adapter or adapters, found both; remove one of them.")
        self.require_tuned(" or adapters=[<PEFT folder>,<PEFT folder>]")

    @property
    def places(self) -> tuple[str, ...]:
        """The one adapter, or those that become one."""
        return tuple(self.adapters) or super().places

    def as_run(self) -> RunConfig:
        """The run that would have made it, where `run` names none."""
        folder = str(to_plain(self)["output_dir"])  # used for a comparison alone, and counted as read there
        return RunConfig(output_dir=folder, model=self.model, data=self.data, trainer=self.trainer)


@dataclass(kw_only=True)
class ChatConfig(SubjectConfig):
    """Whom `tunelab chat` lets speak, and how."""

    base: bool | None = None  # show the base model's answers too; null: in a terminal, where something was trained
    system: str | None = None  # a system message, where the template takes one
    temperature: float = 0.0  # 0: always the most likely token, as in evaluation
    top_p: float = 1.0  # sample among the most likely tokens that have this probability together
    max_new_tokens: int = 512  # of one answer
    seed: int = 0  # of sampling
    drop_oldest: bool = False  # leave out the oldest turns where the conversation is longer than the model's positions
    template: str = "auto"  # without `run`: as data.template

    def __post_init__(self) -> None:
        require(self.temperature >= 0, "temperature", "0 or more", self.temperature)
        require(0 < self.top_p <= 1, "top_p", "a probability in (0, 1]", self.top_p)
        require(self.max_new_tokens >= 1, "max_new_tokens", "at least 1 token", self.max_new_tokens)
        require(0 <= self.seed < 2**32, "seed", "an integer in [0, 2**32)", self.seed)

    def as_run(self) -> RunConfig:
        """The run that would have made it, where `run` names none."""
        return RunConfig(model=self.model, trainer=self.trainer, data=DataConfig(template=self.template))
