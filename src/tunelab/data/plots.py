"""Where the bars and ticks of a histogram lie in a drawing, for the page to draw as SVG."""

from collections.abc import Sequence
from dataclasses import dataclass

from tunelab.data.reporting import round_step

WIDTH, HEIGHT = 400, 200
LEFT, RIGHT, TOP, BOTTOM = 48, 390, 14, 160  # edges of the bars' area
_MAX_TICKS = 6


@dataclass(frozen=True, slots=True)
class Bar:
    """One bin: its place in the drawing and the figures it stands for."""

    x: float
    y: float
    width: float
    height: float
    bounds: str  # "51–100"
    count: int


@dataclass(frozen=True, slots=True)
class Plot:
    """A histogram as bars, and ticks as (place, label)."""

    title: str
    bars: list[Bar]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    summary: str


def plot_histogram(title: str, bins: Sequence[tuple[int, int]], greatest: int) -> Plot:
    """Lay out the bins of `histogram` (not none) on an x axis from 0 to `greatest`, which plots side by side share."""
    width = bins[0][0]
    most = max(count for _, count in bins)
    top = round_step(most, _MAX_TICKS) * -(-most // round_step(most, _MAX_TICKS))
    bars = [
        Bar(
            x=_x(bound - width, greatest),
            y=_y(count, top),
            width=_x(bound, greatest) - _x(bound - width, greatest),
            height=BOTTOM - _y(count, top),
            bounds=_bounds(bound, width),
            count=count,
        )
        for bound, count in bins
    ]
    return Plot(
        title=title,
        bars=bars,
        x_ticks=[(_x(value, greatest), f"{value:,}") for value in _ticks(greatest)],
        y_ticks=[(_y(value, top), f"{value:,}") for value in _ticks(top)],
        summary=_summary(bars),
    )


def _summary(bars: Sequence[Bar]) -> str:
    total = sum(bar.count for bar in bars)
    most = max(bars, key=lambda bar: bar.count)
    first = next(bar for bar in bars if bar.count)
    return (
        f"{total:,} examples; the most, {most.count:,}, have {most.bounds} tokens; "
        f"the shortest {first.bounds}, the longest {bars[-1].bounds}"
    )


def _bounds(bound: int, width: int) -> str:
    first = bound - width + (bound > width)  # the first bin takes 0 too
    return f"{bound:,}" if first == bound else f"{first:,}–{bound:,}"


def _ticks(greatest: int) -> range:
    return range(0, greatest + 1, round_step(greatest, _MAX_TICKS))


def _x(tokens: int, greatest: int) -> float:
    return round(LEFT + (RIGHT - LEFT) * tokens / greatest, 2)


def _y(count: int, top: int) -> float:
    return round(BOTTOM - (BOTTOM - TOP) * count / top, 2)
