"""Groups runs by their configuration without the seed, and finds the factors in which the groups differ.

A factor is what a person swept: a typed override whose values differ (`peft`, `optim.lr`). Keys that were not typed
become factors only where the typed ones do not tell all groups apart. Keys that always change together are one factor.
"""

import json
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunelab.config import OF_THE_SWEEP
from tunelab.report.formatting import level_text
from tunelab.report.reading import Run

# What makes no other configuration: whose run it is and where it lies, the seed, and what watches or schedules it.
_NO_PART = ("seed", "output_dir", "resume", "name")
_NO_SECTION = ("logger", "hydra", *OF_THE_SWEEP)
UNTYPED = "(default)"  # of a group's choice (peft=…) in a run that named none
ABSENT = "–"  # of a key that a configuration does not have
MAX_LEVELS = 8  # of a number; one with more (from a search) is cut at its quartiles where levels are compared


@dataclass(frozen=True, slots=True)
class Factor:
    """What was swept. `levels`: its values in order; `keys`: those of config.yaml that change exactly with it."""

    name: str
    levels: tuple[Any, ...]
    keys: tuple[str, ...]

    @property
    def is_number(self) -> bool:
        """Whether all values are numbers (two or more), which have distances."""
        return all(isinstance(level, (int, float)) and not isinstance(level, bool) for level in self.levels)


@dataclass(frozen=True, slots=True)
class Group:
    """Runs of one configuration that differ by their seed alone. `levels`: factor name → value.

    `changed`: what it changes of the reference, where each row changes one thing.
    """

    number: int  # from 1, in the order in which they were found
    runs: tuple[Run, ...]
    levels: Mapping[str, Any]
    changed: str | None = None

    @property
    def label(self) -> str:
        """What it changes, or the values of all factors, for a legend."""
        if self.changed is not None:
            return self.changed
        return " · ".join(level_text(value) for value in self.levels.values()) or "all runs"


def group_runs(runs: Sequence[Run]) -> tuple[list[Factor], list[Group]]:
    """The factors, and the groups in their order: first factor slowest; the base of a sweep, where there is one, first,
    then what changes its first factor.
    """
    cells: dict[str, list[Run]] = {}
    for run in runs:
        cells.setdefault(json.dumps(settings(run), sort_keys=True, default=str), []).append(run)
    together = list(cells.values())
    factors = _factors(together)
    levels = [{name: values[index] for name, (values, _) in factors.items()} for index in range(len(together))]
    found = [Factor(name, _ordered(values), keys) for name, (values, keys) in factors.items()]
    based = [at for at, cell in enumerate(together) if any(run.is_base for run in cell)]
    ranks = [[each.levels.index(levels[at][each.name]) for each in found] for at in range(len(together))]
    order = _order(ranks, based[0] if len(based) == 1 else None)
    groups = [
        Group(number, tuple(sorted(together[at], key=lambda run: (run.seed, str(run.folder)))), levels[at])
        for number, at in enumerate(order, start=1)
    ]
    return found, groups


def _order(ranks: Sequence[list[int]], base: int | None) -> list[int]:
    """Of rows with the ranks of their levels."""
    if base is None:
        return sorted(range(len(ranks)), key=lambda at: ranks[at])
    unchanged = [[rank == own for rank, own in zip(row, ranks[base], strict=True)] for row in ranks]
    return sorted(range(len(ranks)), key=lambda at: (at != base, unchanged[at], ranks[at]))


def settings(run: Run) -> dict[str, Any]:
    """What makes the configuration of a run, its seed apart."""
    return {key: value for key, value in run.config.items() if _counts(key)}


def differing_keys(groups: Iterable[Group]) -> list[str]:
    """The keys of config.yaml whose values are not the same in all groups."""
    configs = [settings(group.runs[0]) for group in groups]
    keys = dict.fromkeys(key for config in configs for key in config)
    return [key for key in keys if len({_hashed(config.get(key, ABSENT)) for config in configs}) > 1]


def coarsened(values: Sequence[float]) -> list[str]:
    """The quarter, by rank, that each of many numbers lies in, named by its bounds."""
    ordered = sorted(set(values))
    places = [ordered[min(len(ordered) - 1, len(ordered) * quarter // 4)] for quarter in range(5)]
    quarters = [sum(value >= place for place in places[1:4]) for value in values]
    bounds = {
        quarter: [value for value, own in zip(values, quarters, strict=True) if own == quarter] for quarter in quarters
    }
    return [f"{level_text(min(bounds[quarter]))} to {level_text(max(bounds[quarter]))}" for quarter in quarters]


_Column = tuple[list[Any], tuple[str, ...]]  # the value of each group, and the keys that change with it


def _factors(cells: Sequence[Sequence[Run]]) -> dict[str, _Column]:
    configs = [settings(cell[0]) for cell in cells]
    keys = dict.fromkeys(key for config in configs for key in config)
    columns = {key: [config.get(key, ABSENT) for config in configs] for key in keys}
    columns = {key: values for key, values in columns.items() if len(set(_partition(values))) > 1}
    typed = {name: values for name, values in _typed(cells, columns).items() if len(set(_partition(values))) > 1}
    chosen = _merged(typed)
    while len(set(_joint(chosen.values(), len(cells)))) < len(cells):
        left = [key for key in columns if _separates(columns[key], chosen.values(), len(cells))]
        finest = max(left, key=lambda key: (len(set(_partition(columns[key]))), key.endswith("_target_")))
        chosen[finest] = columns[finest]
    partitions = {key: _partition(values) for key, values in columns.items()}
    return {
        name: (values, tuple(key for key, each in partitions.items() if each == _partition(values)))
        for name, values in chosen.items()
    }


def _typed(cells: Sequence[Sequence[Run]], columns: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """The typed keys with their values: of a key of config.yaml its own, of a group's choice what was typed."""
    names = dict.fromkeys(key for cell in cells for run in cell for key in run.typed if _counts(key))
    typed: dict[str, list[Any]] = {}
    for name in names:
        if name in columns:
            typed[name] = columns[name]
        elif not any(name in run.config for cell in cells for run in cell):
            typed[name] = _choices(cells, name, names)
    return typed


def _choices(cells: Sequence[Sequence[Run]], group: str, typed: Iterable[str]) -> list[str]:
    """What was chosen of a group, also where it was not typed, and what it sets is that of one of the choices."""
    keys = {key for cell in cells for key in settings(cell[0]) if key.startswith(f"{group}.")} - {*typed}
    own = [json.dumps([cell[0].config.get(key) for key in sorted(keys)], default=str) for cell in cells]
    chosen = [next((run.typed[group] for run in cell if group in run.typed), None) for cell in cells]
    known = {what: name for what, name in zip(own, chosen, strict=True) if name is not None} if keys else {}
    return [known.get(what, UNTYPED) if name is None else name for what, name in zip(own, chosen, strict=True)]


def _merged(typed: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """Keys that were swept in step (a paired list) are one factor, `optim.lr & peft.r`."""
    alike: dict[tuple[int, ...], list[str]] = {}
    for name, values in typed.items():
        alike.setdefault(_partition(values), []).append(name)
    merged: dict[str, list[Any]] = {}
    for names in alike.values():
        rows = list(zip(*(typed[name] for name in names), strict=True))
        merged[" & ".join(names)] = [row[0] if len(row) == 1 else " & ".join(map(level_text, row)) for row in rows]
    return merged


def _partition(values: Sequence[Any]) -> tuple[int, ...]:
    """Which values are alike: 0 for the first and its like, then 1, …"""
    places: dict[Hashable, int] = {}
    return tuple(places.setdefault(_hashed(value), len(places)) for value in values)


def _joint(columns: Iterable[Sequence[Any]], count: int) -> list[tuple[Hashable, ...]]:
    rows = list(zip(*(map(_hashed, values) for values in columns), strict=True))
    return rows or [()] * count


def _separates(values: Sequence[Any], chosen: Iterable[Sequence[Any]], count: int) -> bool:
    chosen = list(chosen)
    return len(set(_joint([*chosen, values], count))) > len(set(_joint(chosen, count)))


def _ordered(values: Sequence[Any]) -> tuple[Any, ...]:
    """Numbers by size, everything else as found."""
    levels = list({_hashed(value): value for value in values}.values())
    numbers = all(isinstance(level, (int, float)) and not isinstance(level, bool) for level in levels)
    return tuple(sorted(levels) if numbers else levels)


def _counts(key: str) -> bool:
    return key not in _NO_PART and key.partition(".")[0] not in _NO_SECTION


def is_alike(first: Any, second: Any) -> bool:
    """Whether they are one value: 1 and 1.0 are, 1 and True are not, nor are 1 and "1"."""
    return _hashed(first) == _hashed(second)


def _hashed(value: Any) -> Hashable:
    """1 and True are not alike, nor are 1 and "1"; 1 and 1.0 are."""
    return (isinstance(value, bool), isinstance(value, str), value)
