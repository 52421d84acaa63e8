"""From the data section of the configuration to tokenized splits and a report of what became of every row."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from tunelab.config import DataConfig, Format, OverLength, Template
from tunelab.data.fitting import Fitted, fit, prompt_ids
from tunelab.data.formats import Columns, decide_format, resolve_columns, to_example
from tunelab.data.records import EvaluationExample, Message, RenderedExample, Row, TokenizedExample
from tunelab.data.rendering import Renderer, decide_template, make_renderer
from tunelab.data.reporting import DataReport, SplitReport, report_table
from tunelab.data.sources import data_file, read_rows
from tunelab.data.splits import Splits, split_rows
from tunelab.data.tokenizing import EncodedExample, encode
from tunelab.data.upstream import adds_bos, bos_token_id
from tunelab.errors import DataError

__all__ = ["DataReport", "PreparedData", "SplitReport", "prepare_data", "report_table"]

_CHUNK_ROWS = 1024  # rows encoded at once: enough to fill all cores, little enough to bound memory


@dataclass(frozen=True, slots=True)
class PreparedData:
    """The three splits, ready for batching and evaluation, and their report.

    `end_of_turn` is the special token that ends every trained response: generation should stop at it.
    """

    train: list[TokenizedExample]
    validation: list[EvaluationExample]
    test: list[EvaluationExample]
    report: DataReport
    end_of_turn: str


def prepare_data(config: DataConfig, tokenizer: PreTrainedTokenizerBase) -> PreparedData:
    """Read, split, render and tokenize the data of a run.

    There is no seed: a row's split depends on its content alone, so that runs with different seeds are
    measured on the same rows. Raises DataError for data that cannot be used, and where no training example
    is left.
    """
    splits = _read_splits(config)
    stage = _make_stage(config, tokenizer, splits.train[0])
    train, validation, test = (_Split(rows, stage) for rows in (splits.train, splits.validation, splits.test))
    _require_examples(train, config.path)
    prepared = {"train": train, "validation": validation, "test": test}
    report = DataReport(
        format=stage.format.value,
        template=stage.template.value,
        end_of_turn=stage.renderer.end_of_turn,
        max_length=stage.max_length,
        over_length=stage.over_length.value,
        unused_columns=sorted(splits.train[0].fields.keys() - stage.columns.names()),
        file_sha256=_fingerprints(config),
        splits={name: split.report() for name, split in prepared.items()},
        num_overlapping=_overlaps(prepared),
    )
    return PreparedData(
        train=[item.example for item in train.kept],
        validation=validation.evaluation_examples(),
        test=test.evaluation_examples(),
        report=report,
        end_of_turn=stage.renderer.end_of_turn,
    )


def _read_splits(config: DataConfig) -> Splits:
    """Take given files; hold the others out of `data.path`. A fraction is read only where it counts."""
    validation_path, test_path = config.validation_path, config.test_path
    splits = split_rows(
        read_rows(config.path),
        validation_fraction=config.validation_fraction if validation_path is None else 0.0,
        test_fraction=config.test_fraction if test_path is None else 0.0,
    )
    if not splits.train:
        raise DataError(
            f"data.path: expected rows to train on in {config.path!r}, found none after holding out "
            "validation and test rows; lower data.validation_fraction and data.test_fraction."
        )
    return Splits(
        train=splits.train[: config.max_train_rows],
        validation=read_rows(validation_path, "data.validation_path") if validation_path else splits.validation,
        test=read_rows(test_path, "data.test_path") if test_path else splits.test,
    )


def _fingerprints(config: DataConfig) -> dict[str, str]:
    paths = {
        "data.path": config.path,
        "data.validation_path": config.validation_path,
        "data.test_path": config.test_path,
    }
    files = {path: data_file(path, key) for key, path in paths.items() if path is not None}
    return {path: hashlib.sha256(file.read_bytes()).hexdigest() for path, file in files.items()}


@dataclass(frozen=True, slots=True)
class _Stage:
    """Everything decided once for all splits."""

    tokenizer: PreTrainedTokenizerBase
    format: Format
    columns: Columns
    template: Template
    renderer: Renderer
    add_bos: bool
    max_length: int
    over_length: OverLength


def _make_stage(config: DataConfig, tokenizer: PreTrainedTokenizerBase, first: Row) -> _Stage:
    template = decide_template(config.template, tokenizer)
    format_ = decide_format(config.format, config.columns, first)
    return _Stage(
        tokenizer=tokenizer,
        format=format_,
        columns=resolve_columns(format_, config.columns),
        template=template,
        renderer=make_renderer(template, tokenizer),
        add_bos=template is not Template.chat and adds_bos(tokenizer),  # a chat template writes its own
        max_length=config.max_length,
        over_length=config.over_length,
    )


@dataclass(frozen=True, slots=True)
class _Item:
    """A kept example with what it was made from."""

    rendered: RenderedExample
    encoded: EncodedExample
    example: TokenizedExample


class _Split:
    """One split on its way through the stage: kept examples and running counts."""

    def __init__(self, rows: Sequence[Row], stage: _Stage) -> None:
        self.stage = stage
        self.num_rows = len(rows)
        self.kept: list[_Item] = []
        self.dropped: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self.conversations: Counter[tuple[Message, ...]] = Counter()
        for start in range(0, len(rows), _CHUNK_ROWS):
            for item in self._chunk(rows[start : start + _CHUNK_ROWS]):
                self._add(*item)

    def _chunk(self, rows: Sequence[Row]) -> Iterator[tuple[RenderedExample, EncodedExample, Fitted]]:
        stage = self.stage
        examples = [to_example(row, stage.format, stage.columns) for row in rows]
        self.conversations.update(example.messages for example in examples)
        rendered = [text for example in examples for text in stage.renderer.render(example)]
        bos = bos_token_id(stage.tokenizer)
        for text, encoded in zip(rendered, encode(rendered, stage.tokenizer, stage.add_bos), strict=True):
            yield text, encoded, fit(encoded, stage.max_length, stage.over_length, bos)

    def _add(self, rendered: RenderedExample, encoded: EncodedExample, fitted: Fitted) -> None:
        self.counts["num_examples"] += 1
        self.counts["num_truncated"] += fitted.truncated
        self.counts["num_supervised_tokens_lost"] += fitted.num_supervised_tokens_lost
        self.counts["num_seams_encoded_apart"] += encoded.num_seams_apart
        if fitted.dropped is not None:
            self.dropped[fitted.dropped.value] += 1
        if fitted.example is not None:
            self.kept.append(_Item(rendered, encoded, fitted.example))

    def evaluation_examples(self) -> list[EvaluationExample]:
        """What evaluation needs of the kept examples."""
        bos = bos_token_id(self.stage.tokenizer)
        return [
            EvaluationExample(
                prompt_ids=prompt_ids(item.encoded, self.stage.max_length, bos),
                prompt=item.rendered.prompt,
                response=item.rendered.response,
                tokenized=item.example,
                origin=item.rendered.origin,
            )
            for item in self.kept
        ]

    def report(self) -> SplitReport:
        """The figures of this split."""
        lengths = [item.example.num_tokens for item in self.kept]
        return SplitReport(
            num_rows=self.num_rows,
            num_examples=self.counts["num_examples"],
            num_kept=len(self.kept),
            num_dropped=dict(sorted(self.dropped.items())),
            num_truncated=self.counts["num_truncated"],
            num_tokens=sum(lengths),
            num_supervised_tokens=sum(item.example.num_supervised_tokens for item in self.kept),
            num_supervised_tokens_lost=self.counts["num_supervised_tokens_lost"],
            num_seams_encoded_apart=self.counts["num_seams_encoded_apart"],
            num_duplicates=self.num_rows - len(self.conversations),
            max_length_tokens=max(lengths, default=0),
            mean_length_tokens=sum(lengths) / max(len(lengths), 1),
        )


def _require_examples(train: _Split, path: str) -> None:
    if not train.kept:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(train.dropped.items()))
        raise DataError(
            f"data.path: expected training examples from {path!r}, found all "
            f"{train.counts['num_examples']} dropped ({reasons}); "
            "raise data.max_length or set data.over_length=truncate_prompt."
        )


def _overlaps(splits: dict[str, _Split]) -> dict[str, int]:
    """How many rows of one split hold a conversation that an earlier split holds too."""
    pairs = [("validation", "train"), ("test", "train"), ("test", "validation")]
    return {f"{later}_in_{earlier}": _num_shared(splits[later], splits[earlier]) for later, earlier in pairs}


def _num_shared(later: _Split, earlier: _Split) -> int:
    return sum(count for messages, count in later.conversations.items() if messages in earlier.conversations)
