"""The figures of a report, each a function of it: None where there is nothing to draw."""

from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tunelab.report import factor_figures, trade_offs
from tunelab.report.assembling import Report, Row
from tunelab.report.curves import TRAIN, VALIDATION, band_of
from tunelab.report.differences import verdict_of
from tunelab.report.drawing import INK, PAPER, SOFT, Drawn, label, panels, powers, save, style
from tunelab.report.looks import Look, brought_out, looks
from tunelab.report.variance import SEED

MAX_ROWS = 30  # of the comparison

Drawing = tuple[Figure, str, str]  # with its title and its caption


def draw_all(report: Report, folder: Path) -> dict[str, Drawn]:
    """Draw every figure that there is something for, write its files into `folder`, and give them by name."""
    drawings: dict[str, Callable[[Report], Drawing | None]] = {
        "comparison": comparison,
        "changes": changes,
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
    look = looks(report)
    for place, row in enumerate(shown):
        _draw_row(axes, report, row, place, look[row.number])
    _name_rows(axes, shown)
    standing = report.standings.get(report.main.name)
    is_clear = standing is not None and standing.is_clear
    if is_clear:
        axes.get_yticklabels()[0].set_fontweight("bold")
    axes.set_xlabel(report.main.axis)
    what = "mean over seeds with its 95 % interval; faint points are seeds"
    if report.num_seeds == 1:
        what = "one seed each; intervals are over the test examples"
    left = f" The {len(shown)} best of {len(report.rows)}." if len(shown) < len(report.rows) else ""
    left += " Bold: distinguishable from all others." if is_clear else ""
    return figure, f"Configurations by {report.main.label}", f"{what[0].upper()}{what[1:]}.{left}"


def _name_rows(axes: Axes, rows: Sequence[Row]) -> None:
    """A line a row, the first on top."""
    axes.set_yticks(range(len(rows)), [label(row.group.label) for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)


def _draw_row(axes: Axes, report: Report, row: Row, place: int, look: Look) -> None:
    name, scale = report.main.name, report.main.scale
    spread, colour = row.spreads[name], look.colour
    if interval := spread.interval or row.over_examples.get(name):
        axes.plot([each * scale for each in interval], [place, place], color=colour, linewidth=1.6, alpha=0.75)
    if spread.count > 1:
        values = [value * scale for value in row.seeds[name].values()]
        axes.plot(values, [place] * len(values), "o", color=SOFT, markersize=3, alpha=0.45, markeredgewidth=0)
    axes.plot([spread.mean * scale], [place], look.marker, color=colour, markersize=6, markeredgewidth=0)


def changes(report: Report) -> Drawing | None:
    """A row a configuration but the reference: its change by the main metric, with interval and verdict."""
    comparison = report.comparisons.get(report.main.name)
    if report.reference is None or comparison is None or not comparison.p_values_holm:
        return None
    order = sorted(comparison.differences, key=lambda number: -abs(comparison.differences[number].change))
    shown = [row for row in report.rows if row.number in order[:MAX_ROWS]]
    figure, (axes,) = panels(1, 0.9 + 0.24 * len(shown))
    axes.axvline(0, color=SOFT, linewidth=1)
    look, scale = looks(report), report.main.scale
    for place, row in enumerate(shown):
        found, own = comparison.differences[row.number], look[row.number]
        if found.interval:
            axes.plot([each * scale for each in found.interval], [place, place], color=own.colour, linewidth=1.6)
        face = own.colour if verdict_of(report, report.main, row.number).is_clear else PAPER
        axes.plot([found.change * scale], [place], own.marker, color=own.colour, markerfacecolor=face, markersize=6)
    _name_rows(axes, shown)
    axes.set_xlabel(f"change of {report.main.axis}")
    left = f" The {len(shown)} largest of {len(order)}." if len(shown) < len(order) else ""
    what = f"Each less {report.row(report.reference).group.label}: mean difference over seeds with its 95 % interval"
    return figure, "Changes against the reference", f"{what}; filled: distinguishable from it.{left}"


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
        axes.barh(place, 100 * share, height=0.62, color=SOFT if is_noise else INK, alpha=0.5 if is_noise else 0.8)
        axes.text(100 * share + 0.8, place, f"{share:.1%}", va="center", color=SOFT, fontsize=8.5)
    axes.set_yticks(range(len(bars)), [label(name) for name, _, _ in bars])
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.set_xlim(0, min(112, 112 * max(share for _, share, _ in bars) + 2))
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(f"% of the variance of {report.main.plain}")
    add = "" if analysis.is_balanced else " The cells are not equally filled, so the shares need not add up to 100 %."
    return figure, "Importance of the factors", f"Sum of squares of each term over the total.{add}"


def curves(report: Report) -> Drawing | None:
    """Training and validation loss over steps, of the best configurations and the reference."""
    shown, look = brought_out(report), looks(report)
    names = [name for name in (TRAIN, VALIDATION) if any(band_of(row.figures, name) for row in shown)]
    if not names:
        return None
    figure, found = panels(len(names), 3.0, sharex=True)
    for axes, name in zip(found, names, strict=True):
        for row in shown:
            _draw_band(axes, row, name, look[row.number])
        axes.set_title({TRAIN: "training loss", VALIDATION: "validation loss"}[name])
        axes.set_xlabel("step")
        axes.set_ylabel("nats/token" if axes is found[0] else "")
        _logarithmic_where_wide(axes)
    if len(shown) > 1:
        figure.legend(*found[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    best = sum(row in report.ranked[: len(shown)] for row in shown)
    others = f"{best} best of {len(report.rows)} configurations{' and the reference' if best < len(shown) else ''}"
    left = f" The {others}." if len(shown) < len(report.rows) else ""
    what = "Mean over seeds; bands are one standard deviation" if report.num_seeds > 1 else "One seed each"
    return figure, "Learning curves", f"{what}.{left}"


def _draw_band(axes: Axes, row: Row, name: str, look: Look) -> None:
    band, colour = band_of(row.figures, name), look.colour
    if band is None:
        return
    every = max(1, len(band.steps) // 8)
    axes.plot(band.steps, band.means, color=colour, marker=look.marker, markersize=3.5, markevery=every,
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
