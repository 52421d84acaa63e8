"""Reads run folders: what was asked, how it ended, what was measured. Nothing in them is changed or computed again."""

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from tunelab.errors import ConfigError
from tunelab.run import RunFolder

FINISHED = "finished"
NO_SUMMARY = "no summary"  # it is running, or was killed before it could write one
UNREADABLE = "unreadable"
_MAX_DEPTH = 4  # folders below a named one: outputs/runs/<name>/<run> is the deepest that is made
_OWN_SECTIONS = ("defaults", "hydra")  # of config.yaml: how Hydra reads it again, no setting of the run
_POWER = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$")
_EXACT = 2.0**53  # below it a float counts in steps of one or less
_BASE: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the parser in C: 200 files in a second instead of ten

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Run:
    """One run folder.

    `config`: flat, `optim.lr` → value; lists are leaves. `typed`: what the person typed, key → text. `metrics`,
    `intervals` (95 %, over examples): as in summary.json. `facts`: the rest of summary.json. What is missing is empty.
    """

    folder: Path
    status: str
    reason: str | None
    seed: int
    config: Mapping[str, Any]
    typed: Mapping[str, str]
    metrics: Mapping[str, float]
    intervals: Mapping[str, Interval]
    facts: Mapping[str, Any]
    provenance: Mapping[str, Any]
    matching: Mapping[str, Any] = field(default_factory=dict[str, Any])  # what its sweep set for an equal budget
    is_base: bool = False  # its sweep changed one thing at a time of this run's configuration

    @property
    def is_finished(self) -> bool:
        """Whether it came to its end."""
        return self.status == FINISHED


class _Loader(_BASE):
    """Reads 2e-4 as a number, as Hydra does; YAML 1.1 wants a point in it."""


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _POWER, list("-+0123456789"))


def find_runs(places: Sequence[str]) -> tuple[list[Path], list[str]]:
    """The run folders that `places` are or hold, each once, and the places without any.

    Raises:
        ConfigError: a place does not exist, or there is no run at all.
    """
    folders: dict[Path, None] = {}
    empty: list[str] = []
    for place in places:
        path = Path(place)
        if not path.exists():
            raise ConfigError(
                f"runs: expected run folders, or folders that hold some, found no {place!r}; runs lie in outputs/runs, "
                "sweeps in outputs/sweeps."
            )
        found = [folder.resolve() for folder in _below(path, _MAX_DEPTH)]
        folders.update(dict.fromkeys(found))
        empty += [] if found else [place]
    if not folders:
        raise ConfigError(
            f"runs: expected run folders with config.yaml, found none in {', '.join(map(repr, places))}; name a sweep, "
            "a run, or a folder that holds runs."
        )
    return list(folders), empty


def _below(folder: Path, depth: int) -> Iterator[Path]:
    if _is_run(folder):
        yield folder
    elif depth and folder.is_dir():
        inside = (entry for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
        for name in sorted(entry.name for entry in inside):
            yield from _below(folder / name, depth - 1)


def _is_run(folder: Path) -> bool:
    """Whether it was made for a run: one that failed very early has left a summary alone."""
    if (folder / "config.yaml").is_file():
        return True
    summary = folder / "summary.json"
    return summary.is_file() and '"status"' in summary.read_text(encoding="utf-8", errors="replace")


def num_not_begun(place: str) -> int:
    """How many jobs of a sweep (its sweep.json lists all) have no folder yet; 0 where there is no such list."""
    try:
        jobs = _json(Path(place) / "sweep.json").get("jobs", [])
        names = [entry.name for entry in os.scandir(place)] if jobs else []
        return sum(not any(name.endswith(str(job["id"])) for name in names) for job in jobs)
    except (OSError, ValueError, TypeError, KeyError):
        return 0


def read_run(folder: Path) -> Run:
    """Read one run. A damaged file makes the run `unreadable`, with the reason: no run is left out."""
    try:
        config = flatten(_yaml(folder / "config.yaml"))
        summary, matching = _json(folder / "summary.json"), _matching(folder)
        status, reason = str(summary.get("status", NO_SUMMARY)), summary.get("reason")
        if status == FINISHED and not config:
            status, reason = UNREADABLE, "config.yaml is missing"
        return Run(
            folder=folder,
            status=status,
            reason=reason,
            seed=int(config.get("seed", 0)),
            config=config,
            typed=_typed(RunFolder(folder).read_overrides(), matching.get("overrides", ())),
            metrics={name: float(value) for name, value in summary.get("metrics", {}).items() if value is not None},
            intervals={name: (low, high) for name, (low, high) in summary.get("intervals", {}).items()},
            facts={name: value for name, value in summary.items() if name not in ("metrics", "intervals")},
            provenance=_json(folder / "provenance.json"),
            matching=matching,
            is_base=_is_base(folder),
        )
    except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:200]
        return Run(folder, UNREADABLE, reason, 0, {}, {}, {}, {}, {}, {})


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"optim": {"lr": 1}}` as `{"optim.lr": 1}`; an empty section is left out, a list becomes its JSON text."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if not prefix and key in _OWN_SECTIONS:
            continue
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = _leaf(value)
    return flat


def parse_value(text: str) -> Any:
    """A value as it was typed, as `Run.config` has it."""
    try:
        return _leaf(yaml.load(text, _Loader))
    except yaml.YAMLError:
        return text


def _leaf(value: Any) -> Any:
    """However it was spelled: 16.0 is 16, a list its JSON text."""
    whole = _whole(value)
    return json.dumps(whole) if isinstance(whole, list) else whole


def _whole(value: Any) -> Any:
    if isinstance(value, list):
        return [_whole(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT else value


def read_lines(path: Path, having: str = "") -> Iterator[dict[str, Any]]:
    """The objects of a JSON Lines file whose line has `having` in it; a line cut short by a kill is passed over."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if having in line:
                try:
                    record = json.loads(line)
                except ValueError:
                    continue
                if isinstance(record, dict):
                    yield record


def _matching(folder: Path) -> dict[str, Any]:
    """What matching.json of its sweep says of a run."""
    record = _json(folder.parent / "matching.json")
    own = record.get("jobs", {}).get(_id_of(folder))
    return {"match": record["match"], **own} if own else {}


def _is_base(folder: Path) -> bool:
    index = folder.parent / "sweep.json"
    return index.is_file() and _id_of(folder) in _bases(index, index.stat().st_mtime_ns)


@lru_cache(maxsize=8)
def _bases(index: Path, _changed: int) -> frozenset[str]:
    """The jobs that sweep.json names as its base; it is the same file for all runs of a sweep."""
    try:
        return frozenset(_json(index).get("base", ()))
    except (OSError, ValueError, TypeError):
        return frozenset()  # the runs can be read without


def _id_of(folder: Path) -> str:
    """The hash at the end of the name of a sweep's job."""
    return folder.name.rpartition("_")[2]


def _typed(overrides: Iterable[str], solved: Iterable[str]) -> dict[str, str]:
    """Without what the sweep `solved`: a person typed something else."""
    parts = (override.partition("=") for override in overrides if override not in set(solved))
    return {key.lstrip("+"): value for key, sign, value in parts if sign and not key.startswith("~")}


def _yaml(path: Path) -> dict[str, Any]:
    content = yaml.load(path.read_text(encoding="utf-8"), _Loader) if path.is_file() else None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} is no mapping")
    return content


def _json(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} is no JSON object")
    return content
