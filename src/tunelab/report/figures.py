"""The figures of a report, each a function of it: None where there is nothing to draw."""

from collections.abc import Callable
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tunelab.report import factor_figures, trade_offs
from tunelab.report.assembling import Report, Row
from tunelab.report.curves import TRAIN, VALIDATION, band_of
from tunelab.report.drawing import MARKERS, SERIES, SOFT, Drawn, label, panels, powers, save, style
from tunelab.report.variance import SEED

MAX_ROWS = 30  # of the comparison
MAX_CURVES = 6

Drawing = tuple[Figure, str, str]  # with its title and its caption


def draw_all(report: Report, folder: Path) -> dict[str, Drawn]:
    """Draw every figure that there is something for, write its files into `folder`, and give them by name."""
    drawings: dict[str, Callable[[Report], Drawing | None]] = {
        "comparison": comparison,
        "importance": importance,
        "effects": factor_figures.effects,
        "interaction": factor_figures.interaction,
        "curves": curves,
        "parallel": factor_figures.parallel,
        "trade_offs": trade_offs.trade_offs,
    }
    drawn: dict[str, Drawn] = {}
    with style():
        for name, draw in drawings.items():
            if (found := draw(report)) is not None:
                figure, title, caption = found
                drawn[name] = save(figure, folder, name, title, caption)
    return drawn


def comparison(report: Report) -> Drawing | None:
    """A row a configuration, best on top: seeds, mean and interval."""
    shown = report.ranked[:MAX_ROWS]
    if len(report.rows) < 2:
        return None
    figure, (axes,) = panels(1, 0.9 + 0.24 * len(shown))
    for place, row in enumerate(shown):
        _draw_row(axes, report, row, place)
    axes.set_yticks(range(len(shown)), [label(row.group.label) for row in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(report.main.axis)
    what = "mean over seeds with its 95 % interval; faint points are seeds"
    if report.num_seeds == 1:
        what = "one seed each; intervals are over the test examples"
    left = f" The {len(shown)} best of {len(report.rows)}." if len(shown) < len(report.rows) else ""
    return figure, f"Configurations by {report.main.label}", f"{what[0].upper()}{what[1:]}.{left}"


def _draw_row(axes: Axes, report: Report, row: Row, place: int) -> None:
    name, scale = report.main.name, report.main.scale
    spread, standing = row.spreads[name], report.standings.get(name)
    clear = standing is not None and standing.is_clear and standing.best == row.number
    colour = SERIES[1] if clear else SERIES[0]
    if interval := spread.interval or row.over_examples.get(name):
        axes.plot([each * scale for each in interval], [place, place], color=colour, linewidth=1.6, alpha=0.75)
    if spread.count > 1:
        values = [value * scale for value in row.seeds[name].values()]
        axes.plot(values, [place] * len(values), "o", color=SOFT, markersize=3, alpha=0.45, markeredgewidth=0)
    axes.plot([spread.mean * scale], [place], "o", color=colour, markersize=6, markeredgewidth=0)


def importance(report: Report) -> Drawing | None:
    """The share of the variance that each factor and pair explains."""
    analysis = report.analysis
    if analysis is None:
        return None
    terms = sorted(analysis.terms, key=lambda term: -term.share)[:12]
    bars = [(term.name, term.share, term.factors == (SEED,)) for term in terms]
    bars.append(("not explained", analysis.residual_share, True))
    figure, (axes,) = panels(1, 0.8 + 0.26 * len(bars))
    for place, (_, share, is_noise) in enumerate(bars):
        axes.barh(place, 100 * share, height=0.62, color=SOFT if is_noise else SERIES[0], alpha=0.5 if is_noise else 1)
        axes.text(100 * share + 0.8, place, f"{share:.1%}", va="center", color=SOFT, fontsize=8.5)
    axes.set_yticks(range(len(bars)), [label(name) for name, _, _ in bars])
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.set_xlim(0, min(112, 112 * max(share for _, share, _ in bars) + 2))
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(f"% of the variance of {report.main.plain}")
    add = "" if analysis.is_balanced else " The cells are not equally filled, so the shares need not add up to 100 %."
    return figure, "Importance of the factors", f"Sum of squares of each term over the total.{add}"


def curves(report: Report) -> Drawing | None:
    """Training and validation loss over steps, of the best configurations."""
    shown = report.ranked[:MAX_CURVES]
    names = [name for name in (TRAIN, VALIDATION) if any(band_of(row.figures, name) for row in shown)]
    if not names:
        return None
    figure, found = panels(len(names), 3.0, sharex=True)
    for axes, name in zip(found, names, strict=True):
        for place, row in enumerate(shown):
            _draw_band(axes, row, name, place)
        axes.set_title({TRAIN: "training loss", VALIDATION: "validation loss"}[name])
        axes.set_xlabel("step")
        axes.set_ylabel("nats/token" if axes is found[0] else "")
        _logarithmic_where_wide(axes)
    if len(shown) > 1:
        figure.legend(*found[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    left = f" The {len(shown)} best of {len(report.rows)} configurations." if len(shown) < len(report.rows) else ""
    what = "Mean over seeds; bands are one standard deviation" if report.num_seeds > 1 else "One seed each"
    return figure, "Learning curves", f"{what}.{left}"


def _draw_band(axes: Axes, row: Row, name: str, place: int) -> None:
    band, colour = band_of(row.figures, name), SERIES[place % len(SERIES)]
    if band is None:
        return
    every = max(1, len(band.steps) // 8)
    marker = MARKERS[place % len(MARKERS)]
    axes.plot(band.steps, band.means, color=colour, marker=marker, markersize=3.5, markevery=every,
              label=label(row.group.label))  # fmt: skip
    if band.deviations is not None:
        pairs = list(zip(band.means, band.deviations, strict=True))
        low = [max(mean - deviation, mean * 0.05) for mean, deviation in pairs]  # above 0, where the axis has powers
        axes.fill_between(band.steps, low, [sum(pair) for pair in pairs], color=colour, alpha=0.15, linewidth=0)


def _logarithmic_where_wide(axes: Axes) -> None:
    """Losses that fall by more than an order of magnitude are seen at all only on a scale of powers."""
    values = [float(value) for line in axes.get_lines() for value in line.get_ydata()]  # pyright: ignore
    if values and 0 < min(values) < max(values) / 10:
        powers(axes, "y")
