"""Training: how long and on what, by which optimizer, towards which objective."""

import math
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from tunelab.config.section import MISSING, Section, require


class Precision(Enum):
    """Arithmetic of the forward pass: float32, or mixed with bfloat16 / float16. Trained weights stay float32.

    `auto`: bf16 where CUDA computes it, fp32 elsewhere.
    """

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


class Accelerator(Enum):
    """Where to run. `auto`: CUDA where there is a device, else the CPU."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


@dataclass(kw_only=True)
class TrainerConfig(Section):
    """How long to train, on what, and what to do on the way."""

    max_epochs: int = 3
    max_steps: int | None = None  # optimizer steps; overrides max_epochs
    micro_batch_tokens: int = 8192  # memory knob: positions of one forward pass; never changes the result
    accelerator: Accelerator = Accelerator.auto
    devices: int = 1
    precision: Precision = Precision.auto
    gradient_checkpointing: bool = False
    val_every_steps: int | None = None  # None: five times a run, and at its end
    early_stopping_patience: int | None = None  # validations without improvement; None: never stop early
    checkpoint_every_steps: int | None = None  # None: at each validation
    log_every_steps: int = 10
    num_sample_completions: int = 2  # generated and shown at each validation
    score_every_validations: int | None = None  # at each n-th, and the last, completions and choices are scored too …
    num_scored_examples: int = 64  # … of so many validation examples, evenly spaced
    monitor: str = "val/loss"  # the figure of validations that tells which weights are best, and when to stop early

    def __post_init__(self) -> None:
        at_least_one = ("max_epochs", "micro_batch_tokens", "devices", "log_every_steps", "num_scored_examples")
        optional = ("max_steps", "val_every_steps", "early_stopping_patience", "checkpoint_every_steps")
        optional += ("score_every_validations",)
        for key in at_least_one:
            value = getattr(self, key)
            require(value >= 1, f"trainer.{key}", "at least 1", value)
        for key in optional:
            value = getattr(self, key)
            require(value is None or value >= 1, f"trainer.{key}", "null or at least 1", value)
        samples = self.num_sample_completions
        require(samples >= 0, "trainer.num_sample_completions", "0 or more", samples)
        monitor = self.monitor
        is_named = monitor.startswith("val/") and monitor != "val/"
        require(is_named, "trainer.monitor", "val/<metric>", monitor)


class Schedule(Enum):
    """Shape of the learning rate after warm-up; the formulas are in training/schedules.py."""

    constant = "constant"
    linear = "linear"
    cosine = "cosine"
    cosine_with_restarts = "cosine_with_restarts"
    wsd = "wsd"  # warm-up, stable, decay
    inverse_sqrt = "inverse_sqrt"


class DecayShape(Enum):
    """How the last stretch of the wsd schedule falls; `sqrt` is 1 - sqrt(progress)."""

    linear = "linear"
    cosine = "cosine"
    sqrt = "sqrt"


@dataclass(kw_only=True)
class OptimConfig(Section):
    """The optimizer (`_target_` and its own arguments) and the schedule of its learning rate."""

    optimizer: dict[str, Any] = MISSING
    rest: dict[str, Any] = field(default_factory=dict)  # optimizer of all but hidden matrices; {}: `optimizer` has all
    lr: float | None = None  # peak learning rate; None: from the hidden size of the base model, see training/optim.py
    lr_factor: float = 1.0  # where lr is null: times the suggested rate, which is meant for AdamW
    lora_plus_ratio: float | None = None  # LoRA+: rate of the B matrices over that of the others; None: the same
    schedule: Schedule = Schedule.cosine
    warmup_fraction: float = 0.03  # of all steps, linear from 0
    min_lr_fraction: float = 0.0  # where linear, cosine, its restarts and wsd end, as a fraction of lr
    num_cycles: int = 3  # cosine_with_restarts: times the rate falls from the peak
    decay_fraction: float = 0.2  # wsd: of all steps, the last ones
    decay_shape: DecayShape = DecayShape.sqrt  # wsd
    max_grad_norm: float | None = 1.0  # None: no clipping (the norm is logged all the same)

    def __post_init__(self) -> None:
        rate, factor, ratio = self.lr, self.lr_factor, self.lora_plus_ratio
        require(rate is None or 0 <= rate < math.inf, "optim.lr", "null or a finite rate of 0 or more", rate)
        require(0 < factor < math.inf, "optim.lr_factor", "a finite factor above 0", factor)
        expected = "null or a finite ratio above 0"
        require(ratio is None or 0 < ratio < math.inf, "optim.lora_plus_ratio", expected, ratio)
        for key in ("warmup_fraction", "min_lr_fraction", "decay_fraction"):
            value = getattr(self, key)
            require(0 <= value <= 1, f"optim.{key}", "a fraction in [0, 1]", value)
        require(self.num_cycles >= 1, "optim.num_cycles", "at least 1", self.num_cycles)
        norm = self.max_grad_norm
        require(norm is None or norm > 0, "optim.max_grad_norm", "null or above 0", norm)
        self._check_schedule()

    def _check_schedule(self) -> None:
        warmup, decay = self.warmup_fraction, self.decay_fraction
        if self.schedule is Schedule.wsd:
            expected = f"at most 1 - optim.warmup_fraction ({warmup}) with schedule=wsd"
            require(warmup + decay <= 1 + 1e-9, "optim.decay_fraction", expected, decay)
        if self.schedule is Schedule.inverse_sqrt:
            expected = "above 0 with schedule=inverse_sqrt, whose rate is that of sqrt(warm-up steps / step)"
            require(warmup > 0, "optim.warmup_fraction", expected, warmup)


class Objective(Enum):
    """`sft`: supervised fine-tuning, cross-entropy on the response tokens."""

    sft = "sft"


@dataclass(kw_only=True)
class ObjectiveConfig(Section):
    """What is minimised."""

    name: Objective = Objective.sft
    head_chunk_tokens: int = 512  # supervised tokens projected on the vocabulary at a time (memory knob)

    def __post_init__(self) -> None:
        chunk = self.head_chunk_tokens
        require(chunk >= 1, "objective.head_chunk_tokens", "at least 1 token", chunk)
