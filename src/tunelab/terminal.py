"""What a person sees while a run goes: the configuration as a tree, progress, and the result."""

import contextlib
import logging
import os
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import transformers
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text
from rich.tree import Tree

from tunelab.config import OF_THE_SWEEP, RunConfig, to_plain
from tunelab.evaluation.metrics.registry import TOKEN_METRICS

PLAIN_WIDTH = 110  # columns where the output is no terminal


class RunConsole(Console):
    """A console on standard output that also writes what it prints, without colour, to a log file.

    Use it within `contextlib.closing`; a console's own context is a buffer.
    """

    def __init__(self, log: Path | None = None, quiet: bool = False) -> None:
        super().__init__(quiet=quiet, width=None if sys.stdout.isatty() else PLAIN_WIDTH, highlight=False, markup=False)
        self._log = None
        if log is not None and not quiet:
            file = log.open("a", encoding="utf-8", buffering=1)
            if _prints_to(file):  # a job of a sweep
                file.close()
            else:
                self._log = Console(
                    file=file, width=PLAIN_WIDTH, highlight=False, markup=False, no_color=True, force_terminal=False
                )

    def close(self) -> None:
        """Close the log; what is printed afterwards shows here only."""
        if self._log is not None:
            with contextlib.suppress(OSError):  # a full disk, which what was to be written has already met
                self._log.file.close()
            self._log = None

    def on_broken_pipe(self) -> None:
        """Go on without standard output, of which nobody reads the rest (`train.py | head`)."""
        self.quiet = True
        with open(os.devnull, "w", encoding="utf-8") as nowhere:  # noqa: PTH123
            os.dup2(nowhere.fileno(), sys.stdout.fileno())

    def print(self, *objects: Any, **options: Any) -> None:
        """Print here and to the log."""
        super().print(*objects, **options)
        if self._log is not None:
            self._log.print(*objects, **options)


def _prints_to(file: TextIO) -> bool:
    """Whether standard output is this very file."""
    try:
        return os.path.sameopenfile(sys.stdout.fileno(), file.fileno())
    except (OSError, ValueError):  # standard output that is no file, or closed
        return False


def quiet_libraries() -> None:
    """Keep the chatter of the libraries underneath off the screen; their warnings still come through."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    transformers.utils.logging.disable_progress_bar()
    # Lightning 2.6 asks torch 2.13 in a way that it will have to change.
    warnings.filterwarnings("ignore", message="`isinstance\\(treespec, LeafSpec\\)` is deprecated")
    # Our loader is read from the current step: Lightning cannot know.
    warnings.filterwarnings("ignore", message="You're resuming from a checkpoint that ended before the epoch ended")
    # PEFT 0.21 asks transformers 5.23 for an attribute under its old name.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)


def config_tree(config: RunConfig) -> Tree:
    """The configuration, sections as branches; what is null or empty is left out."""
    tree = Tree(Text("configuration (null and empty values are left out; config.yaml has all)", style="bold"))
    own = {key: value for key, value in to_plain(config).items() if key not in OF_THE_SWEEP}
    _grow(tree, _without_nothing(own))
    return tree


class ProgressReporter:
    """Shows steps as they are logged: a bar with loss, speed and time left; plain lines where there is no terminal."""

    def __init__(self, console: Console, total_steps: int) -> None:
        self._console = console
        self._total = total_steps
        self._start = time.monotonic()
        self._first_step: int | None = None
        self._bar = self._make_bar() if console.is_terminal and not console.quiet else None
        self._task = self._bar.add_task("training", total=total_steps, figures="") if self._bar else None

    def __enter__(self) -> "ProgressReporter":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def __call__(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show the figures of a training step, or those of a validation."""
        if "val/loss" in metrics:
            loss, accuracy = metrics["val/loss"], metrics["val/token_accuracy"]
            more = {name.removeprefix("val/"): value for name, value in metrics.items()}
            scored = "".join(f", {n} {v:.4g}" for n, v in more.items() if n not in TOKEN_METRICS and "/" not in n)
            self._console.print(f"validation at step {step}: loss {loss:.4f}, token accuracy {accuracy:.1%}{scored}")
            return
        figures = (
            f"loss {metrics['train/loss']:.4f} · grad norm {metrics['train/grad_norm']:.3g} · "
            f"lr {metrics['train/lr']:.2e} · {metrics['perf/tokens_per_second']:,.0f} tokens/s"
        )
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=step, figures=figures)
        else:
            self._console.print(f"step {step}/{self._total} · {figures} · {self._time_left(step)} left")

    def _make_bar(self) -> Progress:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        return Progress(*columns, TextColumn("{task.fields[figures]}"), console=self._console)

    def _time_left(self, step: int) -> str:
        if self._first_step is None:
            self._first_step, self._start = step, time.monotonic()
            return "-:--"
        done = max(1, step - self._first_step)
        seconds = (time.monotonic() - self._start) / done * (self._total - step)
        return f"{int(seconds // 60)}:{int(seconds % 60):02d}"


def closing_lines(folder: Path, adapter: Path) -> str:
    """Where the results are, and what to type next."""
    return (
        f"run folder   {folder}\n"
        f"adapter      {adapter}\n"
        f"look         tensorboard --logdir {folder.parent}\n"
        f"measure      python evaluate.py run={folder}"
    )


def _without_nothing(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """A copy without values, and sections of values, that are null or empty."""
    kept = {key: _without_nothing(value) if isinstance(value, dict) else value for key, value in mapping.items()}
    return {key: value for key, value in kept.items() if value not in (None, {}, [])}


def _grow(branch: Tree, mapping: Mapping[str, Any]) -> None:
    for key, value in mapping.items():
        if isinstance(value, dict) and value:
            _grow(branch.add(Text(str(key), style="bold")), value)
        else:
            branch.add(Text(f"{key}: {value}"))
