"""Sets that are measured besides the test split: read and tokenised like it, each measured in its own way."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from tunelab.config import SET_KEYS, EvaluationConfig, in_keys_of_set, mark_read
from tunelab.data.preparing import PreparedData, prepare_data
from tunelab.data.storing import StoredEvaluation
from tunelab.errors import TunelabError
from tunelab.evaluation.metrics import check_metrics


@dataclass(frozen=True, slots=True)
class ExtraSet:
    """A set by its name in `evaluation.sets`. Its test split holds all of its examples."""

    name: str
    data: PreparedData
    measures: EvaluationConfig

    @property
    def examples(self) -> StoredEvaluation:
        """What is measured on."""
        return self.data.test

    def __str__(self) -> str:
        report = self.data.report.splits["test"]
        changed = {"left out": report.num_examples - report.num_kept, "shortened": report.num_truncated}
        notes = [f", {count:,} {what}" for what, count in changed.items() if count]
        limit = self.measures.max_examples
        measured = f", {limit:,} of them measured" if limit is not None and limit < report.num_kept else ""
        return f"extra set {self.name}: {report.num_kept:,} examples{''.join(notes)}{measured}"


def prepare_extra_sets(
    config: EvaluationConfig, tokenizer: PreTrainedTokenizerBase, cache: Path, check: Callable[[int], None]
) -> tuple[ExtraSet, ...]:
    """Read and tokenize the sets of `config`, in their order; `check` raises where an example is too long.

    Raises:
        TunelabError: one cannot be read, or not be measured as asked.
    """
    return tuple(_prepare(config, name, tokenizer, cache, check) for name in config.sets)


def _prepare(
    config: EvaluationConfig,
    name: str,
    tokenizer: PreTrainedTokenizerBase,
    cache: Path,
    check: Callable[[int], None],
) -> ExtraSet:
    section, measures = config.sets[name], config.of_set(name)
    try:
        check_metrics(measures)
        data = prepare_data(section.data, tokenizer, cache)
        check(data.longest)
    except TunelabError as error:
        raise type(error)(in_keys_of_set(name, str(error))) from error
    mark_read(section.evaluation, *SET_KEYS["evaluation"] & set(measures.used_keys()))
    return ExtraSet(name, data, measures)


def sources_of(sets: tuple[ExtraSet, ...]) -> Mapping[str, Any]:
    """The fingerprint of each file that they were read from, by set and name."""
    return {f"{each.name}/{source.name}": source.sha256 for each in sets for source in each.data.report.sources}
