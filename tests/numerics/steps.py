"""Runs the real training path on a small float64 model, and hands back what it trained."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from conftest import make_model, make_tokenizer
from peft import LoraConfig

from tunelab.config import Accelerator, OptimConfig, Precision, Schedule, TrainerConfig
from tunelab.data.datamodule import SftDataModule, StepPlan
from tunelab.data.records import TokenizedExample
from tunelab.model.adapter import CausalLM, attach_adapter, base_of
from tunelab.model.attention import VARLEN
from tunelab.training.module import CausalLMModule, StepSettings
from tunelab.training.objective import SftObjective
from tunelab.training.trainer import build_trainer

CPU = torch.device("cpu")
LORA = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}


def ragged_examples(num_examples: int, seed: int = 0) -> list[TokenizedExample]:
    """Examples of 5 to 40 tokens, the supervised part of each at its end, one token to all but the first."""
    generator = torch.Generator().manual_seed(seed)
    examples: list[TokenizedExample] = []
    for index in range(num_examples):
        length = int(torch.randint(5, 41, (), generator=generator))
        num_supervised = int(torch.randint(1, length, (), generator=generator))
        ids = torch.randint(5, 261, (length,), generator=generator)
        mask = torch.arange(length) >= length - num_supervised
        examples.append(TokenizedExample(ids, mask, f"row:{index}"))
    return examples


def lora_model(dtype: torch.dtype = torch.float64, **changes: Any) -> CausalLM:
    """The tests' base model with an adapter that already does something (B is not zero)."""
    model = attach_adapter(make_model(len(make_tokenizer())), LoraConfig(**{**LORA, **changes}), seed=1)
    generator = torch.Generator().manual_seed(2)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.05, generator=generator)
    return model.to(dtype)


def train(
    model: CausalLM,
    examples: Sequence[TokenizedExample],
    folder: Path,
    *,
    num_steps: int,
    batch_size: int = 8,
    micro_batch_tokens: int = 10_000,
    padded: bool = False,
    fused_head: bool = True,
    optimizer: str = "torch.optim.SGD",
    lr: float = 0.5,
    device: torch.device = CPU,
) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
    """Train through CausalLMModule, SftDataModule and the trainer; return the weights and each step's figures."""
    plan = StepPlan.create(len(examples), batch_size, seed=3, max_epochs=0, max_steps=num_steps)
    if not padded:
        base_of(model).set_attn_implementation(VARLEN)
    settings = StepSettings(
        OptimConfig(optimizer={"_target_": optimizer}, schedule=Schedule.linear, max_grad_norm=1.0),
        peak_lr=lr,
        total_steps=num_steps,
        seed=0,
        padded=padded,
        pad_token_id=0,
    )
    objective = SftObjective(head_chunk_tokens=16, fused_head=fused_head)
    module = CausalLMModule(model, objective, settings, micro_batch_tokens)
    figures: list[dict[str, Any]] = []

    class Figures(pl.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            figures.append(outputs)

    trainer = build_trainer(
        TrainerConfig(accelerator=Accelerator(device.type)),
        device,
        Precision.fp32 if device == CPU else Precision.bf16,
        val_every_steps=None,
        callbacks=[Figures()],
        loggers=[],
        folder=str(folder),
    )
    trainer.fit(module, SftDataModule(examples, [], plan))
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}, figures
