"""The jobs of a sweep: each is a whole configuration, named by what differs and by a hash of its content."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tunelab.config import OF_THE_SWEEP, RunConfig, SearchConfig, SweepConfig, to_plain
from tunelab.errors import ConfigError
from tunelab.run import RESUMABLE_KEYS

SEED = "seed"  # of replicates: jobs that differ in it alone are one configuration
LONGEST_NAME = 120  # characters of a folder name; file systems take 255 bytes


@dataclass(frozen=True, slots=True)
class Job:
    """One run of a sweep. `axes`: swept key → value as typed; `overrides`: all that was typed, `sweep.` left out."""

    id: str
    axes: Mapping[str, str]
    config: RunConfig
    overrides: tuple[str, ...]

    @property
    def label(self) -> str:
        """What differs from the other jobs: `peft=dora lr=3e-4 seed=1`."""
        return _in_words(self.axes)

    @property
    def configuration(self) -> str:
        """The same without the seed: what its replicates have in common. Empty where nothing else is swept."""
        return _in_words({key: value for key, value in self.axes.items() if key != SEED})

    @property
    def folder_name(self) -> str:
        """The same in letters that no shell and no override needs quoted, and the id."""
        readable = _plain_letters(self.label.replace("=", "-").replace(" ", "_"))
        return f"{readable[: LONGEST_NAME - len(self.id) - 1]}_{self.id}"


def make_jobs(
    configs: Sequence[RunConfig], overrides: Sequence[Sequence[str]], axes: Sequence[str]
) -> tuple[list[Job], int]:
    """The jobs of a sweep over `axes` in the order given, and how many were left out as equal to an earlier one.

    Raises:
        ConfigError: a key is swept that belongs to the sweep and not to a run, or `resume` is set.
    """
    require_sweepable(configs, axes)
    jobs: dict[str, Job] = {}
    for config, typed in zip(configs, overrides, strict=True):
        own = tuple(each for each in typed if key_of(each).partition(".")[0] not in OF_THE_SWEEP)
        values = {key_of(each): each.partition("=")[2] for each in own}
        chosen = {axis: values[axis] for axis in axes if axis in values}  # a condition may leave one out
        job = Job(content_hash(config, axes), chosen, alone(config), own)
        jobs.setdefault(job.id, job)
    return list(jobs.values()), len(configs) - len(jobs)


def require_sweepable(configs: Iterable[RunConfig], axes: Sequence[str]) -> None:
    """Raise a ConfigError where a key is swept that belongs to all jobs together, or `resume` is set."""
    wrong = next(filter(is_of_all_jobs, axes), None)
    if wrong is not None:
        raise ConfigError(f"{wrong}: expected one value for all jobs of a sweep, found several; set one.")
    if any(to_plain(config)["resume"] is not None for config in configs):
        raise ConfigError("resume: expected a single run, found a sweep (-m); the same -m command goes on with it.")


def is_of_all_jobs(key: str) -> bool:
    """Whether a key says where the jobs lie or how they are run, and not what one of them does."""
    return key in ("name", "output_dir", "resume") or key.partition(".")[0] in OF_THE_SWEEP


def base_jobs(jobs: Sequence[Job]) -> list[str]:
    """The ids of the first job and of those that differ from it by the seed alone: the base of `one_at_a_time`."""
    values = [{**job.axes, SEED: ""} for job in jobs]
    return [job.id for job, own in zip(jobs, values, strict=True) if own == values[0]]


def alone(config: RunConfig) -> RunConfig:
    """The configuration of a run that belongs to no sweep."""
    return replace(config, sweep=SweepConfig(), search=SearchConfig())


def content_hash(config: RunConfig, axes: Sequence[str]) -> str:
    """Eight hexadecimal digits of all that a result depends on; of memory knobs only where they are swept."""
    plain = to_plain(config)
    del plain["output_dir"], plain["resume"], plain["name"], plain["sweep"], plain["search"]
    for key in RESUMABLE_KEYS:
        if key not in axes:
            section, _, name = key.partition(".")
            del plain[section][name]
    return digest(plain)


def sweep_name(config_name: str, axes: Sequence[str], rest: Mapping[str, Any]) -> str:
    """The folder of a sweep that was given no name: what is swept, and a hash of `rest`, which is not.

    The same command finds it again, also with more values of the same keys.
    """
    swept = _plain_letters("-".join(_short(axes)))
    return f"{config_name}_{swept[:LONGEST_NAME]}_{digest([rest, sorted(axes)])}"


def digest(content: Any) -> str:
    """Eight hexadecimal digits of plain data."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:8]


def key_of(override: str) -> str:
    """The key that `override` sets, with the place of a group's choice: `data@evaluation.sets.mine`."""
    return override.partition("=")[0].lstrip("+~")


def _in_words(axes: Mapping[str, str]) -> str:
    return " ".join(f"{key}={value}" for key, value in zip(_short(list(axes)), axes.values(), strict=True))


def _short(keys: Sequence[str]) -> list[str]:
    """The last part of each key, or the whole of those whose last part is that of another too."""
    last = [key.rpartition(".")[2] for key in keys]
    return [name if last.count(name) == 1 else key for key, name in zip(keys, last, strict=True)]


def _plain_letters(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", text).strip("-.")
