"""From the data section of the configuration to tokenized splits and a report of what became of every row."""

import gc
import shutil
import time
import weakref
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from tunelab.config import DataConfig, all_reads, mark_reads, to_plain
from tunelab.data.augmenting import augmentation_fingerprint, load_augmentation
from tunelab.data.building import SPLITS, SplitCounts, Stage, survey_examples, write_examples
from tunelab.data.caching import cache_key, cached, uncached
from tunelab.data.reading import Feed, Tally, open_feeds, open_sources
from tunelab.data.rendering import ChosenTemplate, decide_template, make_renderer
from tunelab.data.reporting import DataReport, SourceReport, SplitReport, histogram, report_table
from tunelab.data.sources import Source
from tunelab.data.storing import StoredEvaluation, StoredExamples
from tunelab.data.upstream import adds_bos, tokenizer_state
from tunelab.errors import DataError

__all__ = ["DataReport", "PreparedData", "SplitReport", "prepare_data", "report_table"]

Sources = list[tuple[Source, str | None]]  # with the split they belong to; None: divided by content
Digests = list[dict[str, str]]  # of each source: SHA-256 by file


@dataclass(frozen=True, slots=True)
class PreparedData:
    """The three splits, ready for batching and evaluation, and their report.

    `end_of_turn` is the special token that ends every trained response: generation should stop at it.
    """

    train: StoredExamples
    validation: StoredEvaluation
    test: StoredEvaluation
    report: DataReport
    end_of_turn: str

    @property
    def longest(self) -> int:
        """Tokens of the longest example of any split."""
        return max(split.max_length_tokens for split in self.report.splits.values())


def prepare_data(
    config: DataConfig, tokenizer: PreTrainedTokenizerBase, cache: Path = Path("outputs/cache")
) -> PreparedData:
    """Read, survey, split, render and tokenize the data of a run, or find it prepared below `cache`.

    There is no seed: a row's split depends on its content alone, so that runs with different seeds are measured on the
    same rows. `data.template=<file>` becomes the tokenizer's chat template. Raises DataError for data that cannot be
    used, and where no training example is left.
    """
    chosen = decide_template(config.template, tokenizer)
    sources = open_sources(config)
    digests = [source.fingerprints() for source, _ in sources]
    build = partial(_build, config, tokenizer, chosen, sources, digests)
    if config.cache:
        folder, facts = cached(cache, _key(config, tokenizer, chosen, sources, digests), build)
        mark_reads(config, facts["reads"])  # what was read when it was built counts as used
    else:
        folder, facts = uncached(build)
    train, validation, test = (StoredExamples(folder / split) for split in SPLITS)
    if not config.cache:
        weakref.finalize(train, shutil.rmtree, folder, ignore_errors=True)
    return PreparedData(
        train=train,
        validation=StoredEvaluation(validation),
        test=StoredEvaluation(test),
        report=DataReport.from_dict(facts["report"]),
        end_of_turn=facts["report"]["end_of_turn"],
    )


def data_fingerprints(config: DataConfig) -> dict[str, dict[str, str]]:
    """The SHA-256 of each file of the data as they are now, by source. Raises DataError where one is missing."""
    return {source.name: source.fingerprints() for source, _ in open_sources(config)}


def open_stage(config: DataConfig, tokenizer: PreTrainedTokenizerBase) -> Stage:
    """Decide sources, layouts and template. Raises DataError or ConfigError where one does not fit."""
    return _stage(config, tokenizer, decide_template(config.template, tokenizer), open_sources(config))


def _stage(config: DataConfig, tokenizer: PreTrainedTokenizerBase, chosen: ChosenTemplate, sources: Sources) -> Stage:
    return Stage(
        config=config,
        tokenizer=tokenizer,
        renderer=make_renderer(chosen, tokenizer),
        add_bos=not chosen.writes_bos and adds_bos(tokenizer),
        feeds=open_feeds(sources),
        augment=load_augmentation(config.augment),
    )


def _key(
    config: DataConfig, tokenizer: PreTrainedTokenizerBase, chosen: ChosenTemplate, sources: Sources, digests: Digests
) -> str:
    plain = to_plain(config)
    layouts = [(s.format, to_plain(s.columns), to_plain(s.tags), s.weight, s.max_rows) for s, _ in sources]
    return cache_key(
        config={key: value for key, value in plain.items() if key not in ("batch_size", "cache")},
        layouts=layouts,  # an entry of dataset_info.json says them, not the configuration
        data=digests,
        template=chosen.text,
        tokenizer=tokenizer_state(tokenizer),
        augmentation=augmentation_fingerprint(plain["augment"]),
    )


def _build(
    config: DataConfig,
    tokenizer: PreTrainedTokenizerBase,
    chosen: ChosenTemplate,
    sources: Sources,
    digests: Digests,
    folder: Path,
) -> dict[str, Any]:
    """Fill `folder` with the three splits; return their report and the configuration keys that were read for it."""
    start = time.perf_counter()
    stage = _stage(config, tokenizer, chosen, sources)
    with _without_collector():
        verdict = survey_examples(stage)
        tally, counts = write_examples(stage, verdict, folder)
    _check_unchanged(sources, digests)
    _check_kept(config, counts["train"])
    report = DataReport(
        sources=[_source_report(feed, tally, number, digests[number]) for number, feed in enumerate(stage.feeds)],
        template=chosen.name,
        template_policy=[*chosen.policy, *_remarks(stage, tally)],
        end_of_turn=stage.renderer.end_of_turn,
        train_on=to_plain(config)["train_on"],
        max_length=config.max_length,
        over_length=config.over_length.value,
        bad_rows=tally.reasons,
        num_bad=tally.num_bad.total(),
        splits={split: _split_report(folder / split, counts[split], tally.num_split_rows[split]) for split in SPLITS},
        quality=asdict(verdict.report()),
        preparation_seconds=round(time.perf_counter() - start, 3),
    )
    return {"report": report.to_dict(), "reads": all_reads(config)}


@contextmanager
def _without_collector() -> Generator[None]:
    """Pause the search for cycles, of which preparing makes none: it would look through millions of objects in vain."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _check_kept(config: DataConfig, train: SplitCounts) -> None:
    """Raise DataError where nothing is left to train on, or less than asked for."""
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(train.num_dropped.items()))
    if not train.num_kept:
        raise DataError(
            f"data.path: expected training examples, found none (of {train.num_examples:,}: {reasons or 'no rows'}); "
            "raise data.max_length, set data.over_length=truncate_prompt, or lower data.validation_fraction and "
            "data.test_fraction."
        )
    unfit = sum(train.num_dropped[reason] for reason in ("over_length", "no_supervised_tokens"))
    if unfit > config.max_dropped_fraction * train.num_examples:
        raise DataError(
            f"data.max_dropped_fraction: expected at most {config.max_dropped_fraction:.1%} of the training examples "
            f"left out, found {unfit / train.num_examples:.1%} ({reasons}); raise data.max_length, set "
            "data.over_length=truncate_prompt, or raise data.max_dropped_fraction."
        )


def _check_unchanged(sources: Sources, digests: Digests) -> None:
    """Raise DataError where a file is no longer what the cache key says: it was written to while it was read."""
    for (source, _), before in zip(sources, digests, strict=True):
        if source.fingerprints() != before:
            raise DataError(f"{source.key}: {source.name!r} changed while it was read; run again when it is complete.")


def _remarks(stage: Stage, tally: Tally) -> Iterator[str]:
    """What a person may not expect: splits that stayed empty, answers that are not learned."""
    num_rows = sum(tally.num_split_rows.values())
    for split in ("validation", "test"):
        fraction = to_plain(stage.config)[f"{split}_fraction"]
        if not tally.num_split_rows[split] and fraction:
            yield (
                f"No row is held out for {split}: of {num_rows:,} rows data.{split}_fraction={fraction:g} took none; "
                f"raise it or set data.{split}_path=<file>."
            )
    if any(feed.layout.format == "preference" for feed in stage.feeds):
        yield "Of preference pairs the chosen answer is trained; the rejected one is not used."
    if any(feed.layout.format == "kto" for feed in stage.feeds):
        yield "Of rows labelled by KTO the desirable answers are trained; the others are left out."


def _source_report(feed: Feed, tally: Tally, number: int, sha256: dict[str, str]) -> SourceReport:
    source, layout = feed.source, feed.layout
    return SourceReport(
        name=source.name,
        format=layout.format,
        remark="; ".join(filter(None, [source.note.rstrip("."), layout.remark])),
        weight=source.weight,
        num_rows=tally.num_rows[number],
        num_bad=tally.num_bad[number],
        unused_columns=sorted(tally.columns.get(number, set()) - layout.names()),
        sha256=sha256,
    )


def _split_report(folder: Path, counts: SplitCounts, num_rows: int) -> SplitReport:
    stored = StoredExamples(folder)
    lengths, supervised = stored.num_tokens, stored.num_supervised_tokens
    middle = lengths.size // 2
    return SplitReport(
        num_rows=num_rows,
        num_examples=counts.num_examples,
        num_kept=counts.num_kept,
        num_dropped=dict(sorted(counts.num_dropped.items())),
        num_truncated=counts.num_truncated,
        num_windows=counts.num_windows,
        num_tokens=int(lengths.sum()),
        num_supervised_tokens=int(supervised.sum()),
        num_supervised_tokens_lost=counts.num_supervised_tokens_lost,
        num_seams_encoded_apart=counts.num_seams_encoded_apart,
        max_length_tokens=int(lengths.max(initial=0)),
        mean_length_tokens=float(lengths.mean()) if lengths.size else 0.0,
        median_length_tokens=float(np.partition(lengths, middle)[middle]) if lengths.size else 0.0,
        length_histogram=histogram(lengths),
        supervised_histogram=histogram(supervised),
    )
