"""The table that is to be reproduced: its rows with their runs and its metrics, from a report or from run folders."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from statistics import fmean
from typing import Any

from tunelab.errors import ConfigError, DataError
from tunelab.report.grouping import group_runs
from tunelab.report.metrics import choose_metrics, values_of
from tunelab.report.reading import Run, find_runs, read_run
from tunelab.report.reference import assigned

RECORD = "report.json"


@dataclass(frozen=True, slots=True)
class PublishedRow:
    """A configuration of the table, by its number, with its finished runs."""

    number: int
    label: str
    runs: tuple[Run, ...]


@dataclass(frozen=True, slots=True)
class Published:
    """A table. `place`: the sweep or the folder of runs that it is over."""

    place: Path
    rows: tuple[PublishedRow, ...]
    metrics: tuple[str, ...]


def read_published(places: Sequence[str], metrics: Sequence[str]) -> Published:
    """The table of a report, or that which a report over `places` would have.

    Raises:
        ConfigError: there are no runs, or a metric was asked for that they do not have.
        DataError: the report is damaged, its runs are gone, or none of the runs has finished.
    """
    if len(places) == 1 and (Path(places[0]) / RECORD).is_file():
        return _of_report(Path(places[0]), metrics)
    folders, _ = find_runs(places)
    runs = [run for run in map(read_run, folders) if run.is_finished and values_of(run)]
    if not runs:
        raise DataError(f"runs: expected finished runs with results, found none of {len(folders)}; wait for their end.")
    chosen = choose_metrics([values_of(run) for run in runs], metrics, ())
    _, groups = group_runs(sorted(runs, key=lambda run: str(run.provenance.get("started", ""))))
    rows = tuple(PublishedRow(group.number, _label(group.levels), group.runs) for group in groups)
    return Published(_holder(Path(places[0])), rows, tuple(metric.name for metric in chosen))


def chosen_runs(table: Published, numbers: Sequence[int], most: int | None) -> list[tuple[PublishedRow, Run]]:
    """The runs of the rows that are asked for, the first of each row before the second of any.

    Raises:
        ConfigError: a row was asked for that the table does not have.
    """
    known = [row.number for row in table.rows]
    missing = [number for number in numbers if number not in known]
    if missing:
        raise ConfigError(f"rows: expected numbers of the table's rows ({known}), found {missing[0]}; set rows=[<#>].")
    rows = [row for row in table.rows if row.number in numbers or not numbers]
    turns = zip_longest(*([(row, run) for run in row.runs] for row in rows))
    return [each for turn in turns for each in turn if each is not None][:most]


def _of_report(folder: Path, metrics: Sequence[str]) -> Published:
    try:
        content: Mapping[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        named = [str(metric["name"]) for metric in content["metrics"]]
        rows = tuple(_row(folder, entry) for entry in content["configurations"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{folder / RECORD}: expected what tunelab report writes, found another content; report again."
        ) from error
    runs = [run for row in rows for run in row.runs]
    gone = next((run for run in runs if not run.is_finished), None)
    if gone is not None:
        raise DataError(
            f"runs: expected the runs of the report where it says, found none finished in {str(gone.folder)!r}; put "
            "them back, or report again."
        )
    for row, entry in zip(rows, content["configurations"], strict=True):
        _require_as_printed(row, entry.get("values", {}), folder)
    if metrics:
        named = [metric.name for metric in choose_metrics([values_of(run) for run in runs], metrics, ())]
    return Published(_holder(folder), rows, tuple(named))


def _row(folder: Path, entry: Mapping[str, Any]) -> PublishedRow:
    runs = tuple(read_run((folder / each["folder"]).resolve()) for each in entry["runs"])
    return PublishedRow(int(entry["number"]), _label(entry["levels"]), runs)


def _label(levels: Mapping[str, Any]) -> str:
    return " ".join(assigned(name, value) for name, value in levels.items()) or "all runs"


def _require_as_printed(row: PublishedRow, printed: Mapping[str, Mapping[str, float]], folder: Path) -> None:
    """Raise a DataError where the runs do not say what the report says: it is not the report that would be judged."""
    now = values_by_seed(row.runs)
    for name, seeds in printed.items():
        for seed, value in seeds.items():
            found = now.get(name, {}).get(int(seed))
            if found is None or not math.isclose(found, value, rel_tol=1e-12):
                places = ", ".join(repr(str(run.folder)) for run in row.runs if run.seed == int(seed))
                raise DataError(
                    f"runs: expected {name} {value} of seed {seed} as the report in {str(folder)!r} has it, found "
                    f"{found} in {places or 'no run'}: measured or run again since; report again, and reproduce that."
                )


def values_by_seed(runs: Sequence[Run]) -> dict[str, dict[int, float]]:
    """Metric → seed → value; a seed that was run twice counts once, with its mean."""
    found: dict[str, dict[int, list[float]]] = {}
    for run in runs:
        for name, value in values_of(run).items():
            found.setdefault(name, {}).setdefault(run.seed, []).append(value)
    return {name: {seed: fmean(values) for seed, values in seeds.items()} for name, seeds in found.items()}


def _holder(place: Path) -> Path:
    """The sweep that a report or a job lies in, else the place itself: what is written beside it is no run of it."""
    place = place.resolve()
    return next((folder for folder in (place, *place.parents[:2]) if (folder / "sweep.json").is_file()), place)
