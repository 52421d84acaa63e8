"""Quality against what it costs: trainable parameters, time and memory, with the configurations nothing else beats."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tunelab.report.assembling import Report, Row
from tunelab.report.drawing import SOFT, panels, powers
from tunelab.report.looks import looks

COSTS = {
    "trainable_parameters": "trainable parameters",
    "train_seconds": "training time, s",
    "peak_memory_gib": "peak memory, GiB",
}
_LOGARITHMIC = 8  # times between the least and the most, from which an axis has powers
_MAX_NUMBERED = 24


@dataclass(frozen=True, slots=True)
class Point:
    """A configuration: what it costs, and its quality, higher is better."""

    number: int
    cost: float
    quality: float


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """The points that no other equals or beats at no more cost, from the cheapest; of equal ones the first."""
    front: list[Point] = []
    for point in sorted(points, key=lambda each: (each.cost, -each.quality)):
        if not front or point.quality > front[-1].quality:
            front.append(point)
    return front


def points_of(report: Report, cost: str) -> list[Point]:
    """The configurations that say what they cost."""
    sign, name = report.main.sign(), report.main.name
    costs = [(row, getattr(row.budget, cost)) for row in report.rows]
    return [Point(row.number, each, sign * row.spreads[name].mean) for row, each in costs if each is not None]


def trade_offs(report: Report) -> tuple[Figure, str, str] | None:
    """A panel a cost."""
    found = {cost: points_of(report, cost) for cost in COSTS}
    found = {cost: points for cost, points in found.items() if len({point.cost for point in points}) > 1}
    if not found or len(report.rows) < 2:
        return None
    figure, all_axes = panels(len(found), 2.9, sharey=True)
    for axes, (cost, points) in zip(all_axes, found.items(), strict=True):
        _draw(axes, report, points)
        axes.set_xlabel(COSTS[cost])
        axes.set_title(f"by {COSTS[cost].partition(',')[0]}")
    all_axes[0].set_ylabel(report.main.axis.replace(", ", "\n"))
    caption = "Numbers are those of the table. On the line: no configuration is as good at no more cost."
    return figure, "Quality against cost", caption


def front_of(report: Report) -> dict[str, list[Row]]:
    """Cost → the rows on its front, for the text."""
    fronts = {cost: pareto_front(points_of(report, cost)) for cost in COSTS}
    return {COSTS[cost]: [report.row(point.number) for point in front] for cost, front in fronts.items() if front}


def _draw(axes: Axes, report: Report, points: Sequence[Point]) -> None:
    unit = report.main.sign() * report.main.scale
    front = pareto_front(points)
    axes.plot([point.cost for point in front], [point.quality * unit for point in front], color=SOFT,
              drawstyle="steps-post", linewidth=1.2, alpha=0.8)  # fmt: skip
    look = looks(report)
    for point in points:
        own = look[point.number]
        axes.plot([point.cost], [point.quality * unit], own.marker, color=own.colour, markersize=5, markeredgewidth=0)
        if len(points) <= _MAX_NUMBERED:
            axes.annotate(str(point.number), (point.cost, point.quality * unit), (3, 3), textcoords="offset points",
                          fontsize=7.5, color=SOFT)  # fmt: skip
    costs = [point.cost for point in points]
    if min(costs) > 0 and max(costs) > _LOGARITHMIC * min(costs):
        powers(axes, "x")
