"""The typed run tree: these dataclasses own every default, unit, range and cross-field rule."""

import dataclasses
import math
from dataclasses import dataclass, field
from enum import Enum
from pathlib import PurePath
from typing import Any

from tunelab.errors import ConfigError

MISSING: Any = "???"


class Section:
    """Base of every config section: remembers which of its keys were read (for the unread-key audit)."""

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_"):
            object.__getattribute__(self, "__dict__").setdefault("_read", set()).add(name)
        return object.__getattribute__(self, name)


class OverLength(Enum):
    """What happens to an example longer than `data.max_length`."""

    truncate_prompt = "truncate_prompt"
    drop = "drop"
    error = "error"


class TrainOn(Enum):
    """Which messages of a conversation are learned; a message's own `train` or `weight` decides before this."""

    responses = "responses"
    last_response = "last_response"
    all = "all"


class BadRows(Enum):
    """What happens to a row that cannot be read or understood."""

    error = "error"
    skip = "skip"


class Action(Enum):
    """What happens to examples in which a quality check finds something."""

    report = "report"
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
    history: str | None = None
    messages: str | None = None
    tools: str | None = None
    chosen: str | None = None
    rejected: str | None = None
    label: str | None = None
    text: str | None = None
    segments: str | None = None
    input_ids: str | None = None
    labels: str | None = None


@dataclass(kw_only=True)
class TagsConfig(Section):
    """Names inside a message, where they differ from the format's own (as LLaMA-Factory's `tags`)."""

    role: str | None = None  # the key that holds who speaks
    content: str | None = None  # the key that holds what is said
    system: str | None = None  # the values of the role key …
    user: str | None = None
    assistant: str | None = None
    tool_call: str | None = None
    tool: str | None = None


@dataclass(kw_only=True)
class QualityConfig(Section):
    """Checks of the examples: what is looked for, and what happens to those found."""

    enabled: bool = True  # False: no check but the counts of preparation itself
    exact_duplicates: Action = Action.report  # the same conversation again; the first stays
    near_duplicates: Action = Action.report  # nearly the same text; the first stays
    near_duplicate_similarity: float = 0.8  # Jaccard similarity of word 5-grams, estimated by MinHash
    overlap: Action = Action.report  # a training example that validation or test has too, exactly or nearly
    overlap_ngram_words: int = 13  # words of an n-gram that a test example shares with the training examples
    contradictions: Action = Action.report  # the same prompt with different responses
    empty_responses: Action = Action.report
    short_responses: Action = Action.report
    short_response_characters: int = 2  # a response of fewer characters is short
    encoding_damage: Action = Action.report  # replacement characters, text decoded with the wrong encoding
    special_tokens: Action = Action.report  # text that spells a special token of the tokenizer
    secrets: Action = Action.report  # patterns of keys and passwords
    personal_data: Action = Action.report  # patterns of e-mail addresses and telephone numbers
    balance_by: str | None = None  # a column: each of its values keeps as many training rows as the rarest has

    def __post_init__(self) -> None:
        similarity = self.near_duplicate_similarity
        key = "data.quality.near_duplicate_similarity"
        _require(0.5 <= similarity <= 1, key, "a similarity in [0.5, 1]", similarity)
        for key in ("overlap_ngram_words", "short_response_characters"):
            value = getattr(self, key)
            _require(value >= 1, f"data.quality.{key}", "at least 1", value)


@dataclass(kw_only=True)
class MixedSourceConfig(Section):
    """One of several data sets that are mixed; what is null is taken from `data`."""

    path: str = MISSING
    weight: float = 1.0  # how often each row is seen in an epoch: 2 twice, 0.5 a fixed half of the rows
    max_rows: int | None = None  # first rows only
    format: str | None = None
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    tags: TagsConfig = field(default_factory=TagsConfig)

    def __post_init__(self) -> None:
        _require(0 < self.weight <= 100, "data.mix[].weight", "above 0 and at most 100", self.weight)
        rows = self.max_rows
        _require(rows is None or rows >= 1, "data.mix[].max_rows", "null or at least 1 row", rows)


@dataclass(kw_only=True)
class DataConfig(Section):
    """The data set and how examples become token ids."""

    path: str | None = None  # training rows: a file, a folder, a glob, a saved data set, or a hub name
    mix: list[MixedSourceConfig] = field(default_factory=list[MixedSourceConfig])  # several of them, instead of `path`
    info: str | None = None  # LLaMA-Factory's dataset_info.json, instead of `path` …
    name: str | None = None  # … and the entry of it to take
    revision: str | None = None  # of a hub name: commit, tag or branch
    subset: str | None = None  # of a hub name: the configuration of the data set
    hub_split: str = "train"  # of a hub name: the split that `path` reads
    validation_path: str | None = None
    test_path: str | None = None
    validation_fraction: float = 0.05  # held out of `path` where `validation_path` is not given
    test_fraction: float = 0.05  # held out of `path` where `test_path` is not given
    group_by: str | None = None  # a column: rows with the same value are held out together
    max_train_rows: int | None = None  # first rows only; None: all
    format: str = "auto"  # see docs/data.md; auto reads the column names
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    tags: TagsConfig = field(default_factory=TagsConfig)
    template: str = (
        "auto"  # chat, alpaca, plain, chatml or a .jinja file; auto: chat where the tokenizer has one, else alpaca
    )
    train_on: TrainOn = TrainOn.responses
    max_length: int = 1024  # tokens, prompt and response and special tokens together
    over_length: OverLength = OverLength.truncate_prompt
    max_dropped_fraction: float = 0.1  # of the training examples; where more are left out, the run stops
    on_bad_row: BadRows = BadRows.error
    max_bad_fraction: float = 0.01  # of all rows; where more are skipped, the run stops
    quality: QualityConfig = field(default_factory=QualityConfig)
    augment: str | None = None  # <file.py>:<function>, from a training example to a list of examples
    cache: bool = True  # keep prepared data under <output_dir>/cache and use it again
    batch_size: int = 16  # examples of one optimizer step, over all devices

    def __post_init__(self) -> None:
        _require(self.max_length >= 2, "data.max_length", "at least 2 tokens", self.max_length)
        _require(self.batch_size >= 1, "data.batch_size", "at least 1 example", self.batch_size)
        for key in ("validation_fraction", "test_fraction"):
            value = getattr(self, key)
            _require(0 <= value < 1, f"data.{key}", "a fraction in [0, 1)", value)
        for key in ("max_dropped_fraction", "max_bad_fraction"):
            value = getattr(self, key)
            _require(0 <= value <= 1, f"data.{key}", "a fraction in [0, 1]", value)
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
        parts = PurePath(self.name).parts
        inside = bool(parts) and ".." not in parts and not PurePath(self.name).is_absolute()
        _require(inside, "name", "a folder name under <output_dir>/runs", self.name)


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
        _require(self.num_examples >= 0, "num_examples", "0 or more", self.num_examples)


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


def all_reads(section: Section, prefix: str = "") -> list[str]:
    """The keys that have been read in `section` and below, as `quality.overlap`."""
    names = sorted(read_keys(section))
    values = object.__getattribute__(section, "__dict__")
    below = [all_reads(values[name], f"{prefix}{name}.") for name in names if isinstance(values[name], Section)]
    return [f"{prefix}{name}" for name in names] + [name for group in below for name in group]


def mark_reads(section: Section, names: list[str]) -> None:
    """Record the keys that `all_reads` gave as read."""
    for name in names:
        owner = section
        for part in name.split("."):
            owner = getattr(owner, part)


def forget_reads(section: Section) -> None:
    """Start the record of reads anew, in `section` and below."""
    attributes = object.__getattribute__(section, "__dict__")
    attributes.pop("_read", None)
    for value in attributes.values():
        if isinstance(value, Section):
            forget_reads(value)
