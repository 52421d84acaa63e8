"""The differences of a report as texts: every row against the reference, or where there is none against the best."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from tunelab.evaluation.statistics import LEVEL
from tunelab.report.assembling import Report, Row
from tunelab.report.formatting import fixed, p_text, plural
from tunelab.report.metrics import Metric
from tunelab.report.table import decimals_of, noise_of, span


class Verdict(StrEnum):
    """What a test says of a row against another."""

    better = "better"
    worse = "worse"
    open = "not distinguishable"
    untested = "not tested"

    @property
    def is_clear(self) -> bool:
        """Whether the rows are distinguishable."""
        return self in (Verdict.better, Verdict.worse)


@dataclass(frozen=True, slots=True)
class DifferenceLine:
    """One row less another by a metric; `examples`, `examples_p` by the other source of noise."""

    row: Row
    change: str
    interval: str
    test: str
    p: str
    p_holm: str
    verdict: Verdict
    noise: str
    examples: str
    examples_p: str


def verdict_of(report: Report, metric: Metric, number: int) -> Verdict:
    """Of a row against the reference or the best: by p after Holm's adjustment over the rows."""
    comparison = report.comparisons[metric.name]
    adjusted = comparison.p_values_holm.get(number)
    if adjusted is None:
        return Verdict.untested
    if adjusted >= LEVEL:
        return Verdict.open
    return Verdict.better if metric.sign() * comparison.differences[number].change > 0 else Verdict.worse


def differences(report: Report, metric: Metric) -> list[DifferenceLine]:
    """Every other row, as in the table against a reference, else the nearest to the best first; none: not compared."""
    comparison = report.comparisons.get(metric.name)
    if comparison is None:
        return []
    order = [row.number for row in report.rows if row.number in comparison.differences]
    if report.reference is None:
        order.sort(key=lambda number: -metric.sign() * comparison.differences[number].change)
    return [_line(report, metric, number) for number in order]


def against_reference(report: Report, row: Row, metric: Metric) -> DifferenceLine | None:
    """The row less the reference; None where there is no reference, and of itself."""
    comparison = report.comparisons.get(metric.name)
    if report.reference is None or comparison is None or row.number not in comparison.differences:
        return None
    return _line(report, metric, row.number)


def shows_change(report: Report, metric: Metric) -> bool:
    """Whether the table has a column for the change of this metric against the reference."""
    return report.reference is not None and metric.name in report.comparisons


def summary(report: Report) -> str:
    """`of 6 others by test loss: 1 better, 2 worse, 3 not distinguishable`; empty without a reference."""
    if not shows_change(report, report.main):
        return ""
    numbers = report.comparisons[report.main.name].differences
    counts = Counter(verdict_of(report, report.main, number) for number in numbers)
    said = ", ".join(f"{counts[verdict]} {verdict}" for verdict in Verdict if counts[verdict])
    return f"of {plural(len(numbers), 'other')} by {report.main.plain}: {said}"


def _line(report: Report, metric: Metric, number: int) -> DifferenceLine:
    comparison, row, scale = report.comparisons[metric.name], report.row(number), metric.scale
    found, decimals = comparison.differences[number], decimals_of(report, metric)
    over = report.over_examples.get(number) if metric == report.example_metric else None
    seeds = "pairs of seeds" if (found.test and "pair" in found.test) or found.test == "exact sign flips" else "seeds"
    return DifferenceLine(
        row=row,
        change=fixed(found.change * scale, decimals, "+"),
        interval=span([bound * scale for bound in found.interval], decimals, "+") if found.interval else "",
        test=f"{found.test}, {found.count} {seeds}" if found.test else "one seed: none",
        p=p_text(found.p_value),
        p_holm=p_text(comparison.p_values_holm.get(number)),
        verdict=verdict_of(report, metric, number),
        noise=noise_of(report, row, metric) or "",
        examples=_over_examples(over.change * scale, over.interval, scale, decimals) if over else "",
        examples_p=p_text(over.p_value) if over else "",
    )


def _over_examples(change: float, interval: Sequence[float] | None, scale: float, decimals: int) -> str:
    bounds = f" {span([bound * scale for bound in interval], decimals, '+')}" if interval else ""
    return f"{fixed(change, decimals, '+')}{bounds}"
