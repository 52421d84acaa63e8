"""The noise floor: how much a figure moves when nothing changes but the luck of a run, with the same seed or another.

It comes from a noise study (noise.json beside the runs), and from the runs themselves where a configuration was run
twice with the same seed.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, variance
from typing import Any

from tunelab.errors import DataError
from tunelab.report.grouping import Group
from tunelab.report.metrics import Metric, values_of

FILE = "noise.json"
_QUANTILE = 1.959963984540054  # 95 %, two-sided: the deviations are taken as known


@dataclass(frozen=True, slots=True)
class Floor:
    """Standard deviations of one figure: between runs of the same seed, and between seeds; None where not known."""

    same_seed: float | None
    other_seeds: float | None
    source: str

    def mark(self, change: float, first_count: int, second_count: int) -> str | None:
        """What to say of a difference of two means over so many runs that lies below a floor; None above both.

        The floor of a difference is 1.96 · deviation · √(1/n₁ + 1/n₂).
        """
        factor = _QUANTILE * math.sqrt(1 / first_count + 1 / second_count)
        if self.same_seed is not None and abs(change) < factor * self.same_seed:
            return "below the noise of repeating the same seed"
        if self.other_seeds is not None and abs(change) < factor * self.other_seeds:
            return "below the noise of other seeds"
        return None


def read_floors(named: str | None, places: Sequence[str]) -> dict[str, Floor]:
    """The floors of a noise study, metric → floor: of the file or folder that is named, else of the places.

    Raises:
        DataError: the file that was named is missing, or one is damaged.
    """
    paths = [Path(named)] if named is not None else [Path(place) for place in places]
    files = [path / FILE if path.is_dir() else path for path in paths]
    if named is not None and not files[0].is_file():
        raise DataError(f"noise: expected {FILE} of a noise study, found no {str(files[0])!r}; set noise=<its folder>.")
    floors: dict[str, Floor] = {}
    for file in files:
        if file.name == FILE and file.is_file():
            floors |= {name: each for name, each in _read(file).items() if _is_wider(each, floors.get(name))}
    return floors


def floors_of_runs(groups: Sequence[Group], metrics: Sequence[Metric]) -> dict[str, Floor]:
    """The floors that the runs themselves show: pooled variances of those of one configuration and seed."""
    floors: dict[str, Floor] = {}
    for metric in metrics:
        repeats = _repeats(groups, metric)
        if any(len(values) > 1 for cells in repeats for values in cells):
            same, _ = pooled([values for cells in repeats for values in cells])
            other, _ = pooled([[fmean(values) for values in cells] for cells in repeats])
            floors[metric.name] = Floor(same, other, "repeated runs of this report")
    return floors


def _repeats(groups: Sequence[Group], metric: Metric) -> list[list[list[float]]]:
    """Group → seed → the values of its runs."""
    found: list[list[list[float]]] = []
    for group in groups:
        cells: dict[int, list[float]] = {}
        for run in group.runs:
            if metric.name in (values := values_of(run)):
                cells.setdefault(run.seed, []).append(values[metric.name])
        found.append(list(cells.values()))
    return found


def pooled(samples: Sequence[Sequence[float]]) -> tuple[float | None, int]:
    """The standard deviation within samples, from their pooled variances, and its degrees of freedom; None without."""
    parts = [((len(sample) - 1), variance(sample)) for sample in samples if len(sample) > 1]
    degrees = sum(own for own, _ in parts)
    return math.sqrt(sum(own * each for own, each in parts) / degrees) if degrees else None, degrees


def _read(file: Path) -> dict[str, Floor]:
    try:
        source = f"{file.resolve().parent.name}/{file.name}"
        content: dict[str, dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
        return {
            name: Floor(_number(found.get("same_seed")), _number(found.get("other_seeds")), source)
            for name, found in content.items()
            if isinstance(found, dict)  # pyright: ignore[reportUnnecessaryIsInstance] (a file's content)
        }
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DataError(
            f'{file}: expected {{"<metric>": {{"same_seed": sd, "other_seeds": sd, "n": runs}}}}, found something '
            "else; make it again, or set noise=<another>."
        ) from error


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _is_wider(floor: Floor, known: Floor | None) -> bool:
    """Of two studies the one that found more noise holds."""
    return known is None or (floor.other_seeds or 0.0) >= (known.other_seeds or 0.0)
