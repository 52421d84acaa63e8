"""The typed run tree: these dataclasses own every default, unit, range and cross-field rule."""

import dataclasses
import math
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from tunelab.errors import ConfigError

MISSING: Any = "???"


class Section:
    """Base of every config section: remembers which of its keys were read (for the unread-key audit)."""

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_"):
            object.__getattribute__(self, "__dict__").setdefault("_read", set()).add(name)
        return object.__getattribute__(self, name)


class Format(Enum):
    """How a row's fields are laid out. `auto` decides from the column names."""

    auto = "auto"
    messages = "messages"
    alpaca = "alpaca"
    prompt_response = "prompt_response"


class Template(Enum):
    """How an example becomes text. `auto`: the tokenizer's chat template where it has one, else `alpaca`."""

    auto = "auto"
    chat = "chat"
    alpaca = "alpaca"
    plain = "plain"


class OverLength(Enum):
    """What happens to an example longer than `data.max_length`."""

    truncate_prompt = "truncate_prompt"
    drop = "drop"
    error = "error"


class DType(Enum):
    """Storage type of the base weights. `auto`: as the checkpoint has them (float32 on CPU)."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Quantization(Enum):
    """How the frozen base weights are quantised (bitsandbytes)."""

    none = "none"
    nf4 = "nf4"


class Attention(Enum):
    """`varlen`: padding-free rows; `padded`: right-padded rows; `auto`: varlen where proved equal on this model."""

    auto = "auto"
    varlen = "varlen"
    padded = "padded"


class Precision(Enum):
    """Arithmetic of the forward pass: float32, or mixed with bfloat16 / float16. Trained weights stay float32.

    `auto`: bf16 where CUDA computes it, fp32 elsewhere.
    """

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


class Accelerator(Enum):
    """Where to run. `auto`: CUDA where there is a device, else the CPU."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Schedule(Enum):
    """Shape of the learning rate after warm-up."""

    constant = "constant"
    linear = "linear"
    cosine = "cosine"


def _require(condition: bool, key: str, expected: str, found: object) -> None:
    """Raise a ConfigError naming `key` unless `condition` holds."""
    if not condition:
        raise ConfigError(f"{key}: expected {expected}, found {found!r}; set {key}=<value>.")


@dataclass(kw_only=True)
class ModelConfig(Section):
    """The base model."""

    path: str = MISSING  # a folder or a hub name; embedded:tiny lies in the package
    revision: str | None = None  # commit, tag or branch on the hub
    dtype: DType = DType.auto
    quantization: Quantization = Quantization.none
    double_quantization: bool = True  # quantise the quantisation constants too (nf4)
    attention: Attention = Attention.auto


@dataclass(kw_only=True)
class ColumnsConfig(Section):
    """Names of the columns that hold each part of a row, where they differ from the format's own."""

    prompt: str | None = None
    response: str | None = None
    system: str | None = None
    input: str | None = None
    messages: str | None = None


@dataclass(kw_only=True)
class DataConfig(Section):
    """The data set and how examples become token ids."""

    path: str = MISSING  # training rows: a .json, .jsonl or .csv file
    validation_path: str | None = None
    test_path: str | None = None
    validation_fraction: float = 0.05  # held out of `path` where `validation_path` is not given
    test_fraction: float = 0.05  # held out of `path` where `test_path` is not given
    max_train_rows: int | None = None  # first rows only; None: all
    format: Format = Format.auto
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    template: Template = Template.auto
    max_length: int = 1024  # tokens, prompt and response and special tokens together
    over_length: OverLength = OverLength.truncate_prompt
    batch_size: int = 16  # examples of one optimizer step, over all devices

    def __post_init__(self) -> None:
        _require(self.max_length >= 2, "data.max_length", "at least 2 tokens", self.max_length)
        _require(self.batch_size >= 1, "data.batch_size", "at least 1 example", self.batch_size)
        for key in ("validation_fraction", "test_fraction"):
            value = getattr(self, key)
            _require(0 <= value < 1, f"data.{key}", "a fraction in [0, 1)", value)
        rows = self.max_train_rows
        _require(rows is None or rows >= 1, "data.max_train_rows", "null or at least 1 row", rows)


@dataclass(kw_only=True)
class TrainerConfig(Section):
    """How long to train, on what, and what to do on the way."""

    max_epochs: int = 3
    max_steps: int | None = None  # optimizer steps; overrides max_epochs
    micro_batch_tokens: int = 8192  # memory knob: positions of one forward pass; never changes the result
    accelerator: Accelerator = Accelerator.auto
    devices: int = 1
    precision: Precision = Precision.auto
    gradient_checkpointing: bool = False
    val_every_steps: int | None = None  # None: five times a run, and at its end
    early_stopping_patience: int | None = None  # validations without improvement; None: never stop early
    checkpoint_every_steps: int | None = None  # None: at each validation
    log_every_steps: int = 10
    num_sample_completions: int = 2  # generated and shown at each validation

    def __post_init__(self) -> None:
        at_least_one = ("max_epochs", "micro_batch_tokens", "devices", "log_every_steps")
        optional = ("max_steps", "val_every_steps", "early_stopping_patience", "checkpoint_every_steps")
        for key in at_least_one:
            value = getattr(self, key)
            _require(value >= 1, f"trainer.{key}", "at least 1", value)
        for key in optional:
            value = getattr(self, key)
            _require(value is None or value >= 1, f"trainer.{key}", "null or at least 1", value)
        samples = self.num_sample_completions
        _require(samples >= 0, "trainer.num_sample_completions", "0 or more", samples)


@dataclass(kw_only=True)
class OptimConfig(Section):
    """The optimizer (`_target_` and its own arguments) and the schedule of its learning rate."""

    optimizer: dict[str, Any] = MISSING
    lr: float | None = None  # peak learning rate; None: from the hidden size of the base model, see training/optim.py
    schedule: Schedule = Schedule.cosine
    warmup_fraction: float = 0.03  # of all steps, linear from 0
    min_lr_fraction: float = 0.0  # where linear and cosine end, as a fraction of lr
    max_grad_norm: float | None = 1.0  # None: no clipping (the norm is logged all the same)

    def __post_init__(self) -> None:
        rate = self.lr
        _require(rate is None or 0 <= rate < math.inf, "optim.lr", "null or a finite rate of 0 or more", rate)
        for key in ("warmup_fraction", "min_lr_fraction"):
            value = getattr(self, key)
            _require(0 <= value <= 1, f"optim.{key}", "a fraction in [0, 1]", value)
        norm = self.max_grad_norm
        _require(norm is None or norm > 0, "optim.max_grad_norm", "null or above 0", norm)


class Objective(Enum):
    """`sft`: supervised fine-tuning, cross-entropy on the response tokens."""

    sft = "sft"


@dataclass(kw_only=True)
class ObjectiveConfig(Section):
    """What is minimised."""

    name: Objective = Objective.sft
    head_chunk_tokens: int = 512  # supervised tokens projected on the vocabulary at a time (memory knob)

    def __post_init__(self) -> None:
        chunk = self.head_chunk_tokens
        _require(chunk >= 1, "objective.head_chunk_tokens", "at least 1 token", chunk)


@dataclass(kw_only=True)
class EvaluationConfig(Section):
    """What is measured on the test split, for the base model and for the tuned one."""

    base: bool = True  # measure the base model too
    generate: bool = True  # greedy completions and their scores, besides the loss
    max_examples: int | None = None  # first examples of the split; None: all
    max_new_tokens: int = 256
    generation_batch_tokens: int = 16384  # memory knob: prompt and completion positions of one batch

    def __post_init__(self) -> None:
        for key in ("max_new_tokens", "generation_batch_tokens"):
            value = getattr(self, key)
            _require(value >= 1, f"evaluation.{key}", "at least 1 token", value)
        limit = self.max_examples
        _require(limit is None or limit >= 1, "evaluation.max_examples", "null or at least 1", limit)


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
        _require(0 <= self.seed < 2**32, "seed", "an integer in [0, 2**32)", self.seed)


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


def to_plain(value: Any) -> Any:
    """Turn a config tree into dictionaries, lists and scalars (enums by their value); reads are not recorded."""
    if isinstance(value, Section):
        attributes = object.__getattribute__(value, "__dict__")
        return {f.name: to_plain(attributes[f.name]) for f in dataclasses.fields(value)}  # pyright: ignore
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dict):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    return value


def read_keys(section: Section) -> set[str]:
    """Names of the fields of `section` that have been read since it was made."""
    return set(object.__getattribute__(section, "__dict__").get("_read", ()))


def mark_read(section: Section, *names: str) -> None:
    """Record that these keys are used, where the use comes after the unread-key audit or in another process."""
    for name in names:
        getattr(section, name)


def forget_reads(section: Section) -> None:
    """Start the record of reads anew, in `section` and below."""
    attributes = object.__getattribute__(section, "__dict__")
    attributes.pop("_read", None)
    for value in attributes.values():
        if isinstance(value, Section):
            forget_reads(value)
