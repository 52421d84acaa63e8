"""Measures several models one after another on one base model in memory: adapters are put on it and taken off."""

import gc
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from rich.console import Console
from transformers import PreTrainedModel

from tunelab.config import to_plain
from tunelab.data.few_shot import FewShot
from tunelab.data.records import EvaluationExample
from tunelab.evaluation.evaluating import SplitEvaluation
from tunelab.evaluation.harness.tasks import Tasks
from tunelab.evaluation.scores import spread
from tunelab.measuring import Measurement, prove_shortcuts
from tunelab.model.adapter import CausalLM
from tunelab.model.taking_off import footprint, take_off
from tunelab.model.virtual_tokens import num_virtual_tokens_of_folder
from tunelab.outcome import HARNESS, TEST, measure_all
from tunelab.preflight import Prepared
from tunelab.subject import Subject, leaves_the_base, load_base, load_tuned, needs_float32
from tunelab.training.trainer import resolve_precision


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A base model in memory, how it and what is put on it are measured, and what it was loaded for."""

    model: PreTrainedModel
    measure: Measurement
    key: tuple[Any, ...]


class Bench:
    """Measures base and tuned models of one tokenizer on one set of examples, each as if it were measured alone.

    The base stays in memory from one to the next. It is loaded again where another model wants it otherwise (quantised,
    in another precision, padded), and after an adapter that leaves it other than it was.
    """

    def __init__(self, prepared: Prepared, console: Console, split: str = TEST, tasks: Tasks | None = None) -> None:
        self._prepared, self._console, self._split, self._tasks = prepared, console, split, tasks
        self._loaded: _Loaded | None = None

    def measure_base(self, subject: Subject, examples: Sequence[EvaluationExample]) -> dict[str, SplitEvaluation]:
        """Measure the base of `subject` on the split, the extra sets and the tasks of the harness; by their names."""
        loaded = self._load(subject)
        return self._measured(loaded.measure, loaded.model, examples)

    def measure_few_shot(self, subject: Subject, shots: FewShot) -> dict[str, SplitEvaluation]:
        """Measure the base of `subject` on the split behind worked examples; the scores are laid out over all of it."""
        loaded = self._load(subject)
        found = loaded.measure(loaded.model, [example for example in shots.examples if example])
        kept = np.array([example is not None for example in shots.examples])
        return {self._split: replace(found, scores=[spread(each, kept) for each in found.scores])}

    def measure_tuned(self, subject: Subject, examples: Sequence[EvaluationExample]) -> dict[str, SplitEvaluation]:
        """The same of what was trained: an adapter on the base, or a whole model, for which the base makes room."""
        prepared = self._prepared_for(subject)
        if subject.whole is not None:
            self._loaded = None
            gc.collect()
            model = load_tuned(subject, prepared.device, prepared.precision)
            measure = prove_shortcuts(subject.run, prepared, model, self._console)
            return self._measured(measure, model, examples)
        loaded = self._load(subject)
        self._loaded = None  # until it is known that the adapter left it as it was
        before = footprint(loaded.model)
        model = load_tuned(subject, prepared.device, prepared.precision, loaded.model)
        found = self._measured(loaded.measure, model, examples)
        if leaves_the_base(subject) and take_off(model, before):
            self._loaded = loaded
        return found

    def _measured(
        self, measure: Measurement, model: CausalLM, examples: Sequence[EvaluationExample]
    ) -> dict[str, SplitEvaluation]:
        found = measure_all(measure, model, examples, self._split)
        return found | ({HARNESS: measure.on_tasks(model, self._tasks)} if self._tasks else {})

    def _load(self, subject: Subject) -> _Loaded:
        """The base as `subject` wants it; an earlier one is given up before another is loaded."""
        prepared = self._prepared_for(subject)
        is_adapter, fronted = bool(subject.adapters), prepared.num_virtual_tokens > 0
        in_float32 = needs_float32(subject, prepared.device)
        key = (to_plain(subject.run.model), prepared.precision, is_adapter, fronted, in_float32)
        if self._loaded is None or self._loaded.key != key:
            self._loaded = None
            gc.collect()
            model = load_base(subject, prepared.device)
            self._loaded = _Loaded(model, prove_shortcuts(subject.run, prepared, model, self._console), key)
        return self._loaded

    def _prepared_for(self, subject: Subject) -> Prepared:
        precision = resolve_precision(subject.run.trainer.precision, self._prepared.device)
        count = sum(num_virtual_tokens_of_folder(place) for place in subject.adapters)
        return replace(self._prepared, precision=precision, num_virtual_tokens=count)
