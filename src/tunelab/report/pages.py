"""report.html: the whole report as one file that loads nothing; its figures follow the reader's light or dark theme."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from markupsafe import Markup

from tunelab.html import page_environment, script
from tunelab.report import differences, table
from tunelab.report.assembling import Report, Row
from tunelab.report.drawing import Drawn
from tunelab.report.formatting import count_text, joined, level_text, p_text, seconds_text
from tunelab.report.grouping import ABSENT, differing_keys, settings
from tunelab.report.metrics import values_of
from tunelab.report.mixing import base_of, code_of, data_of, hardware_of, versions_of
from tunelab.report.reading import Run
from tunelab.report.trade_offs import front_of

_MAX_CHARACTERS = 300  # of one text: names, reasons, values of the configuration


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the runs of a configuration come from, each fact once."""

    data: str
    base: str
    code: str
    versions: str
    hardware: str


def report_page(report: Report, folder: Path, figures: Mapping[str, Drawn]) -> str:
    """The page; `folder` is where it will lie, from which its links lead to the runs."""
    keys = differing_keys([row.group for row in report.rows])
    environment = page_environment("tunelab.report", _MAX_CHARACTERS)
    filters: dict[str, Any] = {
        "count_text": count_text,
        "seconds_text": seconds_text,
        "p_text": p_text,
        "link": lambda path: Markup(table.relative(path, folder)),  # quoted: nothing of it acts
    }
    environment.filters.update(filters)
    element, policy = script(resources.files("tunelab.report").joinpath("html/report.js").read_text("utf-8"))
    return environment.get_template("report.html.jinja").render(
        report=report,
        figures=figures,
        table=table,
        differences=differences,
        origins={row.number: _origin(row.group.runs) for row in report.rows},
        differences_of={row.number: _settings(row, keys) for row in report.rows},
        measured={run.folder: _measured(report, run) for run in report.runs if run.is_finished},
        unfinished=[run for run in report.runs if not run.is_finished],
        fronts=front_of(report),
        script=element,
        policy=policy,
    )  # fmt: skip


def _origin(runs: Sequence[Run]) -> Origin:
    readings = (data_of, base_of, code_of, versions_of, hardware_of)
    return Origin(*(joined(list(dict.fromkeys(map(read, runs)))) for read in readings))


def _settings(row: Row, keys: Sequence[str]) -> list[tuple[str, str]]:
    """The keys that are not the same in all configurations, with their values here."""
    own = settings(row.group.runs[0])
    return [(key, level_text(own.get(key, ABSENT))) for key in keys]


def _measured(report: Report, run: Run) -> list[str]:
    values = values_of(run)
    return [
        table.fixed(
            values[metric.name] * metric.scale if metric.name in values else None, table.decimals_of(report, metric)
        )
        for metric in report.metrics
    ]
