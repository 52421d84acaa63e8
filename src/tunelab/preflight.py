"""Everything that can be wrong, checked before the weights are loaded: model, adapter, optimizer, device, data."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig
from transformers import PreTrainedTokenizerBase

from tunelab.config import EvaluationConfig, ModelConfig, Objective, Precision, Quantization, RunConfig, mark_read
from tunelab.data.datamodule import StepPlan
from tunelab.data.preparing import PreparedData, prepare_data
from tunelab.errors import ConfigError
from tunelab.evaluation.metrics import check_metrics
from tunelab.extra_sets import ExtraSet, prepare_extra_sets
from tunelab.model.adapter import build_peft_config, hands_on_float32, trains_b_matrices
from tunelab.model.budget import plan_budget, plans_budget
from tunelab.model.continuing import check_continued
from tunelab.model.initializing import check_initialization, check_started_layers, needs_examples
from tunelab.model.loading import check_base_model, torch_dtype
from tunelab.model.matching import on_meta
from tunelab.model.merging import stored_dtype
from tunelab.model.new_tokens import check_new_tokens
from tunelab.model.quantizing import FOUR_BITS, check_quantization
from tunelab.model.tokenizer import load_tokenizer
from tunelab.model.tuning import Tuning, read_tuning, refuse_contradictions
from tunelab.model.virtual_tokens import (
    check_positions,
    check_prompt_training,
    num_virtual_tokens,
    with_own_tokenizer,
)
from tunelab.training.monitoring import VAL_LOSS, Monitor, Scoring, plan_scoring
from tunelab.training.objective import SftObjective
from tunelab.training.optim import Trained, check_optimizer, hidden_matrices, suggested_learning_rate
from tunelab.training.trainer import resolve_device, resolve_precision

OBJECTIVES = {Objective.sft: SftObjective}


@dataclass(frozen=True, slots=True)
class Prepared:
    """What measuring or training a model needs besides the weights."""

    tokenizer: PreTrainedTokenizerBase
    data: PreparedData
    device: torch.device
    precision: Precision
    objective: SftObjective
    hidden_size: int | None  # None: the configuration, code of the checkpoint, has none
    quantization: str | None  # of the base model, by the configuration or in its checkpoint
    num_virtual_tokens: int  # of a prompt method, in front of every example
    base_dtype: torch.dtype  # in which the base model is loaded, where it is not quantised
    sets: tuple[ExtraSet, ...] = ()  # measured besides the test split

    @property
    def is_measured(self) -> bool:
        """Whether there is a test split, or an extra set."""
        return bool(self.data.test or self.sets)

    @property
    def longest(self) -> int:
        """Tokens of the longest example of all that are trained or measured on."""
        return max(data.longest for data in (self.data, *(each.data for each in self.sets)))


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """What training needs besides that: the adapter to make, the steps, and when to validate."""

    peft_config: PeftConfig | None
    tuning: Tuning
    steps: StepPlan
    peak_lr: float
    val_every_steps: int | None
    scoring: Scoring | None = None  # of completions and choices, during training
    monitor: Monitor = VAL_LOSS

    def validates_at(self, step: int) -> bool:
        """True where a validation follows optimizer step `step` (counted from 1)."""
        every = self.val_every_steps
        return every is not None and (step % every == 0 or step >= self.steps.total_steps)

    def scores_at(self, step: int) -> bool:
        """True where the validation after step `step` scores answers too."""
        if self.scoring is None or self.val_every_steps is None or not self.validates_at(step):
            return False
        return step >= self.steps.total_steps or step // self.val_every_steps % self.scoring.every == 0


def build_adapter_config(config: RunConfig) -> PeftConfig | None:
    """The adapter to train; None for full fine-tuning.

    Raises:
        ConfigError: the class or an argument is unknown, the weights to be trained are quantised, virtual tokens do
            not go together with another choice, or the start with a layer.
    """
    adapter, tuning = build_peft_config(with_own_tokenizer(config.peft, config.model)), read_tuning(config.peft)
    if num_virtual_tokens(adapter):
        check_prompt_training(adapter, config.model.attention, config.trainer.gradient_checkpointing)
    if adapter is None and config.model.quantization is not Quantization.none:
        raise _not_trainable(config.model.quantization.value)
    mark_read(config.peft, "from_adapter", *(["num_layers"] if adapter is None else []))
    if tuning.folder is not None:  # whose adapter has its tokens and its start
        return adapter
    if config.model.new_tokens:
        check_new_tokens(adapter, tuning.num_layers)
    check_initialization(adapter, tuning.num_calibration_examples, config.model.quantization.value)
    check_started_layers(adapter, config.model)
    if needs_examples(adapter):
        mark_read(config.peft, "num_calibration_examples")
    return adapter


def _not_trainable(quantization: str) -> ConfigError:
    return ConfigError(
        f"model.quantization: expected none for full fine-tuning (peft=none), found {quantization!r}; quantised "
        "weights cannot be trained: use peft=qlora, or peft=lora where the checkpoint itself is quantised."
    )


def continued_adapter(config: RunConfig, adapter: PeftConfig | None, overrides: Sequence[str]) -> list[str]:
    """What is to be said of an adapter that is trained on; nothing where a new one is made.

    Raises:
        ConfigError: the chosen method, or a typed key, contradicts the adapter's own configuration.
        ModelError: the adapter was made for another base model, or for other tokens.
    """
    folder = read_tuning(config.peft).folder
    if folder is None or adapter is None:
        return []
    refuse_contradictions(config.peft, adapter, overrides)
    said = check_continued(folder, adapter, config.model)
    return [f"continuing the adapter of {folder}, with its own configuration in place of peft's", *said]


def prepare(config: RunConfig, num_virtual_tokens: int = 0) -> Prepared:
    """Find the base model, load its tokenizer, and read and tokenize the data.

    `num_virtual_tokens`: how many the adapter to be trained or measured puts in front of every example.

    Raises:
        TunelabError: something is missing, unknown, or does not fit; nothing has been loaded or written.
    """
    check_metrics(config.evaluation)
    device = resolve_device(config.trainer)
    precision = resolve_precision(config.trainer.precision, device)
    objective = OBJECTIVES[config.objective.name](head_chunk_tokens=config.objective.head_chunk_tokens)
    tokenizer = load_tokenizer(config.model)
    architecture = check_base_model(config.model, len(tokenizer))
    quantization = check_quantization(architecture, config.model)
    cache = Path(config.output_dir) / "cache"
    data = prepare_data(config.data, tokenizer, cache)
    check = partial(check_positions, architecture.get_text_config(), num_virtual=num_virtual_tokens)
    check(data.longest)
    return Prepared(
        tokenizer=tokenizer,
        data=data,
        device=device,
        precision=precision,
        objective=objective,
        hidden_size=_hidden_size(architecture.get_text_config()),
        quantization=quantization,
        num_virtual_tokens=num_virtual_tokens,
        base_dtype=_base_dtype(config.model, architecture, device),
        sets=prepare_extra_sets(config.evaluation, tokenizer, cache, check),
    )


def _hidden_size(text_config: Any) -> int | None:
    """By its usual name, or those that code of a checkpoint may use."""
    found = (getattr(text_config, name, None) for name in ("hidden_size", "d_model", "n_embd"))
    return next((size for size in found if isinstance(size, int)), None)


def _base_dtype(model: ModelConfig, architecture: Any, device: torch.device) -> torch.dtype:
    """The type of the weights once they are loaded; float32 where the checkpoint names none."""
    dtype = torch_dtype(model.dtype, device)
    return dtype if isinstance(dtype, torch.dtype) else stored_dtype(model.dtype, architecture)


def plan_training(config: RunConfig, prepared: Prepared, peft_config: PeftConfig | None) -> TrainingPlan:
    """Lay out the steps and the learning rate, and make sure that the optimizer can be built.

    Raises:
        ConfigError: the optimizer is unknown or refuses its arguments or has nothing to train, quantised
            weights are to be trained, or float32 would meet half types without autocast.
    """
    if peft_config is None and prepared.quantization is not None:
        raise _not_trainable(prepared.quantization)
    _refuse_few_shot(config.evaluation.num_few_shot)
    _check_types(peft_config, prepared)
    max_steps = config.trainer.max_steps
    max_epochs = config.trainer.max_epochs if max_steps is None else 0
    num_examples = len(prepared.data.train)
    steps = StepPlan.create(num_examples, config.data.batch_size, config.seed, max_epochs, max_steps)
    plan_budget(peft_config, steps.total_steps)
    tuning = read_tuning(config.peft)
    peak_lr = _peak_lr(config, prepared, tuning, adapter=peft_config is not None)
    trained = Trained(trains_b_matrices(peft_config), peft_config is None, plans_budget(peft_config))
    check_optimizer(config.optim, peak_lr, steps.total_steps, trained, prepared.device)
    if config.optim.rest and peft_config is not None:
        _require_hidden_matrices(peft_config, config)
    val_every_steps = _val_every_steps(config, steps, bool(prepared.data.validation))
    scoring, monitor = None, VAL_LOSS
    if val_every_steps is not None:
        scoring, monitor = plan_scoring(config.trainer, config.evaluation, prepared.data.validation)
    return TrainingPlan(peft_config, tuning, steps, peak_lr, val_every_steps, scoring, monitor)


def _refuse_few_shot(count: int) -> None:
    if count:
        raise ConfigError(
            f"evaluation.num_few_shot: expected 0 for training, found {count}; leave it out here, and after the run: "
            f"python evaluate.py run=<run folder> evaluation.num_few_shot={count}."
        )


def _peak_lr(config: RunConfig, prepared: Prepared, tuning: Tuning, adapter: bool) -> float:
    """The rate as given, else the one suggested for the base and the method."""
    if config.optim.lr is not None:
        return config.optim.lr
    if prepared.hidden_size is None:
        raise ConfigError(
            f"optim.lr: expected a rate, since {config.model.path!r} names no hidden_size to suggest one by, found "
            "null; set optim.lr=<rate>."
        )
    mark_read(config.peft, "lr_factor")
    return suggested_learning_rate(prepared.hidden_size, adapter) * tuning.lr_factor * config.optim.lr_factor


def _check_types(adapter: PeftConfig | None, prepared: Prepared) -> None:
    """Without autocast, modules of half types cannot compute with the float32 of an adapter."""
    half = prepared.quantization is None and prepared.base_dtype is not torch.float32
    if half and prepared.precision is Precision.fp32 and hands_on_float32(adapter):
        name = str(prepared.base_dtype).removeprefix("torch.")
        raise ConfigError(
            "model.dtype: expected float32, as is what this adapter hands to the base, for "
            f"trainer.precision=fp32, found {name}; set model.dtype=float32 or trainer.precision=bf16."
        )


def _require_hidden_matrices(adapter: PeftConfig, config: RunConfig) -> None:
    """Where the adapter cannot be made without weights, the same is asked when the optimizer is built."""
    model = on_meta(adapter, config.model)
    if model is not None:
        hidden_matrices(model)


def mark_read_later(config: RunConfig, plan: TrainingPlan, prepared: Prepared) -> None:
    """Count as read what is read only after the unread-key audit, which comes before the weights."""
    mark_read(config.model, "dtype", "attention", "quantization")
    if config.model.quantization in FOUR_BITS:
        mark_read(config.model, "double_quantization")
    mark_read(config, "logger")
    mark_read(config.logger, *config.logger)
    trainer = ["devices", "micro_batch_tokens", "gradient_checkpointing", "log_every_steps", "checkpoint_every_steps"]
    if plan.val_every_steps is not None:
        trainer += ["early_stopping_patience", "num_sample_completions"]
    mark_read(config.trainer, *trainer)
    mark_evaluation(config.evaluation, bool(prepared.data.test or prepared.data.validation or prepared.sets))


def mark_evaluation(config: EvaluationConfig, measures: bool) -> None:
    """Count as read what measuring will read, where there is something to measure."""
    if measures:
        mark_read(config, *config.used_keys())


def _val_every_steps(config: RunConfig, plan: StepPlan, has_validation: bool) -> int | None:
    """Given, or five validations a run; None where there is nothing to validate on."""
    if not has_validation:
        return None
    return min(config.trainer.val_every_steps or max(1, plan.total_steps // 5), plan.total_steps)
