"""The table of a report as texts, which the page, the Markdown and the LaTeX file share."""

import os
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tunelab.evaluation.statistics import LEVEL
from tunelab.report.assembling import Report, Row
from tunelab.report.formatting import NOTHING, decimals_for, fixed, level_text
from tunelab.report.metrics import Metric
from tunelab.report.reference import RECIPE, assigned

BELOW_NOISE = "†"


@dataclass(frozen=True, slots=True)
class Cell:
    """One figure: `91.3 ± 0.4`, `[90.1, 92.5]`. `is_best`: distinguishable from all others; `mark`: below the noise."""

    mean: str
    deviation: str = ""
    interval: str = ""
    count: int = 0
    is_best: bool = False
    mark: str = ""


def cells(report: Report, row: Row) -> list[Cell]:
    """The figures of a row, a metric each."""
    return [_cell(report, row, metric) for metric in report.metrics]


def _cell(report: Report, row: Row, metric: Metric) -> Cell:
    spread = row.spreads.get(metric.name)
    if spread is None:
        return Cell(NOTHING)
    decimals, scale = decimals_of(report, metric), metric.scale
    interval = spread.interval or row.over_examples.get(metric.name)
    standing = report.standings.get(metric.name)
    deviation = "" if spread.deviation is None else fixed(spread.deviation * scale, decimals)
    return Cell(
        mean=fixed(spread.mean * scale, decimals),
        deviation=deviation,
        interval=span([bound * scale for bound in interval], decimals) if interval else "",
        count=spread.count,
        is_best=standing is not None and standing.is_clear and standing.best == row.number,
        mark=BELOW_NOISE if noise_of(report, row, metric) else "",
    )


def decimals_of(report: Report, metric: Metric) -> int:
    """Those of a column."""
    spreads = [row.spreads[metric.name] for row in report.rows if metric.name in row.spreads]
    deviations = [each.deviation * metric.scale for each in spreads if each.deviation is not None]
    return decimals_for(deviations, [each.mean * metric.scale for each in spreads])


def span(bounds: Sequence[float], decimals: int, sign: str = "") -> str:
    """`[90.1, 92.5]`."""
    return f"[{', '.join(fixed(bound, decimals, sign) for bound in bounds)}]"


def noise_of(report: Report, row: Row, metric: Metric) -> str | None:
    """What to say where the row's difference from the reference, or the best, lies below the noise floor."""
    comparison, floor = report.comparisons.get(metric.name), report.floors.get(metric.name)
    if comparison is None or floor is None or row.number not in comparison.differences:
        return None
    count = report.row(comparison.to).spreads[metric.name].count
    return floor.mark(comparison.differences[row.number].change, count, row.spreads[metric.name].count)


def claim(report: Report) -> str:
    """What may be said of the first row of the ranking against the others; empty where there are none."""
    standing = report.standings.get(report.main.name)
    if len(report.rows) < 2:
        return ""
    if standing is None or standing.p_value is None:
        return "not tested against the others"
    return "clearly better than all others" if standing.is_clear else "not clearly better than all others"


def factor_heads(report: Report) -> list[str]:
    """Of the first columns: what each row changes, or the factors."""
    return ["changed"] if report.changes_one_thing else [factor.name for factor in report.factors]


def factor_texts(report: Report, row: Row) -> list[str]:
    """What it changes, or the value of each factor."""
    if report.changes_one_thing:
        return [row.group.label]
    return [level_text(row.group.levels[factor.name]) for factor in report.factors]


def recipe(report: Report) -> str:
    """The reference in words: the row, its factors and their values; empty where there is none."""
    if report.reference is None:
        return ""
    levels = report.row(report.reference).group.levels
    texts = ", ".join(assigned(name, level) for name, level in levels.items()) or "all runs"
    return f"{RECIPE if report.changes_one_thing else 'the reference'} (row {report.reference}): {texts}"


def relative(folder: Path, start: Path) -> str:
    """The address of a folder, relative to where the report lies, so that both can be moved together."""
    return urllib.parse.quote(os.path.relpath(folder, start).replace(os.sep, "/"))


def reading_notes(report: Report, tested: str = "the verdict") -> list[str]:
    """How a table is to be read; `tested` is how it shows what came of a test against the reference."""
    seeds = report.num_seeds
    notes = (
        ["mean ± standard deviation over seeds; [95 % t interval of the mean]; n: seeds"]
        if seeds > 1
        else ["one seed: the value and its 95 % interval over the test examples; no statistics over seeds"]
    )
    if report.reference is not None:
        notes.append(recipe(report))
        if report.comparisons:
            notes.append(_change_note(seeds, tested))
    if report.standings and seeds > 1:
        notes.append(
            "bold: distinguishable from every other row of its column (paired t test by seed, or Welch's; the largest "
            f"p, after Holm's adjustment over the columns, below {LEVEL})"
        )
    if any(noise_of(report, row, metric) for row in report.rows for metric in report.metrics):
        of = "best" if report.reference is None else "reference"
        notes.append(f"{BELOW_NOISE}: its difference from the {of} is below the noise floor")
    if report.budget_note:
        notes.append(report.budget_note)
    return notes


def _change_note(seeds: int, tested: str) -> str:
    if seeds == 1:
        return "change: less the reference, not tested"
    return (
        f"change: less the reference, mean difference [95 % interval, not adjusted]; {tested}: distinguishable "
        f"from it (p after Holm's adjustment over the rows below {LEVEL})"
    )
