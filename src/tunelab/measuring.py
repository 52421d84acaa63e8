"""Measures a loaded model on a split with the run's own objective, layout and precision."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from rich.console import Console

from tunelab.config import EvaluationConfig, RunConfig
from tunelab.data.records import EvaluationExample
from tunelab.evaluation.copying import trained_texts
from tunelab.evaluation.evaluating import (
    Prediction,
    SplitEvaluation,
    SplitSettings,
    evaluate_split,
    observe,
    predict,
)
from tunelab.evaluation.harness.tasks import Tasks
from tunelab.evaluation.metrics.registry import TOKEN_METRICS
from tunelab.evaluation.observing import Observations
from tunelab.model.adapter import CausalLM, base_of
from tunelab.model.attention import VARLEN
from tunelab.model.generation import completion_ends
from tunelab.preflight import Prepared
from tunelab.training.doctor import Check, Diagnosis, choose_layout, diagnose, require_causal
from tunelab.training.objective import SftObjective
from tunelab.training.trainer import autocast


@dataclass(frozen=True, slots=True)
class Measurement:
    """How models of one run are measured."""

    prepared: Prepared
    diagnosis: Diagnosis
    objective: SftObjective
    padded: bool
    micro_batch_tokens: int
    config: EvaluationConfig
    ends: tuple[int, ...]  # ids at which completions end

    def __call__(
        self, model: CausalLM, examples: Sequence[EvaluationExample], observed: Observations | None = None
    ) -> SplitEvaluation:
        """Loss, completions and scores of `model` on `examples`; `observed` stands for running it on them."""
        with autocast(self.prepared.precision, self.prepared.device):
            return evaluate_split(model, self.prepared.tokenizer, examples, self._settings(model), observed)

    def observe(self, model: CausalLM, examples: Sequence[EvaluationExample]) -> Observations:
        """What `model` shows on `examples`, before it is scored."""
        with autocast(self.prepared.precision, self.prepared.device):
            return observe(model, self.prepared.tokenizer, examples, self._settings(model))

    def on_tasks(self, model: CausalLM, tasks: Tasks) -> SplitEvaluation:
        """What lm-evaluation-harness finds."""
        with autocast(self.prepared.precision, self.prepared.device):
            return tasks.measure(model, self.prepared.tokenizer, self._settings(model))

    def parts(
        self, split: str, examples: Sequence[EvaluationExample]
    ) -> "dict[str, tuple[Measurement, Sequence[EvaluationExample]]]":
        """What a model is measured on by name, and how: the split, where it has examples, and every extra set."""
        parts: dict[str, tuple[Measurement, Sequence[EvaluationExample]]] = {}
        if examples:
            parts[split] = self, examples
        return parts | {each.name: (replace(self, config=each.measures), each.examples) for each in self.prepared.sets}

    def answer_figures(self, model: CausalLM, examples: Sequence[EvaluationExample]) -> dict[str, float]:
        """The metrics of completions (one an example) and of choices, with neither counts nor those of the loss."""
        config = replace(self.config, num_samples=1, max_examples=None)
        found = replace(self, config=config)(model, examples)
        names = [each.name for each in found.scores if each.name not in TOKEN_METRICS]
        return {name: found.metrics[name] for name in names if name in found.metrics}

    def predict(self, model: CausalLM, examples: Sequence[EvaluationExample]) -> list[Prediction]:
        """Completions of `model` for `examples`, scored."""
        with autocast(self.prepared.precision, self.prepared.device):
            return predict(model, self.prepared.tokenizer, examples, config=self.config, end_token_ids=self.ends)

    def _settings(self, model: CausalLM) -> SplitSettings:
        prepared = self.prepared
        return SplitSettings(
            score_tokens=lambda batch: self.objective.score_tokens(model, batch),
            padded=self.padded,
            micro_batch_tokens=self.micro_batch_tokens,
            device=prepared.device,
            config=self.config,
            end_token_ids=self.ends,
            train_texts=partial(trained_texts, prepared.data.train, prepared.tokenizer),
        )


def prove_shortcuts(config: RunConfig, prepared: Prepared, model: CausalLM, console: Console) -> Measurement:
    """Check padding-free rows and the fused head on this model and data, take what holds, and say so.

    Raises:
        ModelError: the model is not causal, or `model.attention=varlen` was asked for and is not safe.
    """
    context = partial(autocast, prepared.precision, prepared.device)
    fronted = prepared.num_virtual_tokens > 0
    diagnosis = diagnose(model, prepared.data.train, prepared.longest, prepared.device, context, fronted)
    require_causal(diagnosis.causal)
    padded = choose_layout(config.model.attention, diagnosis.padding_free)
    if not padded:
        base_of(model).set_attn_implementation(VARLEN)
    layout = "right-padded" if padded else "padding-free"
    head = "of supervised positions, in chunks" if diagnosis.fused_head.holds else "of the model itself"
    console.print(
        f"micro-batches {layout}{_because(diagnosis.padding_free)}; head {head}{_because(diagnosis.fused_head)}"
    )
    return Measurement(
        prepared=prepared,
        diagnosis=diagnosis,
        objective=replace(prepared.objective, fused_head=diagnosis.fused_head.holds),
        padded=padded,
        micro_batch_tokens=config.trainer.micro_batch_tokens,
        config=config.evaluation,
        ends=completion_ends(config.model, prepared.tokenizer, prepared.data.end_of_turn),
    )


def _because(check: Check) -> str:
    return f" ({check.reason})" if check.reason else ""
