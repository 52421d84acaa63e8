"""The data set: where its rows are, what they mean, what is learned of them and what is refused."""

from dataclasses import dataclass, field
from enum import Enum

from tunelab.config.section import MISSING, Section, require


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
    choices: str | None = None
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
        require(0.5 <= similarity <= 1, key, "a similarity in [0.5, 1]", similarity)
        for key in ("overlap_ngram_words", "short_response_characters"):
            value = getattr(self, key)
            require(value >= 1, f"data.quality.{key}", "at least 1", value)


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
        require(0 < self.weight <= 100, "data.mix[].weight", "above 0 and at most 100", self.weight)
        rows = self.max_rows
        require(rows is None or rows >= 1, "data.mix[].max_rows", "null or at least 1 row", rows)


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
    choices: list[str] = field(default_factory=list[str])  # all possible responses, as class labels; empty: not known
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
        require(self.max_length >= 2, "data.max_length", "at least 2 tokens", self.max_length)
        require(self.batch_size >= 1, "data.batch_size", "at least 1 example", self.batch_size)
        choices = self.choices
        several = len(choices) > 1 and len(set(choices)) == len(choices) and all(text.strip() for text in choices)
        require(several or not choices, "data.choices", "two or more different texts, or none", choices)
        for key in ("validation_fraction", "test_fraction"):
            value = getattr(self, key)
            require(0 <= value < 1, f"data.{key}", "a fraction in [0, 1)", value)
        for key in ("max_dropped_fraction", "max_bad_fraction"):
            value = getattr(self, key)
            require(0 <= value <= 1, f"data.{key}", "a fraction in [0, 1]", value)
        rows = self.max_train_rows
        require(rows is None or rows >= 1, "data.max_train_rows", "null or at least 1 row", rows)
