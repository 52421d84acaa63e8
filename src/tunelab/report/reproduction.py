"""A reproduction put together: every run and every figure of the table, before and now; as JSON and as Markdown."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunelab.report.agreement import Figure, Scale, Verdict, judge, scales, worst
from tunelab.report.formatting import decimals_for, fixed
from tunelab.report.metrics import values_of
from tunelab.report.noise import Floor
from tunelab.report.published import Published, PublishedRow, values_by_seed
from tunelab.report.reading import Run

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Again:
    """A run and what it gave when it was done again. `same_weights`: None where one of them has none."""

    row: PublishedRow
    before: Run
    now: Run
    values: Mapping[str, float]
    same_weights: bool | None


@dataclass(frozen=True, slots=True)
class ComparedRun:
    """A run with its figures, metric → before and now."""

    again: Again
    figures: Mapping[str, Figure]
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Cell:
    """One figure of the table: the mean over the runs of its row that were done again."""

    row: PublishedRow
    metric: str
    count: int
    figure: Figure


@dataclass(frozen=True, slots=True)
class Reproduction:
    """Everything that was found."""

    table: Published
    runs: tuple[ComparedRun, ...]
    cells: tuple[Cell, ...]
    scales: Mapping[str, Scale]


def compare(table: Published, again: Sequence[Again], floors: Mapping[str, Floor]) -> Reproduction:
    """Judge every run and every figure; figures that a run does not have are no part of it."""
    known = scales(table.metrics, floors, (values_by_seed(row.runs) for row in table.rows))
    shown = [(each, [name for name in table.metrics if name in values_of(each.before)]) for each in again]
    total = sum(len(names) for _, names in shown)
    runs = tuple(_compared(each, names, known, total) for each, names in shown)
    groups = {
        (row.number, name): [run for run in runs if run.again.row.number == row.number and name in run.figures]
        for row in table.rows
        for name in table.metrics
    }
    filled = {key: group for key, group in groups.items() if group}
    cells = tuple(_cell(group, name, known, len(filled)) for (_, name), group in filled.items())
    return Reproduction(table, runs, cells, known)


def reproduction_json(found: Reproduction, folder: Path) -> dict[str, Any]:
    """For programs; folders are relative to `folder`."""
    return {
        "schema_version": SCHEMA_VERSION,
        "agrees": all(cell.figure.verdict.agrees for cell in found.cells),
        "judged_by": {
            name: {"deviation": each.deviation, "degrees_of_freedom": each.degrees, "source": each.source}
            for name, each in found.scales.items()
        },
        "figures": [
            {"row": cell.row.number, "metric": cell.metric, "num_runs": cell.count, **_plain(cell.figure)}
            for cell in found.cells
        ],
        "runs": [
            {
                "row": run.again.row.number,
                "seed": run.again.before.seed,
                "before": os.path.relpath(run.again.before.folder, folder.resolve()),
                "now": os.path.relpath(run.again.now.folder.resolve(), folder.resolve()),
                "status": run.again.now.status,
                "reason": run.again.now.reason,
                "same_weights": run.again.same_weights,
                "verdict": run.verdict.value,
                "figures": {name: _plain(figure) for name, figure in run.figures.items()},
            }
            for run in found.runs
        ],
    }


def reproduction_markdown(found: Reproduction, changes: Sequence[str]) -> str:
    """The same to be read: what is not as it was, the figures, the runs."""
    parts = [f"# {found.table.place.name}, done again", *_as_list(changes)]
    parts += ["", "| # | configuration | metric | n | before | now | change | noise allows | |", "|" + "---|" * 9]
    for name in found.table.metrics:
        own = [cell for cell in found.cells if cell.metric == name]
        decimals = _decimals([cell.figure for cell in own])
        parts += [_cell_line(cell, decimals) for cell in own]
    parts += ["", *(_judged(name, scale) for name, scale in found.scales.items())]
    parts += ["", "| run | configuration | seed | adapter | |", "|" + "---|" * 5]
    parts += [_run_line(run) for run in found.runs]
    return "\n".join(parts) + "\n"


def _as_list(changes: Sequence[str]) -> list[str]:
    """Lines as a list of Markdown."""
    return ["", *(f"- {_literal(line)}" for line in changes)]


def _compared(each: Again, names: Sequence[str], known: Mapping[str, Scale], total: int) -> ComparedRun:
    before = values_of(each.before)
    figures = {name: judge([before[name]], [each.values.get(name)], known.get(name), total) for name in names}
    verdict = worst([figure.verdict for figure in figures.values()] or [Verdict.missing])
    if verdict is Verdict.equal and each.same_weights:
        verdict = Verdict.identical
    return ComparedRun(each, figures, verdict)


def _cell(runs: Sequence[ComparedRun], name: str, known: Mapping[str, Scale], total: int) -> Cell:
    figures = [run.figures[name] for run in runs]
    judged = judge([each.before for each in figures], [each.now for each in figures], known.get(name), total)
    return Cell(runs[0].again.row, name, len(runs), judged)


def _plain(figure: Figure) -> dict[str, Any]:
    return {
        "before": figure.before,
        "now": figure.now,
        "change": figure.change,
        "noise_allows": figure.tolerance,
        "verdict": figure.verdict.value,
    }


def _decimals(figures: Sequence[Figure]) -> int:
    changes = [abs(figure.change) for figure in figures if figure.change]
    return decimals_for(changes, [figure.before for figure in figures])


def _cell_line(cell: Cell, decimals: int) -> str:
    figure = cell.figure
    numbers = [fixed(figure.before, decimals), fixed(figure.now, decimals), fixed(figure.change, decimals, "+")]
    allowed = fixed(figure.tolerance, decimals)
    texts = [str(cell.row.number), _literal(cell.row.label), cell.metric, str(cell.count), *numbers, allowed]
    return f"| {' | '.join([*texts, figure.verdict.value])} |"


def _judged(name: str, scale: Scale) -> str:
    known = "" if scale.degrees is None else f", {scale.degrees} degrees of freedom"
    return f"- {name}: judged by a standard deviation of {scale.deviation:.3g} ({scale.source}{known})"


def _run_line(run: ComparedRun) -> str:
    again = run.again
    adapter = {True: "bit-equal", False: "other bits", None: "–"}[again.same_weights]
    why = f": {again.now.reason}" if again.now.reason else ""
    texts = [_literal(again.before.folder.name), _literal(again.row.label), str(again.before.seed), adapter]
    return f"| {' | '.join([*texts, run.verdict.value + _literal(why)])} |"


def _literal(text: str) -> str:
    """Nothing in it is markup of a table."""
    return text.replace("|", "\\|").replace("\n", " ")
