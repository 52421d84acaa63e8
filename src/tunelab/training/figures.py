"""What is seen of training while it goes: figures to files, loggers and the terminal, and sample completions."""

import contextlib
import json
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from tunelab.atomic import append_line, write_text
from tunelab.evaluation.evaluating import Prediction
from tunelab.strict_json import finite
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
        append_line(self._path, json.dumps(finite({"step": step, **metrics}), allow_nan=False))
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
    """Keep the lines of metrics.jsonl up to `step`; a line that is no record (cut short by a kill) is dropped too."""
    if path.exists():
        write_text(path, "".join(json.dumps(record) + "\n" for record in records_up_to(path, step)))


def records_up_to(path: Path, step: int) -> list[dict[str, Any]]:
    """What metrics.jsonl holds of the steps up to `step`."""
    records: list[dict[str, Any]] = []
    for line in path.read_bytes().splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError):  # cut short by a kill, or no text
            record = json.loads(line)
            if isinstance(record, dict) and isinstance(record.get("step"), int):
                records.append(record)
    return [record for record in records if record["step"] <= step]


class Samples(pl.Callback):
    """Completes the same few validation prompts at each validation: to samples.jsonl, and to whoever shows them.

    `complete` shows them too, the prompts themselves the first time: (trainer, step, whether it is) → predictions.
    """

    def __init__(self, path: Path, complete: Callable[[pl.Trainer, int, bool], Sequence[Prediction]]) -> None:
        self._path = path
        self._complete = complete
        self._is_first = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Drop the lines that a resumed run will write again."""
        del pl_module
        if trainer.is_global_zero:
            drop_lines_after(self._path, trainer.global_step)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Generate and show, on one device."""
        del pl_module
        if not trainer.is_global_zero:
            return
        step = trainer.global_step
        for prediction in self._complete(trainer, step, self._is_first):
            append_line(self._path, json.dumps({"step": step, **prediction.to_dict()}, allow_nan=False))
        self._is_first = False
