"""Earlier runs done again: each a job of the pool, with the configuration of the run and a folder of its own."""

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tunelab.audit import refuse_unread_keys
from tunelab.config import RunConfig, Section, SweepConfig, mark_read
from tunelab.data.preparing import data_fingerprints
from tunelab.errors import ConfigError, DataError, TunelabError
from tunelab.hashing import file_sha256
from tunelab.model.tuning import read_tuning
from tunelab.provenance import fingerprints, provenance
from tunelab.report.reading import Run
from tunelab.run import RESUMABLE_KEYS
from tunelab.sweeping.folder import Outcome, Status, SweepFolder
from tunelab.sweeping.jobs import Job, alone, content_hash, digest, key_of
from tunelab.sweeping.running import run_jobs
from tunelab.training.trainer import resolve_device

USED_KEYS = ("workers", "job_timeout", "rerun")  # of `sweep`


@dataclass(frozen=True, slots=True)
class Original:
    """A run that is done again: its folder, its configuration, and what was typed for it."""

    folder: Path
    config: RunConfig
    typed: tuple[str, ...]


def provenance_now(config: RunConfig, run: Run) -> dict[str, Any]:
    """What provenance.json would say of `run`, whose configuration this is, started here and now.

    Raises:
        DataError: its data, its base model or the adapter it was trained on are gone.
    """
    device = resolve_device(config.trainer).type
    try:
        facts = fingerprints(config, data_now(config), read_tuning(config.peft).folder)
    except TunelabError as error:
        where = run.provenance.get("directory")
        hint = f" (it was started in {where}: paths begin there)" if where and where != str(Path.cwd()) else ""
        raise DataError(f"{run.folder.name} cannot be done again{hint}: {error}") from error
    return provenance((), {"device": device, **facts})


def data_now(config: RunConfig) -> dict[str, Any]:
    """The fingerprints of the data of a run as they are now, by source.

    Raises:
        DataError: a file is gone.
    """
    own: dict[str, Any] = dict(data_fingerprints(config.data))
    sets = config.evaluation.sets
    return own | {f"{name}/{file}": sha for name in sets for file, sha in data_fingerprints(sets[name].data).items()}


def repeat(original: Original, axes: Mapping[str, str], seed: int, number: int = 0) -> Job:
    """The job that does `original` again with `seed`. `number` tells repeats of one configuration and seed apart.

    It is part of the job's id and of nothing else: the runs differ by their folder alone.
    """
    config = replace(alone(original.config), seed=seed, resume=None)
    content = content_hash(config, RESUMABLE_KEYS)  # the knobs are part of it: the last bits depend on them
    own = (each for each in original.typed if key_of(each) not in ("seed", "resume"))
    return Job(digest([content, number]) if number else content, axes, config, (*own, f"seed={seed}"))


def run_again(
    jobs: Sequence[Job], folder: Path, settings: SweepConfig, typed: Sequence[str]
) -> tuple[SweepFolder, dict[str, Outcome]]:
    """Run what is left to run of `jobs` in `folder`, as a sweep; the folder, and what became of each, by id.

    Raises:
        ConfigError: the folder cannot be written.
        Interrupted: a signal came; the same command goes on.
    """
    sweep = SweepFolder(folder)
    sweep.record(jobs, list(dict.fromkeys(axis for job in jobs for axis in job.axes)), typed)
    return sweep, run_jobs(jobs, sweep, settings, in_process=False, names_best=False)


def refuse_unused(config: Section, settings: SweepConfig, overrides: Sequence[str]) -> None:
    """Refuse keys that were typed and have no use here, those of `sweep` that are for other sweeps among them."""
    mark_read(settings, *USED_KEYS)
    refuse_unread_keys(config, overrides)


def with_threads_of(records: Iterable[Mapping[str, object]]) -> None:
    """Let the jobs have as many threads as the runs had, where that is one number and OMP_NUM_THREADS is not set."""
    hardware = [record.get("hardware") for record in records]
    counts = {str(each.get("num_threads")) for each in hardware if isinstance(each, Mapping)}
    if len(counts) == 1 and not os.environ.get("OMP_NUM_THREADS") and (only := counts.pop()).isdigit():
        os.environ["OMP_NUM_THREADS"] = only


def weights_sha256(folder: Path) -> dict[str, str]:
    """SHA-256 of what a run has trained, by file; empty where nothing was exported."""
    return {path.name: file_sha256(path) for path in sorted((folder / "adapter").glob("*.safetensors"))}


def refuse_failed(outcomes: Mapping[str, Outcome], kept: Path | None = None) -> None:
    """Raise a TunelabError where jobs have failed; it says what of. `kept`: what is over the others."""
    failed = [outcome for outcome in outcomes.values() if outcome.status is not Status.finished]
    if failed:
        others = f"{kept} is over the others; " if kept else ""
        raise TunelabError(
            f"{len(failed)} of {len(outcomes)} runs did not finish ({failed[0].reason or failed[0].status.value}); "
            f"{others}the same command tries them again."
        )


def require_new_or_own(folder: Path, record: str, axes: Collection[str]) -> None:
    """Raise a ConfigError where a folder holds something else than what this command left in it: jobs over `axes`."""
    is_new = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    if not is_new and SweepFolder(folder).axes() != {*axes}:
        raise ConfigError(
            f"to: expected a new folder, or one with an earlier {record}, found {str(folder)!r}; set to=<another>."
        )
