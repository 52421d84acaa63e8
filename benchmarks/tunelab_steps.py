"""Runs optimizer steps of tunelab by its real path (module, data module, trainer, callbacks) and times each."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from workload import DrawnExample

from tunelab.config import Attention, ObjectiveConfig, OptimConfig, Precision, Schedule, TrainerConfig
from tunelab.data.datamodule import SftDataModule, StepPlan
from tunelab.data.records import TokenizedExample
from tunelab.model.adapter import CausalLM, base_of
from tunelab.model.attention import VARLEN
from tunelab.training.doctor import choose_layout, diagnose
from tunelab.training.figures import MetricsWriter
from tunelab.training.module import CausalLMModule, StepSettings
from tunelab.training.objective import SftObjective
from tunelab.training.trainer import autocast, build_trainer, resolve_precision


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Of each optimizer step: when it ended (wall clock, CPU time of the process), its loss and gradient norm.

    `padding_fraction` is over all steps; `micro_batch_tokens` the budget at the end (out-of-memory halves it).
    """

    ends: list[float]
    cpu_ends: list[float]
    losses: list[float]
    grad_norms: list[float]
    padding_fraction: float
    micro_batch_tokens: int


class Stopwatch(pl.Callback):
    """Notes the end of every step; `on_end` is called then with the step's index."""

    def __init__(self, device: torch.device, on_end: Callable[[int], None]) -> None:
        self._device = device
        self._on_end = on_end
        self.ends: list[float] = []
        self.cpu_ends: list[float] = []
        self.outputs: list[dict[str, Any]] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Read the clock when the device is done."""
        del trainer, pl_module, batch
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self.ends.append(time.perf_counter())
        self.cpu_ends.append(time.process_time())
        self.outputs.append(outputs)
        self._on_end(batch_idx)


def optim_config() -> OptimConfig:
    """AdamW, no weight decay, linear to 0 without warm-up, clipped at norm 1: what TRL does by default."""
    adamw = {"_target_": "torch.optim.AdamW", "weight_decay": 0.0}
    return OptimConfig(optimizer=adamw, schedule=Schedule.linear, warmup_fraction=0.0, max_grad_norm=1.0)


def tokenized(examples: Sequence[DrawnExample]) -> list[TokenizedExample]:
    """As the data module wants them."""
    return [
        TokenizedExample(torch.tensor(e.ids), torch.arange(len(e.ids)) >= e.num_prompt_tokens, f"drawn:{number}")
        for number, e in enumerate(examples)
    ]


def time_steps(
    model: CausalLM,
    examples: Sequence[TokenizedExample],
    plan: StepPlan,
    config: TrainerConfig,
    *,
    lr: float,
    folder: Path,
    on_end: Callable[[int], None] = lambda _: None,
) -> StepTimes:
    """Train `plan.total_steps` steps in the layout that `finetune.py` would choose for this model."""
    device = next(model.parameters()).device
    precision = resolve_precision(config.precision, device)
    longest = max(example.num_tokens for example in examples)
    diagnosis = diagnose(model, examples, longest, device, partial(autocast, precision, device))
    padded = choose_layout(Attention.auto, diagnosis.padding_free)
    if not padded:
        base_of(model).set_attn_implementation(VARLEN)
    objective = SftObjective(ObjectiveConfig().head_chunk_tokens, diagnosis.fused_head.holds)
    settings = StepSettings(
        optim_config(),
        peak_lr=lr,
        total_steps=plan.total_steps,
        seed=plan.seed,
        padded=padded,
        pad_token_id=0,
        scaled_gradients=precision is Precision.fp16,
    )
    module = CausalLMModule(model, objective, settings, config.micro_batch_tokens)
    stopwatch = Stopwatch(device, on_end)
    folder.mkdir(parents=True, exist_ok=True)
    writer = MetricsWriter(
        folder / "metrics.jsonl", config.log_every_steps, plan.total_steps, lambda _step, _metrics: None
    )
    trainer = build_trainer(
        config,
        device,
        precision,
        val_every_steps=None,
        callbacks=[writer, stopwatch],
        loggers=[],
        folder=str(folder),
    )
    trainer.fit(module, SftDataModule(examples, [], plan))
    outputs = stopwatch.outputs
    computed, real = (sum(o[key] for o in outputs) for key in ("num_tokens", "num_real_tokens"))
    return StepTimes(
        ends=stopwatch.ends,
        cpu_ends=stopwatch.cpu_ends,
        losses=[float(o["train/loss"]) for o in outputs],
        grad_norms=[float(o["train/grad_norm"]) for o in outputs],
        padding_fraction=1 - real / computed,
        micro_batch_tokens=module.micro_batch_tokens,
    )
