"""The table of a report as texts, which the page, the Markdown and the LaTeX file share."""

import os
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tunelab.evaluation.statistics import LEVEL
from tunelab.report.assembling import Report, Row
from tunelab.report.formatting import NOTHING, decimals_for, fixed, level_text, p_text
from tunelab.report.metrics import Metric

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


@dataclass(frozen=True, slots=True)
class DifferenceLine:
    """One configuration against the best of a metric; `examples`, `examples_p` by the other source of noise."""

    row: Row
    change: str
    interval: str
    test: str
    p: str
    p_holm: str
    verdict: str
    noise: str
    examples: str
    examples_p: str


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
    """What to say where the row's difference from the best lies below the noise floor."""
    standing, floor = report.standings.get(metric.name), report.floors.get(metric.name)
    if standing is None or floor is None or row.number not in standing.differences:
        return None
    best = report.row(standing.best).spreads[metric.name]
    return floor.mark(standing.differences[row.number].change, best.count, row.spreads[metric.name].count)


def claim(report: Report) -> str:
    """What may be said of the first row of the ranking against the others; empty where there are none."""
    standing = report.standings.get(report.main.name)
    if len(report.rows) < 2:
        return ""
    if standing is None or standing.p_value is None:
        return "not tested against the others"
    return "clearly better than all others" if standing.is_clear else "not clearly better than all others"


def differences(report: Report, metric: Metric) -> list[DifferenceLine]:
    """Every other configuration against the best of a metric, the nearest first; nothing where none is compared."""
    standing = report.standings.get(metric.name)
    if standing is None:
        return []
    sign = metric.sign()
    order = sorted(standing.differences, key=lambda number: -sign * standing.differences[number].change)
    return [_difference(report, metric, number) for number in order]


def _difference(report: Report, metric: Metric, number: int) -> DifferenceLine:
    standing, row, scale = report.standings[metric.name], report.row(number), metric.scale
    found, adjusted = standing.differences[number], standing.p_values_holm.get(number)
    decimals = decimals_of(report, metric)
    over = report.over_examples.get(number) if metric == report.example_metric else None
    seeds = "pairs of seeds" if (found.test and "pair" in found.test) or found.test == "exact sign flips" else "seeds"
    verdict = "not tested" if adjusted is None else "not distinguishable" if adjusted >= LEVEL else "worse"
    return DifferenceLine(
        row=row,
        change=fixed(found.change * scale, decimals, "+"),
        interval=span([bound * scale for bound in found.interval], decimals, "+") if found.interval else "",
        test=f"{found.test}, {found.count} {seeds}" if found.test else "one seed: none",
        p=p_text(found.p_value),
        p_holm=p_text(adjusted),
        verdict=verdict,
        noise=noise_of(report, row, metric) or "",
        examples=_over_examples(over.change * scale, over.interval, scale, decimals) if over else "",
        examples_p=p_text(over.p_value) if over else "",
    )


def _over_examples(change: float, interval: Sequence[float] | None, scale: float, decimals: int) -> str:
    bounds = f" {span([bound * scale for bound in interval], decimals, '+')}" if interval else ""
    return f"{fixed(change, decimals, '+')}{bounds}"


def factor_texts(report: Report, row: Row) -> list[str]:
    """The value of each factor."""
    return [level_text(row.group.levels[factor.name]) for factor in report.factors]


def relative(folder: Path, start: Path) -> str:
    """The address of a folder, relative to where the report lies, so that both can be moved together."""
    return urllib.parse.quote(os.path.relpath(folder, start).replace(os.sep, "/"))


def reading_notes(report: Report, intervals: bool = True) -> list[str]:
    """How a table, with `intervals` of the means or without, is to be read."""
    seeds = report.num_seeds
    notes = (
        [f"mean ± standard deviation over seeds{'; [95 % t interval of the mean]' if intervals else ''}; n: seeds"]
        if seeds > 1
        else ["one seed: the value and its 95 % interval over the test examples; no statistics over seeds"]
    )
    if report.standings and seeds > 1:
        notes.append(
            "bold: distinguishable from every other row of its column (paired t test by seed, or Welch's; the largest "
            f"p, after Holm's adjustment over the columns, below {LEVEL})"
        )
    if any(noise_of(report, row, metric) for row in report.rows for metric in report.metrics):
        notes.append(f"{BELOW_NOISE}: its difference from the best is below the noise floor")
    if report.budget_note:
        notes.append(report.budget_note)
    return notes
