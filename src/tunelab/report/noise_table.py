"""The table that a noise study prints: each figure with its deviations, and in words what the same seed gave."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tunelab.report.formatting import decimals_for, fixed, plural
from tunelab.report.metrics import metric_of
from tunelab.report.reading import Run
from tunelab.report.repeats import Deviation, Noise


def show(
    runs: Sequence[Run], study: Mapping[str, Noise], left_out: Mapping[Path, str], seed: int, identical: bool | None
) -> None:
    """Print the table, and in words what the same seed gave."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    for folder, reason in left_out.items():
        console.print(f"left out: {folder.name} ({reason})")
    table = Table(box=None, pad_edge=False)
    table.add_column("metric")
    for column in ("mean", "sd, same seed", "n", "sd, other seeds", "n"):
        table.add_column(column, justify="right")
    for name, each in study.items():
        if metric_of(name).better is not None:
            table.add_row(name, *_columns(each))
    console.print(table)
    count = sum(run.seed == seed for run in runs)
    console.print("[95 % interval of the standard deviation]; n: runs of the seed, and seeds")
    console.print(_of_the_same_seed(seed, count, identical))


def _of_the_same_seed(seed: int, count: int, identical: bool | None) -> str:
    said = f"seed {seed}, {plural(count, 'run')}: "
    if identical is None:
        return said + "too few with weights to compare"
    if identical:
        return said + "bit-identical, adapter and figures; the floor of the same seed is 0"
    return said + "not bit-identical"


def _columns(noise: Noise) -> list[str]:
    both = [each for each in (noise.same_seed, noise.other_seeds) if each]
    decimals = decimals_for([each.value for each in both], [noise.mean])
    return [fixed(noise.mean, decimals), *_cells(noise.same_seed, decimals), *_cells(noise.other_seeds, decimals)]


def _cells(deviation: Deviation | None, decimals: int) -> list[str]:
    if deviation is None:
        return ["–", "–"]
    bounds = deviation.interval
    interval = f" [{', '.join(fixed(bound, decimals) for bound in bounds)}]" if bounds else ""
    value = "0" if not deviation.value else fixed(deviation.value, decimals)
    return [f"{value}{interval}", str(deviation.count)]
