"""Figures of what the swept factors do: main effects, the strongest interaction, parallel coordinates."""

from collections.abc import Sequence
from statistics import fmean, stdev

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tunelab.report.assembling import Report, Row
from tunelab.report.drawing import INK, MARKERS, PAPER, SERIES, SOFT, WIDTH, label, panels
from tunelab.report.formatting import level_text
from tunelab.report.grouping import Factor
from tunelab.report.looks import looks
from tunelab.report.variance import Effect

MAX_FACTORS = 6
MAX_TICKS = 8
_BEST = 0.1  # share of the runs that parallel coordinates bring out


def effects(report: Report) -> tuple[Figure, str, str] | None:
    """A panel a factor: the mean at each of its levels."""
    if report.analysis is None or not report.analysis.effects:
        return None
    names = list(dict.fromkeys(effect.factor for effect in report.analysis.effects))[:MAX_FACTORS]
    figure, found = panels(len(names), 2.5, sharey=True)
    for axes, name in zip(found, names, strict=True):
        _draw_effect(axes, [each for each in report.analysis.effects if each.factor == name], report)
        axes.set_title(label(name))
    found[0].set_ylabel(report.main.axis.replace(", ", "\n"))
    return (
        figure,
        "Main effects",
        "Mean at each level, the levels of the other factors weighted equally; 95 % intervals.",
    )


def _draw_effect(axes: Axes, found: Sequence[Effect], report: Report) -> None:
    scale, order = report.main.scale, _order(found, report)
    ordered = sorted(found, key=lambda effect: order.index(effect.level))
    places = range(len(ordered))
    if next(factor for factor in report.factors if factor.name == found[0].factor).is_number:
        axes.plot(places, [each.mean * scale for each in ordered], color=INK, alpha=0.35, linewidth=1)
    for place, each in enumerate(ordered):
        axes.plot([place, place], [bound * scale for bound in each.interval], color=INK, linewidth=1.6)
        axes.plot([place], [each.mean * scale], "o", color=INK, markersize=6, markeredgewidth=0)
    _ticks(axes, [str(each.level) for each in ordered])


def _order(found: Sequence[Effect], report: Report) -> list[str]:
    """The levels of a factor as the table has them; those of quartiles from the lowest."""
    factor = next(each for each in report.factors if each.name == found[0].factor)
    texts = [level_text(level) for level in factor.levels]
    levels = [str(effect.level) for effect in found]
    return texts if set(levels) <= set(texts) else sorted(levels, key=lambda text: texts.index(text.split(" to ")[0]))


def interaction(report: Report) -> tuple[Figure, str, str] | None:
    """The pair of factors whose interaction explains most: cell means over one, a line for each level of the other."""
    pairs = [term for term in report.analysis.terms if len(term.factors) == 2] if report.analysis else []
    by_name = {factor.name: factor for factor in report.factors}
    pairs = [pair for pair in pairs if all(len(by_name[name].levels) <= MAX_TICKS for name in pair.factors)]
    if not pairs:
        return None
    strongest = max(pairs, key=lambda term: term.share)
    across, lines = sorted((by_name[name] for name in strongest.factors), key=lambda each: not each.is_number)
    figure, (axes,) = panels(1, 3.0)
    for place, level in enumerate(lines.levels):
        _draw_line(axes, report, (across, lines), place, level)
    _ticks(axes, [level_text(level) for level in across.levels])
    axes.set_xlabel(label(across.name))
    axes.set_ylabel(report.main.axis.replace(", ", "\n"))
    axes.legend(title=label(lines.name), title_fontsize=8.5, loc="center left", bbox_to_anchor=(1.01, 0.5))
    bars = "bars are one standard deviation of the seeds" if len(by_name) == 2 else "over all levels of other factors"
    caption = f"It explains {strongest.share:.1%} of the variance. Cell means, {bars}."
    return figure, f"Interaction of {across.name} and {lines.name}", caption


def _draw_line(axes: Axes, report: Report, factors: tuple[Factor, Factor], place: int, level: object) -> None:
    across, lines = factors
    scale, colour = report.main.scale, SERIES[place % len(SERIES)]
    cells = [
        [
            value * scale
            for row in report.rows
            if row.group.levels[across.name] == at and row.group.levels[lines.name] == level
            for value in row.seeds[report.main.name].values()
        ]
        for at in across.levels
    ]
    shift = 0.06 * (place - (len(lines.levels) - 1) / 2)  # so that bars do not cover each other
    filled = [(at + shift, cell) for at, cell in enumerate(cells) if cell]
    axes.errorbar(
        [at for at, _ in filled],
        [fmean(cell) for _, cell in filled],
        [stdev(cell) if len(cell) > 1 and len(report.factors) == 2 else 0.0 for _, cell in filled],
        color=colour, marker=MARKERS[place % len(MARKERS)], markersize=5, elinewidth=1, label=label(level_text(level)),
    )  # fmt: skip


def parallel(report: Report) -> tuple[Figure, str, str] | None:
    """A line a run through its values of all factors and metrics."""
    factors = report.factors[: MAX_FACTORS + 1]
    if len(factors) < 2 or len(report.rows) < 3:
        return None
    figure = Figure(figsize=(WIDTH, 3.2))
    axes = figure.subplots()
    columns = [*factors, *report.metrics[:2]]
    lines, look = _lines(report, factors), looks(report)
    own = [look[row.number] for row in report.rows for _ in row.seeds[report.main.name]]
    quality = [report.main.sign() * line[len(factors)] for line in lines]
    bound = sorted(quality, reverse=True)[max(0, round(_BEST * len(quality)) - 1)]
    for line, value, each in sorted(zip(_scaled(lines), quality, own, strict=True), key=lambda entry: entry[1]):
        best = value >= bound
        axes.plot(line, color=each.colour, alpha=0.95 if best else 0.35, linewidth=1.8 if best else 0.8)
    _draw_scales(axes, factors, lines)
    axes.set_xticks(range(len(columns)), [label(_name(each)) for each in columns])
    share = f"the best {_BEST:.0%} by {report.main.label}"
    return (
        figure,
        "Parallel coordinates",
        f"A line a run, {share} brought out; each axis runs from its least to its most.",
    )


def _lines(report: Report, factors: Sequence[Factor]) -> list[list[float]]:
    """Of each run its place on every axis: of a factor the rank of its level, of a metric the value."""
    return [
        [
            *(float(factor.levels.index(row.group.levels[factor.name])) for factor in factors),
            *(_at(row, metric.name, seed) * metric.scale for metric in report.metrics[:2]),
        ]
        for row in report.rows
        for seed in row.seeds[report.main.name]
    ]


def _at(row: Row, metric: str, seed: int) -> float:
    return row.seeds[metric][seed] if seed in row.seeds.get(metric, {}) else row.spreads[metric].mean


def _scaled(lines: Sequence[Sequence[float]]) -> list[list[float]]:
    """Every axis to [0, 1]."""
    bounds = [(min(column), max(column)) for column in zip(*lines, strict=True)]
    return [
        [(value - low) / (high - low) if high > low else 0.5 for value, (low, high) in zip(line, bounds, strict=True)]
        for line in lines
    ]


def _draw_scales(axes: Axes, factors: Sequence[Factor], lines: Sequence[Sequence[float]]) -> None:
    for place, column in enumerate(zip(*lines, strict=True)):
        axes.axvline(place, color=SOFT, linewidth=0.8)
        if place < len(factors):
            levels = [level_text(level) for level in factors[place].levels]
            every = max(1, (len(levels) - 1) // 5)
            marks = [(index / max(1, len(levels) - 1), text) for index, text in enumerate(levels) if index % every == 0]
        else:
            low, high = min(column), max(column)
            marks = [(0.0, f"{low:.4g}"), (1.0, f"{high:.4g}")]
        for height, text in marks:
            axes.text(place + 0.03, height, label(text), fontsize=7.5, va="center", color=SOFT,
                      bbox={"facecolor": PAPER, "edgecolor": "none", "alpha": 0.8, "pad": 0.8})  # fmt: skip
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.grid(visible=False)
    axes.set_xlim(-0.15, len(lines[0]) - 0.55)


def _name(column: object) -> str:
    return str(getattr(column, "label", None) or getattr(column, "name", column))


def _ticks(axes: Axes, texts: Sequence[str]) -> None:
    shown = [label(text) for text in texts]
    slanted = sum(map(len, shown)) > 22
    axes.set_xticks(range(len(shown)), shown, rotation=25 if slanted else 0, ha="right" if slanted else "center")
    axes.set_xlim(-0.5, len(shown) - 0.5)
    axes.grid(axis="x", visible=False)
