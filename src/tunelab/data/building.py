"""The two passes over the rows: a survey of all examples, then text, tokens and files of those that stay."""

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from tunelab.config import DataConfig
from tunelab.data.augmenting import Augment
from tunelab.data.fitting import Fitted, fit, last_turn_ids, prompt_ids
from tunelab.data.quality.survey import Survey, Verdict
from tunelab.data.reading import Feed, Item, Reader, Tally
from tunelab.data.records import Conversation, EncodedExample, Example, RenderedExample, TokenSequence
from tunelab.data.rendering import Renderer
from tunelab.data.storing import SplitWriter
from tunelab.data.tokenizing import Encoder, encode_stream, from_ids
from tunelab.data.upstream import added_token_settings, bos_token_id
from tunelab.errors import DataError

SPLITS = ("train", "validation", "test")
# Encoded at once: enough to fill all cores, little enough to bound memory.
_CHUNK_EXAMPLES, _CHUNK_CHARACTERS = 1024, 2_000_000


@dataclass(frozen=True, slots=True)
class Stage:
    """Everything decided once for all splits."""

    config: DataConfig
    tokenizer: PreTrainedTokenizerBase
    renderer: Renderer
    add_bos: bool
    feeds: list[Feed]
    augment: Augment | None


@dataclass(slots=True)
class SplitCounts:
    """Running counts of one split."""

    num_examples: int = 0
    num_kept: int = 0
    num_dropped: Counter[str] = field(default_factory=Counter[str])
    num_truncated: int = 0
    num_windows: int = 0
    num_supervised_tokens_lost: int = 0
    num_seams_encoded_apart: int = 0

    def add(self, encoded: EncodedExample, fitted: Fitted) -> None:
        """Count an example and what became of it."""
        self.num_examples += 1
        self.num_kept += len(fitted.examples)
        self.num_truncated += fitted.truncated
        self.num_windows += fitted.num_windows
        self.num_supervised_tokens_lost += fitted.num_supervised_tokens_lost
        self.num_seams_encoded_apart += encoded.num_seams_apart
        if fitted.dropped is not None:
            self.num_dropped[fitted.dropped.value] += 1


@dataclass(frozen=True, slots=True)
class _Work:
    """An example on its way to tokens: text that is to be encoded, or ids that are there already.

    `candidates`: the same with each possible answer as its response, by the answer's text.
    """

    split: str
    content: RenderedExample | EncodedExample
    candidates: Mapping[str, RenderedExample] = field(default_factory=dict[str, RenderedExample])


def survey_examples(stage: Stage) -> Verdict:
    """First pass, where there are checks: look at every example.

    Raises DataError for bad rows, and for findings that are errors.
    """
    tokens = added_token_settings(stage.tokenizer).values()
    special_tokens = [token.content for token in tokens if token.special]
    survey = Survey(stage.config.quality, special_tokens)
    if not stage.config.quality.enabled:
        return survey.conclude()
    tally = Tally(stage.config.on_bad_row, stage.config.max_bad_fraction)
    for item in Reader(stage.config, stage.feeds).read(tally):
        survey.add(item.split, item.example, item.fields)
    tally.check()
    return survey.conclude()


def write_examples(stage: Stage, verdict: Verdict, folder: Path) -> tuple[Tally, dict[str, SplitCounts]]:
    """Second pass: render, encode, fit and write what stays, a folder for each split below `folder`."""
    kept = KeptExamples(stage, verdict)
    counts = {split: SplitCounts() for split in SPLITS}
    max_length, over_length, bos_id = stage.config.max_length, stage.config.over_length, bos_token_id(stage.tokenizer)
    encoder = Encoder(stage.tokenizer, stage.add_bos)
    with ExitStack() as stack:
        writers = {split: stack.enter_context(SplitWriter(folder / split)) for split in SPLITS}
        for work, encoded in _encoded(_works(stage, kept), stage):
            fitted = fit(encoded, max_length, over_length, bos_id)
            counts[work.split].add(encoded, fitted)
            for example in fitted.examples:
                writers[work.split].add(example, _note(work, encoded, stage, encoder))
    for (split, reason), count in kept.num_dropped.items():
        counts[split].num_examples += count
        counts[split].num_dropped[reason] += count
    kept.tally.check()
    return kept.tally, counts


@dataclass(frozen=True, slots=True)
class Kept:
    """An example that stays: its source and split, and the examples it became (augmented, repeated by weight)."""

    source: int
    split: str
    examples: list[Example]


class KeptExamples:
    """Reads the rows again and yields what the verdict leaves in; counts the rest."""

    def __init__(self, stage: Stage, verdict: Verdict) -> None:
        self._stage = stage
        self._verdict = verdict
        self.tally = Tally(stage.config.on_bad_row, stage.config.max_bad_fraction)
        self.num_dropped = Counter[tuple[str, str]]()  # by split and reason

    def __iter__(self) -> Iterator[Kept]:
        indices = Counter[str]()
        for item in Reader(self._stage.config, self._stage.feeds).read(self.tally):
            reason = self._verdict.reason(item.split, indices[item.split], item.example)
            indices[item.split] += 1
            if reason is not None:
                self.num_dropped[item.split, reason] += 1
                continue
            try:
                examples = self._augmented(item) * item.copies
            except DataError as error:
                self.tally.bad(item.source, str(error))
                continue
            yield Kept(item.source, item.split, examples)

    def _augmented(self, item: Item) -> list[Example]:
        augment = self._stage.augment if item.split == "train" else None
        return augment(item.example) if augment else [item.example]


def _works(stage: Stage, kept: KeptExamples) -> Iterator[_Work]:
    for item in kept:
        wanted = [example for example in item.examples if not _is_undesirable(example)]
        if len(wanted) < len(item.examples):
            kept.num_dropped[item.split, "undesirable"] += len(item.examples) - len(wanted)
        try:
            works = [work for example in wanted for work in _works_of(example, item.split, stage)]
        except DataError as error:
            kept.tally.bad(item.source, str(error))
            continue
        yield from works


def _works_of(example: Example, split: str, stage: Stage) -> Iterator[_Work]:
    *earlier, last = _contents(example, stage)
    yield from (_Work(split, content) for content in earlier)
    yield _Work(split, last, _candidates(example, stage) if split != "train" else {})


def _candidates(example: Example, stage: Stage) -> dict[str, RenderedExample]:
    """The example with each of its choices as the last response; nothing where none are known."""
    if not isinstance(example, Conversation):
        return {}
    *before, last = example.messages
    choices = example.choices or tuple(stage.config.choices)
    if choices and last.trained is False:
        raise DataError(
            f"{example.origin}: expected the last response to be the trained one where there are choices, found it "
            "masked; give its message the weight 1, or leave data.choices out."
        )
    if choices and last.content not in choices:
        known = ", ".join(map(repr, choices))
        raise DataError(
            f"{example.origin}: expected a response that is one of data.choices ({known}), found "
            f"{last.content[:40]!r}; add it to data.choices, or mend the row."
        )
    return {
        text: stage.renderer.render(replace(example, messages=(*before, replace(last, content=text))))[-1]
        for text in choices
    }


def _is_undesirable(example: Example) -> bool:
    """A KTO row that shows what not to answer; supervised fine-tuning learns from the others."""
    return isinstance(example, Conversation) and example.desirable is False


def _contents(example: Example, stage: Stage) -> list[RenderedExample] | list[EncodedExample]:
    if isinstance(example, TokenSequence):
        return [from_ids(example, stage.tokenizer)]
    return stage.renderer.render(example)


def _encoded(works: Iterable[_Work], stage: Stage) -> Iterator[tuple[_Work, EncodedExample]]:
    """Encode in chunks; the chunk that follows is rendered while one is encoded, and order is kept."""
    under_way = deque[list[_Work]]()

    def texts() -> Iterator[list[RenderedExample]]:
        for chunk in _chunks(works):
            under_way.append(chunk)
            yield [work.content for work in chunk if isinstance(work.content, RenderedExample)]

    for encoded in encode_stream(texts(), stage.tokenizer, stage.add_bos):
        results = iter(encoded)
        for work in under_way.popleft():
            yield work, work.content if isinstance(work.content, EncodedExample) else next(results)


def _chunks(works: Iterable[_Work]) -> Iterator[list[_Work]]:
    chunk, size = list[_Work](), 0
    for work in works:
        chunk.append(work)
        if isinstance(work.content, RenderedExample):
            size += sum(len(segment.text) for segment in work.content.segments)
        if len(chunk) == _CHUNK_EXAMPLES or size >= _CHUNK_CHARACTERS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _note(work: _Work, encoded: EncodedExample, stage: Stage, encoder: Encoder) -> dict[str, Any]:
    """What is stored beside the tokens: for the splits that are measured on, also what generation starts from."""
    if work.split == "train":
        return {"origin": encoded.origin}
    text = work.content if isinstance(work.content, RenderedExample) else None
    candidates = work.candidates.items()
    answers = encoder.encode([rendered for _, rendered in candidates]) if candidates else []
    choices = [
        (choice, last_turn_ids(answer, ended=rendered.end_of_turn is not None))
        for (choice, rendered), answer in zip(candidates, answers, strict=True)
    ]
    return {
        "origin": encoded.origin,
        "prompt": text.prompt if text else "",
        "response": text.response if text else "",
        "prompt_ids": prompt_ids(encoded, stage.config.max_length, bos_token_id(stage.tokenizer)),
        **({"choices": choices} if choices else {}),
    }
