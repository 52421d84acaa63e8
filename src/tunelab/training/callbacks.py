"""What happens around the steps: figures to files and loggers, checkpoints, samples, and an orderly stop."""

import json
import math
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping

from tunelab.atomic import write_text
from tunelab.strict_json import finite
from tunelab.training.checkpoint import BEST, LAST, keep_previous
from tunelab.training.module import CausalLMModule

Listener = Callable[[int, dict[str, float]], None]


class MetricsWriter(pl.Callback):
    """Writes figures to metrics.jsonl, to every logger and to a listener: each `every`-th step, and each validation.

    On resume the lines after the checkpoint's step are dropped: they will be computed again.
    """

    def __init__(self, path: Path, every: int, total_steps: int, listener: Listener) -> None:
        self._path = path
        self._every = every
        self._total_steps = total_steps
        self._listener = listener
        self._speed = Speedometer()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Drop the lines that a resumed run will write again."""
        del pl_module
        if trainer.is_global_zero:
            drop_lines_after(self._path, trainer.global_step)
        self._speed.restart()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count every step; write at its turn."""
        del pl_module, batch, batch_idx
        self._speed.add(outputs, trainer.world_size)
        step = trainer.global_step
        if step % self._every == 0 or step == self._total_steps:
            figures = {key: float(value) for key, value in outputs.items() if key.startswith("train/")}
            self._write(trainer, {**figures, **self._speed.metrics(), **peak_memory()})
            self._speed.restart()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the validation figures; the time it took is no training time."""
        assert isinstance(pl_module, CausalLMModule)
        self._write(trainer, pl_module.validation_metrics)
        self._speed.restart()

    def _write(self, trainer: pl.Trainer, metrics: dict[str, float]) -> None:
        if not trainer.is_global_zero:
            return
        step = trainer.global_step
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(finite({"step": step, **metrics}), allow_nan=False) + "\n")
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=step)
        self._listener(step, metrics)


class Speedometer:
    """Tokens a second since the last restart: real tokens, supervised tokens, and the share of padding."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Begin a new stretch now."""
        self._start = time.perf_counter()
        self._computed = self._real = self._supervised = 0

    def add(self, outputs: Any, world_size: int) -> None:
        """Count one step. Positions are those of this device (the others are alike), supervised tokens global."""
        self._computed += outputs["num_tokens"] * world_size
        self._real += outputs["num_real_tokens"] * world_size
        self._supervised += outputs["num_supervised_tokens"]

    def metrics(self) -> dict[str, float]:
        """The figures of the stretch so far."""
        seconds = max(time.perf_counter() - self._start, 1e-9)
        return {
            "perf/tokens_per_second": self._real / seconds,
            "perf/supervised_tokens_per_second": self._supervised / seconds,
            "perf/padding_fraction": 1 - self._real / max(1, self._computed),
        }


def peak_memory() -> dict[str, float]:
    """Peak memory of the process in GiB: resident on the CPU, allocated by torch on CUDA."""
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    figures = {"perf/peak_memory_gib": resident / 2**30}
    if torch.cuda.is_available():
        figures["perf/peak_cuda_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return figures


def drop_lines_after(path: Path, step: int) -> None:
    """Keep the lines of metrics.jsonl up to `step`; a line cut short by a kill is dropped too."""
    if not path.exists():
        return
    kept: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if record["step"] <= step:
            kept.append(line + "\n")
    write_text(path, "".join(kept))


class RunCheckpoint(pl.Callback):
    """Saves last.ckpt every `every` steps and after each validation, and best.ckpt at the lowest validation loss."""

    def __init__(self, folder: Path, every: int | None, validates_at: Callable[[int], bool]) -> None:
        self._folder = folder
        self._every = every
        self._validates_at = validates_at
        self.best_loss = math.inf
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
        loss = pl_module.validation_metrics["val/loss"]
        if loss < self.best_loss:
            self.best_loss, self.best_step = loss, trainer.global_step
            trainer.save_checkpoint(self._folder / BEST)
        self.save_last(trainer)

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
        return {"best_loss": self.best_loss, "best_step": self.best_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from the best so far."""
        self.best_loss, self.best_step = state_dict["best_loss"], state_dict["best_step"]


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
    """Lightning's early stopping on the validation loss, looked at after validations only."""

    def __init__(self, patience: int) -> None:
        super().__init__(monitor="val/loss", patience=patience, mode="min", check_on_train_epoch_end=False)


class Samples(pl.Callback):
    """Shows completions of a few validation prompts at each validation."""

    def __init__(self, show: Callable[[pl.Trainer, int], None]) -> None:
        self._show = show

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Generate and show, on one device."""
        del pl_module
        if trainer.is_global_zero:
            self._show(trainer, trainer.global_step)


class OrderlyStop(pl.Callback):
    """On SIGTERM or Ctrl-C: finish the step, save, stop. A second Ctrl-C stops at once."""

    def __init__(self, checkpoint: RunCheckpoint, validates_at: Callable[[int], bool]) -> None:
        self._checkpoint = checkpoint
        self._validates_at = validates_at
        self._before: dict[int, Any] = {}
        self.received: int | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listen to the signals (in place of Lightning, whose handler would stop between two saves)."""
        del trainer, pl_module
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._on_signal)

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
            raise KeyboardInterrupt
        self.received = number


class Interrupted(Exception):  # noqa: N818 (no error: the run can go on)
    """Training was stopped by a signal, after saving. Commands exit with 128 + the signal's number."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.exit_code = 128 + number
