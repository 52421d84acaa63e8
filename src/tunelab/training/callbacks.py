"""When training saves and when it stops: checkpoints, early stopping, and an orderly end on a signal."""

import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import EarlyStopping

from tunelab.errors import Interrupted
from tunelab.process import listen
from tunelab.training.checkpoint import BEST, LAST, keep_previous
from tunelab.training.module import CausalLMModule
from tunelab.training.monitoring import VAL_LOSS, Monitor


class RunCheckpoint(pl.Callback):
    """Saves last.ckpt every `every` steps and after each validation, and best.ckpt where `monitor` is at its best."""

    def __init__(
        self, folder: Path, every: int | None, validates_at: Callable[[int], bool], monitor: Monitor = VAL_LOSS
    ) -> None:
        self._folder = folder
        self._every = every
        self._validates_at = validates_at
        self._monitor = monitor
        self._best: dict[str, float] | None = None
        self.best_step: int | None = None
        self._saved_step: int | None = None

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save at the step's turn; where a validation follows, after it, so that resuming cannot skip it."""
        del pl_module, outputs, batch, batch_idx
        step = trainer.global_step
        if self._every is not None and step % self._every == 0 and not self._validates_at(step):
            self.save_last(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the best so far, and the last."""
        assert isinstance(pl_module, CausalLMModule)
        figures = pl_module.validation_metrics
        if self._monitor.prefers(figures, self._best):
            self._best = {name: figures[name] for name in {self._monitor.name, "val/loss"}}
            self.best_step = trainer.global_step
            trainer.save_checkpoint(self._folder / BEST)
        self.save_last(trainer)

    @property
    def best_value(self) -> float | None:
        """The monitored figure of the best weights so far."""
        return self._best[self._monitor.name] if self._best else None

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the last step where nothing else has."""
        del pl_module
        if self._saved_step != trainer.global_step:
            self.save_last(trainer)

    def save_last(self, trainer: pl.Trainer) -> None:
        """Replace last.ckpt, keeping the one before as previous.ckpt."""
        self._saved_step = trainer.global_step
        if trainer.is_global_zero:
            keep_previous(self._folder)
        trainer.save_checkpoint(self._folder / LAST)

    def state_dict(self) -> dict[str, Any]:
        """The best so far."""
        return {"best": self._best, "best_step": self.best_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from the best so far."""
        self._best, self.best_step = state_dict["best"], state_dict["best_step"]


class ValidateAtEnd(pl.Callback):
    """Lets the last step be validated too: Lightning validates when it is about to stop."""

    def __init__(self, total_steps: int) -> None:
        self._total_steps = total_steps

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Ask to stop where training ends anyway."""
        del pl_module, outputs, batch, batch_idx
        if trainer.global_step >= self._total_steps:
            trainer.should_stop = True


class QuietEarlyStopping(EarlyStopping):
    """Lightning's early stopping; `patience` counts the validations that have the monitored figure."""

    def __init__(self, patience: int, monitor: Monitor = VAL_LOSS) -> None:
        super().__init__(monitor.name, patience=patience, mode=monitor.mode, check_on_train_epoch_end=False)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at the figure where this validation has it; Lightning keeps those of earlier ones."""
        assert isinstance(pl_module, CausalLMModule)
        if self.monitor in pl_module.validation_metrics:
            super().on_validation_end(trainer, pl_module)


class OrderlyStop(pl.Callback):
    """On SIGTERM, SIGHUP or Ctrl-C: finish the step, save, stop. A second Ctrl-C stops at once."""

    def __init__(self, checkpoint: RunCheckpoint, validates_at: Callable[[int], bool]) -> None:
        self._checkpoint = checkpoint
        self._validates_at = validates_at
        self._before: dict[int, Any] = {}
        self.received: int | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listen to the signals (in place of Lightning, whose handler would stop between two saves)."""
        del trainer, pl_module
        self._before = listen(self._on_signal)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save and leave where a signal has come, on whichever device."""
        del pl_module, outputs, batch, batch_idx
        if not self._validates_at(trainer.global_step) and self._stop_wanted(trainer):
            self._checkpoint.save_last(trainer)
            raise Interrupted(self.received or signal.SIGTERM)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave after a validation; the checkpoint callback has just saved."""
        del pl_module
        if self._stop_wanted(trainer):
            raise Interrupted(self.received or signal.SIGTERM)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Give the signals back."""
        del trainer, pl_module, stage
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _stop_wanted(self, trainer: pl.Trainer) -> bool:
        return bool(trainer.strategy.reduce_boolean_decision(self.received is not None, all=False))

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.received == signal.SIGINT and number == signal.SIGINT:
            raise Interrupted(number)
        self.received = number
