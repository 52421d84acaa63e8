"""Everything that can be wrong, checked before the weights are loaded: model, adapter, optimizer, device, data."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from peft import PeftConfig
from transformers import PreTrainedTokenizerBase

from tunelab.config import Objective, Precision, Quantization, RunConfig, mark_read
from tunelab.data.datamodule import StepPlan
from tunelab.data.preparing import PreparedData, prepare_data
from tunelab.errors import ConfigError
from tunelab.hashing import file_sha256
from tunelab.model.adapter import build_peft_config
from tunelab.model.loading import check_base_model
from tunelab.model.locating import resolve_model
from tunelab.model.tokenizer import load_tokenizer
from tunelab.training.objective import SftObjective
from tunelab.training.optim import build_optimizer, learning_rate, suggested_learning_rate
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

    @property
    def longest(self) -> int:
        """Tokens of the longest example of any split."""
        measured = (example.tokenized.num_tokens for example in (*self.data.validation, *self.data.test))
        return max(max(example.num_tokens for example in self.data.train), max(measured, default=0))


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """What training needs besides that: the adapter to make, the steps, and when to validate."""

    peft_config: PeftConfig | None
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
        ConfigError: the class or an argument is unknown, or the weights to be trained are quantised.
    """
    adapter = build_peft_config(config.peft)
    if adapter is None and config.model.quantization is not Quantization.none:
        raise ConfigError(
            f"model.quantization: expected none for full fine-tuning (peft=none), found "
            f"{config.model.quantization.value!r}; quantised weights cannot be trained: use peft=qlora."
        )
    return adapter


def prepare(config: RunConfig) -> Prepared:
    """Find the base model, load its tokenizer, and read and tokenize the data.

    Raises:
        TunelabError: something is missing, unknown, or does not fit; nothing has been loaded or written.
    """
    device = resolve_device(config.trainer)
    precision = resolve_precision(config.trainer.precision, device)
    objective = OBJECTIVES[config.objective.name](head_chunk_tokens=config.objective.head_chunk_tokens)
    tokenizer = load_tokenizer(config.model)
    architecture = check_base_model(config.model, len(tokenizer))
    data = prepare_data(config.data, tokenizer)
    hidden_size = int(architecture.get_text_config().hidden_size)
    return Prepared(tokenizer, data, device, precision, objective, hidden_size)


def plan_training(config: RunConfig, prepared: Prepared, peft_config: PeftConfig | None) -> TrainingPlan:
    """Lay out the steps and the learning rate, and make sure that the optimizer can be built.

    Raises:
        ConfigError: the optimizer is unknown or refuses its arguments.
    """
    max_steps = config.trainer.max_steps
    max_epochs = config.trainer.max_epochs if max_steps is None else 0
    num_examples = len(prepared.data.train)
    steps = StepPlan.create(num_examples, config.data.batch_size, config.seed, max_epochs, max_steps)
    suggested = suggested_learning_rate(prepared.hidden_size, adapter=peft_config is not None)
    peak_lr = suggested if config.optim.lr is None else config.optim.lr
    _check_optimizer(config, peak_lr, steps)
    return TrainingPlan(peft_config, steps, peak_lr, _val_every_steps(config, steps, bool(prepared.data.validation)))


def fingerprints(config: RunConfig, prepared: Prepared) -> dict[str, Any]:
    """What identifies data and base model in provenance.json."""
    source = Path(resolve_model(config.model.path, config.model.revision))
    if not source.is_dir():
        cached = try_to_load_from_cache(config.model.path, "config.json", revision=config.model.revision)
        commit = Path(cached).parent.name if isinstance(cached, str) else None
        return {
            "data_sha256": prepared.data.report.file_sha256,
            "base_model": {"path": config.model.path, "revision": config.model.revision, "commit": commit},
        }
    files = [*sorted(source.glob("*.safetensors")), source / "config.json"]
    return {
        "data_sha256": prepared.data.report.file_sha256,
        "base_model": {
            "path": config.model.path,
            "revision": config.model.revision,
            "sha256": {file.name: file_sha256(file) for file in files},
        },
    }


def _check_optimizer(config: RunConfig, lr: float, plan: StepPlan) -> None:
    """Build the optimizer over a stand-in, so that a wrong argument shows now; and compute a rate."""
    build_optimizer(config.optim.optimizer, [torch.nn.Parameter(torch.zeros(2, 2))], lr, False)
    learning_rate(config.optim, lr, plan.total_steps - 1, plan.total_steps)
    mark_read(config.optim, "max_grad_norm")


def _val_every_steps(config: RunConfig, plan: StepPlan, has_validation: bool) -> int | None:
    """Given, or five validations a run; None where there is nothing to validate on."""
    if not has_validation:
        return None
    return min(config.trainer.val_every_steps or max(1, plan.total_steps // 5), plan.total_steps)
