"""Everything that can be wrong, checked before the weights are loaded: model, adapter, optimizer, device, data."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from peft import PeftConfig
from transformers import PreTrainedTokenizerBase

from tunelab.config import Attention, EvaluationConfig, Objective, Precision, Quantization, RunConfig, mark_read
from tunelab.data.collating import collate
from tunelab.data.datamodule import StepPlan
from tunelab.data.preparing import PreparedData, prepare_data
from tunelab.embedded import locate
from tunelab.errors import ConfigError, first_line
from tunelab.evaluation.metrics import check_metrics
from tunelab.hashing import file_sha256
from tunelab.model.adapter import Start, build_peft_config, trains_b_matrices
from tunelab.model.budget import plan_budget
from tunelab.model.initializing import check_initialization
from tunelab.model.loading import check_base_model
from tunelab.model.locating import resolve_model
from tunelab.model.new_tokens import check_new_tokens
from tunelab.model.quantizing import FOUR_BITS, check_quantization
from tunelab.model.tokenizer import load_tokenizer
from tunelab.model.tuning import Tuning, read_tuning, refuse_contradictions
from tunelab.model.virtual_tokens import keeps_tokens_in_cache, num_virtual_tokens, with_own_tokenizer
from tunelab.training.objective import SftObjective
from tunelab.training.optim import build_optimizer, suggested_learning_rate
from tunelab.training.schedules import learning_rate
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
    hidden_size: int
    quantization: str | None  # of the base model, by the configuration or in its checkpoint
    num_virtual_tokens: int  # of a prompt method, in front of every example


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """What training needs besides that: the adapter to make, the steps, and when to validate."""

    peft_config: PeftConfig | None
    tuning: Tuning
    steps: StepPlan
    peak_lr: float
    val_every_steps: int | None

    def validates_at(self, step: int) -> bool:
        """True where a validation follows optimizer step `step` (counted from 1)."""
        every = self.val_every_steps
        return every is not None and (step % every == 0 or step >= self.steps.total_steps)


def build_adapter_config(config: RunConfig) -> PeftConfig | None:
    """The adapter to train; None for full fine-tuning.

    Raises:
        ConfigError: the class or an argument is unknown, the weights to be trained are quantised, or virtual tokens do
            not go together with another choice.
    """
    adapter = build_peft_config(with_own_tokenizer(config.peft, config.model))
    if num_virtual_tokens(adapter):
        _check_prompt_training(config, adapter)
    if config.model.new_tokens:
        _check_new_tokens(config, adapter)
    if adapter is None and config.model.quantization is not Quantization.none:
        raise _not_trainable(config.model.quantization.value)
    tuning = read_tuning(config.peft)
    if tuning.folder is None:
        check_initialization(adapter, tuning.num_calibration_examples, config.model.quantization.value)
    return adapter


def _not_trainable(quantization: str) -> ConfigError:
    return ConfigError(
        f"model.quantization: expected none for full fine-tuning (peft=none), found {quantization!r}; quantised "
        "weights cannot be trained: use peft=qlora, or peft=lora where the checkpoint itself is quantised."
    )


def _check_new_tokens(config: RunConfig, adapter: PeftConfig | None) -> None:
    tuning = read_tuning(config.peft)
    for key, given in (("peft.num_layers", tuning.num_layers), ("peft.from_adapter", tuning.folder)):
        if given is not None:
            raise ConfigError(
                f"model.new_tokens: expected none beside {key}, with which their embeddings would not be trained, "
                f"found {config.model.new_tokens}; set model.new_tokens=[], or use peft=lora or peft=none."
            )
    check_new_tokens(adapter)


def _check_prompt_training(config: RunConfig, adapter: PeftConfig | None) -> None:
    if config.model.attention is Attention.varlen:
        raise ConfigError(
            "model.attention: padding-free training was asked for, but virtual tokens stand in front of each example, "
            "one a row; set model.attention=auto or padded."
        )
    if config.trainer.gradient_checkpointing and keeps_tokens_in_cache(adapter):
        raise ConfigError(
            "trainer.gradient_checkpointing: expected false for virtual tokens that are keys and values, which "
            "recomputed layers do not see, found true; set it to false, or use peft=prompt_tuning or p_tuning."
        )


def continued_adapter(config: RunConfig, adapter: PeftConfig | None, overrides: Sequence[str]) -> list[str]:
    """What is to be said of an adapter that is trained on; nothing where a new one is made.

    Raises:
        ConfigError: a typed key contradicts the adapter's own configuration.
    """
    folder = read_tuning(config.peft).folder
    if folder is None or adapter is None:
        return []
    refuse_contradictions(config.peft, adapter, overrides)
    lines = [f"continuing the adapter of {folder}, with its own configuration in place of peft's"]
    base = str(adapter.base_model_name_or_path)
    if base not in (config.model.path, locate(config.model.path)):
        lines.append(f"it names another base model: {base}, not {config.model.path}")
    return lines


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
    data = prepare_data(config.data, tokenizer, Path(config.output_dir) / "cache")
    hidden_size = int(architecture.get_text_config().hidden_size)
    _check_positions(architecture.get_text_config(), data, num_virtual_tokens)
    return Prepared(tokenizer, data, device, precision, objective, hidden_size, quantization, num_virtual_tokens)


def plan_training(config: RunConfig, prepared: Prepared, peft_config: PeftConfig | None) -> TrainingPlan:
    """Lay out the steps and the learning rate, and make sure that the optimizer can be built.

    Raises:
        ConfigError: the optimizer is unknown or refuses its arguments, or quantised weights are to be trained.
    """
    if peft_config is None and prepared.quantization is not None:
        raise _not_trainable(prepared.quantization)
    max_steps = config.trainer.max_steps
    max_epochs = config.trainer.max_epochs if max_steps is None else 0
    num_examples = len(prepared.data.train)
    steps = StepPlan.create(num_examples, config.data.batch_size, config.seed, max_epochs, max_steps)
    plan_budget(peft_config, steps.total_steps)
    tuning = read_tuning(config.peft)
    peak_lr = config.optim.lr
    if peak_lr is None:
        suggested = suggested_learning_rate(prepared.hidden_size, adapter=peft_config is not None)
        peak_lr = suggested * tuning.lr_factor * config.optim.lr_factor
    check_optimizer(config, peak_lr, steps, peft_config, prepared.device)
    val_every_steps = _val_every_steps(config, steps, bool(prepared.data.validation))
    return TrainingPlan(peft_config, tuning, steps, peak_lr, val_every_steps)


def adapter_start(plan: TrainingPlan, prepared: Prepared, seed: int) -> Start:
    """What the adapter starts from: for a data-driven initialisation, training examples drawn by `seed`."""
    examples = prepared.data.train
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(seed))
    count = 0 if plan.tuning.folder else plan.tuning.num_calibration_examples
    chosen = [examples[int(i)] for i in order[:count]]
    rows = [collate([example], padded=True, pad_token_id=0).to(prepared.device) for example in chosen]
    names = ("input_ids", "attention_mask", "labels")
    return Start(plan.tuning, [{name: getattr(row, name) for name in names} for row in rows])


def mark_read_later(config: RunConfig, plan: TrainingPlan, prepared: Prepared) -> None:
    """Count as read what is read only after the unread-key audit, which comes before the weights."""
    mark_read(config.model, "dtype", "attention", "quantization")
    if config.model.quantization in FOUR_BITS:
        mark_read(config.model, "double_quantization")
    trainer = ["devices", "micro_batch_tokens", "gradient_checkpointing", "log_every_steps", "checkpoint_every_steps"]
    if plan.val_every_steps is not None:
        trainer += ["early_stopping_patience", "num_sample_completions"]
    mark_read(config.trainer, *trainer)
    mark_evaluation(config.evaluation, bool(prepared.data.test or prepared.data.validation))


def mark_evaluation(config: EvaluationConfig, measures: bool) -> None:
    """Count as read what measuring will read, where there is something to measure."""
    if measures:
        mark_read(config, *config.used_keys())


def fingerprints(config: RunConfig, prepared: Prepared) -> dict[str, Any]:
    """What identifies data and base model in provenance.json."""
    data_sha256 = {source.name: source.sha256 for source in prepared.data.report.sources}
    source = Path(resolve_model(config.model.path, config.model.revision))
    code = {"trust_remote_code": True} if config.model.trust_remote_code else {}  # the checkpoint's own code was run
    if not source.is_dir():
        cached = try_to_load_from_cache(config.model.path, "config.json", revision=config.model.revision)
        commit = Path(cached).parent.name if isinstance(cached, str) else None
        return {
            "data_sha256": data_sha256,
            "base_model": {"path": config.model.path, "revision": config.model.revision, "commit": commit, **code},
        }
    files = [
        *sorted(source.glob("*.safetensors")),
        source / "config.json",
        *(sorted(source.glob("*.py")) if code else ()),
    ]
    return {
        "data_sha256": data_sha256,
        "base_model": {
            "path": config.model.path,
            "revision": config.model.revision,
            "sha256": {file.name: file_sha256(file) for file in files},
            **code,
        },
    }


def _check_positions(architecture: Any, data: PreparedData, num_virtual: int) -> None:
    num_positions: int | None = getattr(architecture, "max_position_embeddings", None)
    window: int | None = getattr(architecture, "sliding_window", None)
    if num_virtual >= (reach := min(filter(None, (num_positions, window)), default=num_virtual + 1)):
        raise ConfigError(
            f"peft.num_virtual_tokens: expected fewer than the {reach} positions that a token of the base model sees, "
            f"found {num_virtual}; set peft.num_virtual_tokens=20."
        )
    if num_virtual and num_positions is not None and num_virtual + data.longest > num_positions:
        raise ConfigError(
            f"data.max_length: expected at most {num_positions - num_virtual} tokens ({num_positions} positions of the "
            f"base model, {num_virtual} of them for peft.num_virtual_tokens), found an example of {data.longest}; set "
            f"data.max_length={num_positions - num_virtual}."
        )
    if num_positions is not None and data.longest > num_positions:
        raise ConfigError(
            f"data.max_length: expected at most the {num_positions} positions of the base model, found an example of "
            f"{data.longest} tokens; set data.max_length={num_positions}."
        )


def check_optimizer(
    config: RunConfig, lr: float, plan: StepPlan, peft_config: PeftConfig | None, device: torch.device
) -> None:
    """Take one step with a stand-in for the weights, so that a wrong argument shows now; and compute a rate."""
    model = _stand_in(peft_config, has_vectors=bool(config.optim.rest) or peft_config is None).to(device)
    optimizer = build_optimizer(config.optim, model, lr, False)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    try:
        optimizer.step()
    except Exception as error:  # whatever the optimizer raises for a value that the user set
        raise ConfigError(
            f"optim.optimizer: {type(optimizer).__name__} cannot take a step with these arguments "
            f"({first_line(error)}); change optim.optimizer."
        ) from error
    learning_rate(config.optim, lr, plan.total_steps - 1, plan.total_steps)
    mark_read(config.optim, "max_grad_norm")


def _stand_in(peft_config: PeftConfig | None, has_vectors: bool) -> torch.nn.Module:
    """Matrices named as the adapter's will be, just large enough for states of 8 bits, and vectors beside them."""
    names = ("lora_A", "lora_B") if trains_b_matrices(peft_config) else ("weights",)
    return torch.nn.ModuleDict({name: torch.nn.Linear(64, 64, bias=has_vectors) for name in names})


def _val_every_steps(config: RunConfig, plan: StepPlan, has_validation: bool) -> int | None:
    """Given, or five validations a run; None where there is nothing to validate on."""
    if not has_validation:
        return None
    return min(config.trainer.val_every_steps or max(1, plan.total_steps // 5), plan.total_steps)
