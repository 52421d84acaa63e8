"""The run folder: its name, its files, and the summary that every ending leaves behind."""

import contextlib
import datetime
import hashlib
import json
import signal
import time
import traceback
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from tunelab import atomic
from tunelab.config import RunConfig, mark_read, to_plain
from tunelab.errors import ConfigError, TunelabError

SCHEMA_VERSION = 1


@dataclass(slots=True)
class Summary:
    """What summary.json will say. `metrics` is flat: `<split>/<metric>`, with `base/` before it for the base model."""

    metrics: dict[str, float] = field(default_factory=dict)
    times_seconds: dict[str, float] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


class RunFolder:
    """One run on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.summary = Summary()

    @property
    def checkpoints(self) -> Path:
        """Where last.ckpt and best.ckpt are."""
        return self.path / "checkpoints"

    @property
    def adapter(self) -> Path:
        """The export."""
        return self.path / "adapter"

    def write_text(self, name: str, text: str) -> None:
        """Write a file whole or not at all."""
        atomic.write_text(self.path / name, text)

    def write_json(self, name: str, content: Any) -> None:
        """Write a JSON file whole or not at all; JSON knows no infinity and no nan, they become null."""
        atomic.write_json(self.path / name, content)

    def read_json(self, name: str) -> dict[str, Any]:
        """What an earlier start of this run left in a JSON file; empty where there is none."""
        path = self.path / name
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def read_summary(self) -> dict[str, Any]:
        """The summary an earlier start of this run left; empty where there is none."""
        return self.read_json("summary.json")

    def merge_metrics(self, metrics: dict[str, float]) -> None:
        """Add to (or replace in) the metrics of summary.json, and leave the rest of it as it is."""
        summary = self.read_summary() or {"schema_version": SCHEMA_VERSION}
        summary["metrics"] = {**summary.get("metrics", {}), **metrics}
        self.write_json("summary.json", summary)

    @contextlib.contextmanager
    def stage(self, name: str) -> Generator[None]:
        """Time a part of the run."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.summary.times_seconds[name] = round(time.perf_counter() - start, 3)


def create_run_folder(config: RunConfig, sweep_dir: Path | None) -> RunFolder:
    """Make the folder of a new run: outputs/runs/<name>/<date>_<time>_<hash>, or <sweep>/<hash> for a sweep's job.

    Raises:
        ConfigError: it cannot be made.
    """
    digest = config_hash(config)
    now = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    runs = Path(config.output_dir) / "runs" / config.name
    wanted = sweep_dir / digest if sweep_dir else runs / f"{now}_{digest}"
    try:
        return RunFolder(make_new_folder(wanted))
    except OSError as error:
        raise ConfigError(f"output_dir: the run folder {str(wanted)!r} cannot be made ({error.strerror}).") from error


def open_run_folder(path: str) -> RunFolder:
    """Open the folder of an earlier run.

    Raises:
        ConfigError: there is no run in it.
    """
    folder = Path(path)
    if not (folder / "config.yaml").is_file():
        raise ConfigError(
            f"run, resume: expected a run folder with config.yaml, found none in {path!r}; runs lie in outputs/runs."
        )
    return RunFolder(folder)


# What may differ when a run is resumed: where and how fast it computes, never what.
RESUMABLE_KEYS = ("trainer.micro_batch_tokens", "trainer.log_every_steps", "objective.head_chunk_tokens")


def resumed_config(saved: RunConfig, given: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """The configuration a run is continued with: its own, and the memory knobs typed with `resume`.

    Raises:
        ConfigError: something else was typed too, which would make it another run.
    """
    mark_read(saved, "resume", "output_dir", "name")  # the folder was made, and is opened, by them
    for override in overrides:
        key = override.partition("=")[0]
        if key in RESUMABLE_KEYS:
            section, _, name = key.partition(".")
            setattr(getattr(saved, section), name, getattr(getattr(given, section), name))
        elif key != "resume":
            raise ConfigError(
                f"{key}: a resumed run keeps the configuration it was started with; only "
                f"{', '.join(RESUMABLE_KEYS)} may change: remove {override!r}, or start a new run."
            )
    return saved


def config_hash(config: RunConfig) -> str:
    """Eight hexadecimal digits that differ where anything but the output folder or the resume differs."""
    plain = to_plain(config)
    del plain["output_dir"], plain["resume"]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:8]


@contextlib.contextmanager
def recorded(
    folder: RunFolder, config: RunConfig, interruptions: tuple[type[BaseException], ...], is_main: bool = True
) -> Generator[None]:
    """Write summary.json however the run ends: finished, failed (with the reason), or interrupted.

    Only the process that `is_main` writes, of several that train together.
    """
    start = time.perf_counter()
    status, reason = "finished", None
    previous = signal.signal(signal.SIGTERM, _exit_on_signal)  # until training, which saves first, takes it over
    try:
        yield
    except (*interruptions, KeyboardInterrupt, _Terminated) as error:
        status, reason = "interrupted", str(error) or "stopped from the keyboard"
        raise
    except BaseException as error:
        status = "failed"
        reason = str(error) if isinstance(error, TunelabError) else f"{type(error).__name__}: {error}"
        if is_main and not isinstance(error, TunelabError):
            folder.write_text("traceback.txt", traceback.format_exc())
        raise
    finally:
        signal.signal(signal.SIGTERM, previous)
        folder.summary.times_seconds["total"] = round(time.perf_counter() - start, 3)
        if is_main:
            folder.write_json("summary.json", _summary(folder, config, status, reason))


class _Terminated(SystemExit):
    """SIGTERM outside of training: the process ends with 128 + the signal's number."""

    def __str__(self) -> str:
        return "stopped by SIGTERM"


def _exit_on_signal(number: int, frame: FrameType | None) -> None:
    del frame
    raise _Terminated(128 + number)


def _summary(folder: RunFolder, config: RunConfig, status: str, reason: str | None) -> dict[str, Any]:
    names = (
        "config.yaml",
        "metrics.jsonl",
        "predictions.jsonl",
        "data_report.json",
        "doctor.json",
        "provenance.json",
    )
    paths = {name.rpartition(".")[0]: name for name in names if (folder.path / name).is_file()}
    folders = {
        "adapter": "adapter",
        "last_checkpoint": "checkpoints/last.ckpt",
        "best_checkpoint": "checkpoints/best.ckpt",
    }
    paths |= {key: name for key, name in folders.items() if (folder.path / name).exists()}
    return {
        "schema_version": SCHEMA_VERSION,
        "status": status,
        "reason": reason,
        "name": config.name,
        "seed": config.seed,
        "config_hash": config_hash(config),
        "metrics": folder.summary.metrics,
        "times_seconds": folder.summary.times_seconds,
        **folder.summary.facts,
        "paths": paths,
    }


def make_new_folder(wanted: Path) -> Path:
    """Create `wanted`, or the first free `wanted-2`, `wanted-3`, …: two runs never share a folder."""
    wanted.parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        path = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        try:
            path.mkdir()
            return path
        except FileExistsError:
            number += 1
