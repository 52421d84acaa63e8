"""The run folder: its name, its files, and the summary that every ending leaves behind."""

import contextlib
import datetime
import hashlib
import json
import time
import traceback
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tunelab import atomic
from tunelab.config import RunConfig, to_plain
from tunelab.errors import ConfigError, Interrupted, TunelabError, storage_problem
from tunelab.folders import make_new_folder
from tunelab.locking import held
from tunelab.process import interruptible

SCHEMA_VERSION = 1
LOCK_FILE = ".lock"  # stays; what is held is the system's lock on it, which ends with the process


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
        """What an earlier start of this run left in a JSON file; empty where there is none.

        Raises:
            ConfigError: the file was damaged.
        """
        path = self.path / name
        try:
            return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        except ValueError as error:
            raise ConfigError(f"{path}: expected JSON, found a damaged file; delete it, or put it back.") from error

    def write_overrides(self, overrides: Sequence[str]) -> None:
        """Keep what was typed: a list in YAML, a line each."""
        lines = [each if _is_plain(each) else json.dumps(each, ensure_ascii=False) for each in overrides]
        self.write_text("overrides.yaml", "".join(f"- {line}\n" for line in lines))

    def read_overrides(self) -> tuple[str, ...]:
        """What was typed, where it was kept; a line that is not in quotes is taken as it stands."""
        path = self.path / "overrides.yaml"
        lines = path.read_text(encoding="utf-8").split("\n") if path.is_file() else []
        typed = (line.removeprefix("- ") for line in lines if line.startswith("- "))
        return tuple(str(yaml.safe_load(each)) if each.startswith(("'", '"')) else each for each in typed)

    def read_summary(self) -> dict[str, Any]:
        """The summary an earlier start of this run left; empty where there is none."""
        return self.read_json("summary.json")

    def merge_results(self, results: Mapping[str, Mapping[str, Any]]) -> None:
        """Add to (or replace in) these maps of summary.json (`metrics` and such), and leave the rest of it as it is."""
        summary = self.read_summary() or {"schema_version": SCHEMA_VERSION}
        summary |= {name: {**summary.get(name, {}), **found} for name, found in results.items()}
        self.write_json("summary.json", summary)

    def way_on(self) -> str:
        """What to type after the run was stopped."""
        if any(self.checkpoints.glob("*.ckpt")):
            return f"to go on: python train.py resume={self.path}"
        return "there is no checkpoint yet: start the run again"

    @contextlib.contextmanager
    def only_process(self) -> Generator[None]:
        """Hold the folder for this process; however it ends, nothing is left that blocks.

        Raises:
            ConfigError: another process holds it.
        """
        with held(self.path / LOCK_FILE) as mine:
            if not mine:
                raise ConfigError(
                    f"resume: another process is writing to {str(self.path)!r}; wait for its end, or stop it first."
                )
            yield

    @contextlib.contextmanager
    def stage(self, name: str) -> Generator[None]:
        """Time a part of the run."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.summary.times_seconds[name] = round(time.perf_counter() - start, 3)


def _is_plain(override: str) -> bool:
    """Whether a list in YAML can have it as it is: `: ` and ` #`, say, mean something there."""
    try:
        return yaml.safe_load(f"- {override}") == [override]
    except yaml.YAMLError:
        return False


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
        inside = sorted(folder.glob("*/config.yaml"), key=lambda found: found.stat().st_mtime_ns)
        newest = f"set the newest in it, {str(inside[-1].parent)!r}, or another" if inside else None
        where = newest or "runs lie in outputs/runs"
        raise ConfigError(f"run, resume: expected a run folder with config.yaml, found none in {path!r}; {where}.")
    return RunFolder(folder)


# What may differ when a run is resumed: where and how fast it computes, never what.
RESUMABLE_KEYS = ("trainer.micro_batch_tokens", "trainer.log_every_steps", "objective.head_chunk_tokens")


def resumable(overrides: Sequence[str]) -> list[str]:
    """The memory knobs typed with `resume`: they hold for this start, config.yaml stays as it is.

    Raises:
        ConfigError: something else was typed too, which would make it another run.
    """
    changes = [override for override in overrides if override.partition("=")[0] != "resume"]
    for override in changes:
        key = override.partition("=")[0]
        if key not in RESUMABLE_KEYS:
            raise ConfigError(
                f"{key}: a resumed run keeps the configuration it was started with; only "
                f"{', '.join(RESUMABLE_KEYS)} may change: remove {override!r}, or start a new run."
            )
    return changes


def config_hash(config: RunConfig) -> str:
    """Eight hexadecimal digits of all but the output folder, the resume, and the sections of sweeps and searches."""
    plain = to_plain(config)
    del plain["output_dir"], plain["resume"], plain["sweep"], plain["search"]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:8]


@contextlib.contextmanager
def recorded(
    folder: RunFolder, config: RunConfig, say: Callable[[str], None] = print, is_main: bool = True
) -> Generator[None]:
    """Write summary.json however the run ends: finished, failed (with the reason), or interrupted.

    Only the process that `is_main` writes, of several that train together. What a finished run left stays as it is
    where a later attempt ends otherwise: that is only said. The metrics of other attempts are kept until replaced.

    Raises:
        ConfigError: another process is writing to the folder.
        TunelabError: the disk was full, or could not be written.
    """
    start = time.perf_counter()
    with folder.only_process() if is_main else contextlib.nullcontext(), interruptible():
        earlier = folder.read_summary() if is_main else {}

        def record(status: str, reason: str | None) -> None:
            folder.summary.times_seconds["total"] = round(time.perf_counter() - start, 3)
            now = _summary(folder, config, status, reason)
            metrics = {**earlier.get("metrics", {}), **now["metrics"]}
            folder.write_json("summary.json", {**earlier, **now, "metrics": metrics})

        try:
            yield
            if is_main:
                record("finished", None)
        except BaseException as error:
            problem = storage_problem(error, str(folder.path))
            ending = TunelabError(f"{problem}; mend that, {folder.way_on()}.") if problem else error
            status, reason = _ending(ending)
            if is_main:
                with contextlib.suppress(OSError):  # which may be what ended the run
                    if earlier.get("status") == "finished":
                        say(f"{status}: {reason}\nthe results of the finished run stay as they were")
                    else:
                        record(status, reason)
                    if status == "failed" and not isinstance(ending, TunelabError):
                        folder.write_text("traceback.txt", traceback.format_exc())
            if ending is error:
                raise
            raise ending from error


def _ending(error: BaseException) -> tuple[str, str]:
    """The status that `error` leaves, and the reason."""
    if isinstance(error, (Interrupted, KeyboardInterrupt)):
        return "interrupted", str(error) or "stopped from the keyboard"
    return "failed", str(error) if isinstance(error, TunelabError) else f"{type(error).__name__}: {error}"


def _summary(folder: RunFolder, config: RunConfig, status: str, reason: str | None) -> dict[str, Any]:
    names = (
        "config.yaml",
        "metrics.jsonl",
        "predictions.jsonl",
        "samples.jsonl",
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
