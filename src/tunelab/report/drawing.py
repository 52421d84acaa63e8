"""The look of all figures, and how one drawing becomes three: SVG for the page, PNG and PDF for papers and slides.

On the page the colours are the page's own variables, so that a figure follows the reader's light or dark theme.
"""

import io
import re
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from tunelab.escaping import printable
from tunelab.report.formatting import count_text

INK, SOFT, LINE, PAPER = "#1d2127", "#59616d", "#e2e3df", "#fafaf8"
SERIES = ("#2b6a8c", "#c2562d", "#2f7d4f", "#7a5aa6", "#ad7d0c", "#1f8a8a", "#b0476e", "#6b7280")
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "h")  # with the colours: who cannot tell colours can tell these
_VARIABLES = {INK: "ink", SOFT: "soft", LINE: "line", PAPER: "paper"} | {
    colour: f"series-{index}" for index, colour in enumerate(SERIES)
}
WIDTH = 7.2  # inches
_DPI = 200  # of the PNG files
_MAX_LABEL = 46
_STYLE: Any = {
    "text.parse_math": False,  # a dollar in a configuration is a dollar
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "figure.facecolor": "white",
    "axes.unicode_minus": False,  # in a PDF every character beyond Latin-1 costs another font
    "font.size": 9,
    "axes.edgecolor": LINE,
    "axes.labelcolor": SOFT,
    "axes.titlesize": 9.5,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": SOFT,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.labelcolor": SOFT,
    "lines.linewidth": 1.5,
    "figure.constrained_layout.use": True,
}


@dataclass(frozen=True, slots=True)
class Drawn:
    """A figure in a report. `name`: of its files; `caption` says what is seen, in one or two sentences."""

    name: str
    title: str
    caption: str
    svg: Markup


@contextmanager
def style() -> Generator[None]:
    """Draw within it: fonts, colours and lines of all figures."""
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # shown as a box; the tables have it
        yield


def panels(count: int, height: float, columns: int = 3, **options: Any) -> tuple[Figure, list[Axes]]:
    """A figure with `count` panels, `columns` in a row of `height` inches; for use within `style`."""
    columns = min(count, columns)
    rows = -(-count // columns)
    figure = Figure(figsize=(WIDTH, height * rows))
    axes = figure.subplots(rows, columns, squeeze=False, **options).ravel().tolist()
    for spare in axes[count:]:
        spare.set_axis_off()
    return figure, axes[:count]


def powers(axes: Axes, along: Literal["x", "y"]) -> None:
    """Give an axis a scale of powers, with its numbers written out: text is never read as mathematics here."""
    if along == "x":
        axes.set_xscale("log")
    else:
        axes.set_yscale("log")
    axis = axes.xaxis if along == "x" else axes.yaxis
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}" if value < 1e4 else count_text(value)))
    axis.set_minor_formatter(NullFormatter())


def label(text: str) -> str:
    """A text that fits beside a figure: nothing in it acts, its middle is left out where it is long."""
    shown = printable(text)
    half = _MAX_LABEL // 2
    return shown if len(shown) <= _MAX_LABEL else f"{shown[:half]}…{shown[-half:]}"


def save(figure: Figure, folder: Path, name: str, title: str, caption: str) -> Drawn:
    """Write `<name>.png` and `<name>.pdf` into `folder`, and give what the page shows.

    The canvases are asked directly: `Figure.savefig` would lay out and draw once more for each.
    """
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    with (folder / f"{name}.pdf").open("wb") as file:
        FigureCanvasPdf(figure).print_pdf(file, metadata={"CreationDate": None})
    figure.set_dpi(_DPI)
    FigureCanvasAgg(figure).print_png(str(folder / f"{name}.png"))
    for patch in (figure.patch, *(axes.patch for axes in figure.axes)):
        patch.set_visible(False)  # the page's own paper
    text = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name}):
        FigureCanvasSVG(figure).print_svg(text, metadata={"Date": None})
    return Drawn(name, title, caption, _for_page(text.getvalue(), name, title))


def _for_page(svg: str, name: str, title: str) -> Markup:
    """The drawing as an element of a page: without what would reach beyond it, in the page's colours and fonts."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<svg ([^>]*?)width="[^"]*"', r"<svg \1", re.sub(r'(<svg [^>]*?)height="[^"]*"', r"\1", svg, count=1))
    svg = re.sub(r"(font(?:-family)?: [^;\"]*?)'DejaVu Sans'[^;\"]*", r"\1system-ui, 'DejaVu Sans', sans-serif", svg)
    svg = re.sub(r"(\bid=\"|url\(#|href=\"#)", rf"\g<1>{name}-", svg)
    svg = re.sub(r"#[0-9a-f]{6}\b", lambda found: _variable(found[0]), svg)
    return Markup(svg.replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1))


def _variable(colour: str) -> str:
    name = _VARIABLES.get(colour)
    return f"var(--{name})" if name else colour
