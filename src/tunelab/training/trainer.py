"""Builds the Lightning trainer of a run: one flat epoch of optimizer steps, on the devices asked for."""

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger
from pytorch_lightning.plugins import MixedPrecision
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy, Strategy

from tunelab.config import Accelerator, Precision, TrainerConfig
from tunelab.errors import ConfigError
from tunelab.training.checkpoint import SafetensorsCheckpointIO


class _ModelStays:
    """Leaves the model on its device after training: it is measured next, and 4-bit weights do not survive a move."""

    _lightning_module: pl.LightningModule | None

    def teardown(self) -> None:
        """Tear everything else down."""
        module, self._lightning_module = self._lightning_module, None
        super().teardown()  # pyright: ignore[reportAttributeAccessIssue] (a strategy's)
        self._lightning_module = module


class OneDeviceStrategy(_ModelStays, SingleDeviceStrategy):
    """One process on one device."""


class SummedGradientsStrategy(_ModelStays, DDPStrategy):
    """One process a device; the module itself adds the gradients up, once a step.

    Devices may have different numbers of micro-batches in a step, which DistributedDataParallel's reducer cannot
    follow, and adapters are small: one message of a few megabytes.
    """

    def configure_ddp(self) -> None:
        """Leave the module unwrapped."""


def resolve_device(config: TrainerConfig) -> torch.device:
    """Where this process computes.

    Raises:
        ConfigError: CUDA was asked for and there is none, or fewer devices than asked for.
    """
    available = torch.cuda.device_count()
    if config.accelerator is Accelerator.cpu or (config.accelerator is Accelerator.auto and not available):
        return torch.device("cpu")
    if available < config.devices:
        raise ConfigError(
            f"trainer.devices: expected {config.devices} CUDA device(s), found {available}; "
            "set trainer.accelerator=cpu or lower trainer.devices."
        )
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def resolve_precision(precision: Precision, device: torch.device) -> Precision:
    """`auto`: bfloat16 mixed precision where CUDA computes it, float32 elsewhere."""
    if precision is not Precision.auto:
        return precision
    return Precision.bf16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else Precision.fp32


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """The context in which a forward pass of this precision runs, outside the trainer too."""
    if precision is Precision.fp32:
        return nullcontext()
    dtype = torch.bfloat16 if precision is Precision.bf16 else torch.float16
    return torch.autocast(device.type, dtype=dtype, cache_enabled=False)


def build_trainer(
    config: TrainerConfig,
    device: torch.device,
    precision: Precision,
    *,
    val_every_steps: int | None,
    callbacks: Sequence[pl.Callback],
    loggers: Sequence[Logger],
    folder: str,
) -> pl.Trainer:
    """Build the trainer; `val_every_steps` (no more than there are steps) None trains without validation."""
    plugins: list[Any] = [SafetensorsCheckpointIO()]
    if precision is not Precision.fp32:
        name = "bf16-mixed" if precision is Precision.bf16 else "16-mixed"
        scaler = torch.amp.GradScaler(device.type) if precision is Precision.fp16 else None
        plugins.append(MixedPrecision(name, device.type, scaler))
    return pl.Trainer(
        accelerator="cpu" if device.type == "cpu" else "cuda",
        devices=config.devices if config.devices > 1 else [device.index] if device.type == "cuda" else 1,
        strategy=_strategy(config, device),
        max_epochs=1,
        val_check_interval=val_every_steps,
        limit_val_batches=1.0 if val_every_steps else 0,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        logger=list(loggers),
        callbacks=list(callbacks),
        plugins=plugins,
    )


def _strategy(config: TrainerConfig, device: torch.device) -> Strategy:
    if config.devices == 1:
        return OneDeviceStrategy(device)
    return SummedGradientsStrategy(process_group_backend="gloo" if device.type == "cpu" else "nccl")
