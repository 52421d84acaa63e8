"""The folder of a sweep: its index sweep.json, and what became of each job so far."""

import contextlib
import json
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from tunelab import atomic
from tunelab.config import Rerun
from tunelab.errors import ConfigError
from tunelab.locking import held
from tunelab.run import RunFolder
from tunelab.sweeping.jobs import Job

INDEX = "sweep.json"
CLAIM = ".sweep.lock"  # in a job's folder: held by the sweep that runs it; the system frees it, however that ends
SCHEMA_VERSION = 1


class Status(Enum):
    """What became of a job. `elsewhere`: another sweep is running it; `pruned`: a search ended it early."""

    waiting = "waiting"
    running = "running"
    elsewhere = "elsewhere"
    finished = "finished"
    pruned = "pruned"
    failed = "failed"
    interrupted = "interrupted"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a job has left in its folder."""

    status: Status
    reason: str | None = None
    metrics: Mapping[str, float | None] | None = None
    seconds: float | None = None


class SweepFolder:
    """One sweep on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def job(self, job: Job) -> RunFolder:
        """The folder of a job, made by an earlier sweep or yet to be made."""
        return RunFolder(self.named(job.id) or self.path / job.folder_name)

    def named(self, job: str) -> Path | None:
        """The folder of a job by its id; None where none was made."""
        return next(iter(sorted(self.path.glob(f"*_{job}"))), None)

    def outcome(self, job: Job) -> Outcome:
        """What a job has left so far; `waiting` where it has not run, or was killed half-way."""
        summary = self.job(job).read_summary()
        status = summary.get("status")
        if status is None:
            return Outcome(Status.waiting)
        best: Mapping[str, Any] = summary.get("best") or {}  # of the validations, by the monitored figure
        validated = {best["metric"]: best["value"]} if "metric" in best else {}
        return Outcome(
            Status(status),
            summary.get("reason"),
            {**summary.get("metrics", {}), **validated},
            summary.get("times_seconds", {}).get("total"),
        )

    def axes(self) -> set[str]:
        """The keys that differ between its jobs, by its index; none where it has none."""
        return {*self._read().get("axes", {})}

    def to_run(self, jobs: Sequence[Job], rerun: Rerun) -> list[Job]:
        """Those that the command has to run."""
        again = {Rerun.failed: (Status.failed,), Rerun.all: tuple(Status), Rerun.none: ()}[rerun]
        missing = (Status.waiting, Status.interrupted, Status.pruned)
        return [job for job in jobs if self.outcome(job).status in (*missing, *again)]

    def make(self) -> None:
        """Make the folder where there is none; one that is there stays as it is.

        Raises:
            ConfigError: it cannot be made, or its index was damaged.
        """
        with self._written():
            self.path.mkdir(parents=True, exist_ok=True)
        self._read()

    def record(self, jobs: Sequence[Job], axes: Sequence[str], command: Sequence[str]) -> None:
        """Write what was asked into sweep.json, beside what was asked before.

        Raises:
            ConfigError: the folder cannot be made, or its index was damaged.
        """
        self.make()
        with self._written(), held(self.path / ".lock", timeout=60):
            index = self._read()
            old = {entry["id"]: entry for entry in index.get("jobs", [])}
            new = {job.id: self._entry(job) for job in jobs}
            values = index.get("axes", {})
            for axis in axes:
                seen = [*values.get(axis, []), *(job.axes[axis] for job in jobs if axis in job.axes)]
                values[axis] = list(dict.fromkeys(seen))
            commands = [*index.get("commands", []), list(command)]
            content = {
                **index,
                "schema_version": SCHEMA_VERSION,
                "name": self.path.name,
                "commands": [list(each) for each in dict.fromkeys(map(tuple, commands))],
                "axes": values,
                "jobs": list({**old, **new}.values()),
            }
            atomic.write_json(self.path / INDEX, content)

    def note(self, key: str, content: Any) -> None:
        """Write one entry of sweep.json, beside the rest of it."""
        with held(self.path / ".lock", timeout=60):
            atomic.write_json(self.path / INDEX, {**self._read(), key: content})

    @contextlib.contextmanager
    def _written(self) -> Generator[None]:
        """Say in a sentence why the folder cannot be written."""
        try:
            yield
        except OSError as error:
            reason = error.strerror or error
            raise ConfigError(
                f"sweep.name: {str(self.path)!r} cannot be written ({reason}); mend that, or set output_dir=<another>."
            ) from error

    def _entry(self, job: Job) -> dict[str, Any]:
        return {"id": job.id, "folder": self.job(job).path.name, "axes": dict(job.axes), "overrides": job.overrides}

    def _read(self) -> dict[str, Any]:
        path = self.path / INDEX
        try:
            index: Any = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        except ValueError:
            index = None
        if not _is_index(index):
            raise ConfigError(
                f"{path}: expected the index of a sweep, found a damaged file; delete it, jobs are found without."
            )
        return index


def _is_index(content: Any) -> bool:
    """Whether a file has the form of sweep.json, as far as it is read here."""
    try:
        jobs, axes, commands = content.get("jobs", []), content.get("axes", {}), content.get("commands", [])
        return all(isinstance(each, list) for each in (jobs, commands, *commands, *axes.values())) and all(
            isinstance(job["id"], str) for job in jobs
        )
    except (AttributeError, KeyError, TypeError):
        return False


def is_claimed(folder: RunFolder) -> bool:
    """Whether a sweep is running this job."""
    if not (folder.path / CLAIM).exists():
        return False
    with held(folder.path / CLAIM) as mine:
        return not mine
