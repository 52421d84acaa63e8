"""Says what does not belong together: runs of different data, base models, code or versions, and those left over."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunelab.report.formatting import joined, level_text, plural
from tunelab.report.grouping import Factor, Group
from tunelab.report.reading import Run

_PACKAGES = ("tunelab", "torch", "transformers", "peft")
_MAX_NAME = 40  # characters
UNKNOWN = "not recorded"
PER_TOKEN = ("loss", "perplexity", "token_accuracy")  # means over supervised tokens


@dataclass(frozen=True, slots=True)
class Flag:
    """A sentence for the top of the report. `is_warning`: the figures may not be comparable."""

    text: str
    is_warning: bool = True


def data_of(run: Run) -> str:
    """Eight digits of the fingerprint of all data files."""
    return _digest(run.provenance.get("data_sha256"))


def base_of(run: Run) -> str:
    """The base model: path, and revision, commit or files."""
    base: Mapping[str, Any] = run.provenance.get("base_model") or {}
    if not base:
        return UNKNOWN
    exact = base.get("commit") or base.get("revision")
    return f"{level_text(base.get('path'))} ({str(exact)[:8] if exact else _digest(base.get('sha256'))})"


def code_of(run: Run) -> str:
    """The commit of the code, and a fingerprint of what was not committed."""
    git: Mapping[str, Any] = run.provenance.get("git") or {}
    if not git.get("commit"):
        return UNKNOWN
    changes = f" with changes {_digest(git['diff'])}" if git.get("diff") else ""
    return f"{str(git['commit'])[:8]}{changes}"


def versions_of(run: Run) -> str:
    """The packages that decide what is computed."""
    packages: Mapping[str, Any] = run.provenance.get("packages") or {}
    return ", ".join(f"{name} {packages[name]}" for name in _PACKAGES if name in packages) or UNKNOWN


def hardware_of(run: Run) -> str:
    """What it was computed on."""
    hardware: Mapping[str, Any] = run.provenance.get("hardware") or {}
    if not hardware:
        return UNKNOWN
    devices: list[str] = hardware.get("cuda_devices") or []
    if run.provenance.get("device") == "cuda" and devices:
        return f"{run.provenance.get('num_devices', 1)} × {devices[0]}"
    return f"{hardware.get('machine')} {hardware.get('cpu_capability') or ''}".strip()


_SOURCES: dict[str, tuple[Callable[[Run], str], str]] = {  # what it is called → its reading, keys that may explain it
    "data": (data_of, "data."),
    "base model": (base_of, "model."),
    "code": (code_of, "code."),
    "versions": (versions_of, "versions."),
}


def mixed(groups: Sequence[Group], factors: Sequence[Factor]) -> list[Flag]:
    """What differs among the runs; as a mere note where a swept factor says so itself."""
    flags: list[Flag] = []
    for name, (read, prefix) in _SOURCES.items():
        found = [[read(run) for run in group.runs] for group in groups]
        counts = Counter(each for own in found for each in own)
        if len(counts) < 2:
            continue
        cause = _explained(found, groups, [each for each in factors if _is_about(each, prefix)])
        listed = joined([f"{value} ({plural(count, 'run')})" for value, count in counts.most_common()], 3)
        if cause is not None:
            flags.append(Flag(f"Other {name} with {cause}, which was swept: {listed}.", is_warning=False))
        else:
            flags.append(Flag(f"Not all runs have the same {name}: {listed}.{_minority(groups, read)}"))
    kinds = Counter(hardware_of(run) for group in groups for run in group.runs)
    if len(kinds) > 1:
        listed = joined([f"{value} ({plural(count, 'run')})" for value, count in kinds.most_common()], 3)
        flags.append(Flag(f"The runs were made on different hardware, so times do not compare: {listed}.", False))
    return flags


def measured_on(run: Run) -> str:
    """A fingerprint of the examples that the figures are over: figures over others do not compare."""
    files: Mapping[str, Any] = run.provenance.get("data_sha256") or {}
    path = str(run.config.get("data.test_path"))
    held_out = [run.config.get(f"data.{key}") for key in ("test_fraction", "group_by")]
    counts = {name: value for name, value in run.metrics.items() if name.endswith("/num_examples") and name[0] != "b"}
    return _digest([files.get(path, [files, held_out]), sorted(counts.items())])


def over_other_tokens(runs: Sequence[Run], names: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Of the metrics `names` those that are means over tokens, and over differently many in some runs: from, to.

    So it is where what is supervised was swept (`data.train_on`): such losses do not compare.
    """
    found: dict[str, tuple[int, int]] = {}
    for name in names:
        split, _, kind = name.rpartition("/")
        counts = [run.metrics.get(f"{split}/num_supervised_tokens") for run in runs] if kind in PER_TOKEN else []
        known = [int(count) for count in counts if count is not None]
        if len(set(known)) > 1:
            found[name] = (min(known), max(known))
    return found


def unfinished(runs: Sequence[Run]) -> list[Flag]:
    """How many runs are in the report in name only, and why."""
    others = [run for run in runs if not run.is_finished]
    if not others:
        return []
    counts = Counter(run.status for run in others)
    listed = ", ".join(f"{count} {status}" for status, count in counts.most_common())
    return [Flag(f"Left out of all figures: {len(others)} of {plural(len(runs), 'run')} ({listed}); see Runs, below.")]


def _explained(found: Sequence[Sequence[str]], groups: Sequence[Group], factors: Sequence[Factor]) -> str | None:
    """The factor of whose levels each has one value alone."""
    for factor in factors:
        by_level: dict[Any, set[str]] = {}
        for values, group in zip(found, groups, strict=True):
            by_level.setdefault(group.levels[factor.name], set()).update(values)
        if all(len(values) == 1 for values in by_level.values()):
            return factor.name
    return None


def _is_about(factor: Factor, prefix: str) -> bool:
    return any(key.startswith(prefix) for key in (f"{factor.name}.", *factor.keys))


def _minority(groups: Sequence[Group], read: Callable[[Run], str]) -> str:
    runs = [run for group in groups for run in group.runs]
    usual, _ = Counter(map(read, runs)).most_common(1)[0]
    return f" Unlike most: {joined([_short(run.folder.name) for run in runs if read(run) != usual])}."


def _short(name: str) -> str:
    """Of a long name the hash at its end, by which a run is found too."""
    return name if len(name) <= _MAX_NAME else f"…_{name.rpartition('_')[2]}"


def _digest(content: Any) -> str:
    if not content:
        return UNKNOWN
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:8]
