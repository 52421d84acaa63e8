"""The HTML pages of a data set: its report with plots, and its examples as the model sees them.

These pages have no scripts. The plots are SVG that the templates draw: they follow the reader's light or dark theme,
and cost no import.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from itertools import groupby
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from tunelab.data import plots
from tunelab.data.inspecting import MAX_TOKEN_CHARACTERS, InspectedExample, InspectedToken
from tunelab.data.reporting import DataReport, SplitReport, spaced, split_figures
from tunelab.escaping import acts, escape, shorten
from tunelab.html import page_environment

_MAX_CHARACTERS = 2000  # of one text, names and sentences


def report_page(report: DataReport) -> str:
    """The data report as an HTML page."""
    splits = {name: split for name, split in report.splits.items() if split.num_examples or split.num_rows}
    quality = {"findings": [], "label_balance": {}, "scripts": {}, "checks": {}, "num_checked": {}, **report.quality}
    return _environment().get_template("report.html.jinja").render(
        report=report,
        quality=quality,
        silent_checks=_silent_checks(quality),
        splits=splits,
        figures=split_figures(list(splits.values())),
        fates={name: _fates(split) for name, split in splits.items()},
        groups=[
            ("Length", _plots(splits, "length_histogram")),
            ("Supervised tokens", _plots(splits, "supervised_histogram")),
        ],
        frame=plots,
    )  # fmt: skip


def inspect_page(
    examples: Sequence[InspectedExample], template: str | None = None, num_available: int | None = None
) -> str:
    """Examples as an HTML page; `num_available` is how many there are, where not all are given."""
    return _environment().get_template("inspect.html.jinja").render(
        examples=examples,
        template=template,
        num_available=len(examples) if num_available is None else num_available,
    )  # fmt: skip


@cache
def _environment() -> Environment:
    environment = page_environment("tunelab.data", _MAX_CHARACTERS)
    filters: dict[str, Any] = {"spaced": spaced, "marked": _marked, "runs": _runs}
    environment.filters.update(filters)
    return environment


def _marked(text: str) -> Markup:
    """The text of a token, with line breaks, tabs and escapes in elements, so that they look like no ordinary text."""
    return Markup().join(_mark(character) for character in shorten(text, MAX_TOKEN_CHARACTERS))


def _mark(character: str) -> str:
    if character in "\n\t":
        return Markup('<i class="{}"></i>{}').format("line" if character == "\n" else "tab", character)
    return Markup('<i class="escape">{}</i>').format(escape(character)) if acts(character) else character


def _runs(tokens: Sequence[InspectedToken]) -> list[tuple[bool, list[InspectedToken]]]:
    return [(trained, list(run)) for trained, run in groupby(tokens, key=lambda token: token.trained)]


def _plots(splits: Mapping[str, SplitReport], field: str) -> list[plots.Plot]:
    bins: dict[str, list[tuple[int, int]]] = {name: getattr(split, field) for name, split in splits.items()}
    greatest = max((each[-1][0] for each in bins.values() if each), default=0)
    return [plots.plot_histogram(name, each, greatest) for name, each in bins.items() if each]


def _fates(split: SplitReport) -> list[tuple[str, str, int, float]]:
    """What became of the examples: (class, label, count, share of all)."""
    fates = [
        ("kept", "kept whole", split.num_kept - split.num_truncated),
        ("truncated", "kept, truncated", split.num_truncated),
        *(("dropped", f"dropped: {spaced(reason)}", count) for reason, count in split.num_dropped.items()),
    ]
    total = sum(count for _, _, count in fates)
    return [(kind, label, count, count / total) for kind, label, count in fates if count > 0]


def _silent_checks(quality: Mapping[str, Any]) -> list[str]:
    """Names of the checks that ran and found nothing."""
    found = {finding["check"] for finding in quality["findings"]}
    return [check for check in quality["checks"] if check not in found]
