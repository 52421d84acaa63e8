"""`tunelab report`: from run folders to a folder with the page, the tables and the figures."""

import contextlib
import shutil
from collections.abc import Generator, Sequence
from pathlib import Path

from tunelab import atomic
from tunelab.audit import refuse_unread_keys
from tunelab.config import ReportConfig
from tunelab.errors import ConfigError
from tunelab.escaping import printable
from tunelab.folders import complete_folder
from tunelab.report.assembling import Report, assemble
from tunelab.report.differences import summary
from tunelab.report.drawing import Drawn
from tunelab.report.figures import draw_all
from tunelab.report.formatting import shown_path
from tunelab.report.markdown import report_markdown
from tunelab.report.pages import report_page
from tunelab.report.records import report_json, results_csv, table_csv
from tunelab.report.table import cells, claim, recipe
from tunelab.report.tex import table_tex

FOLDER, PAGE, RECORD = "report", "report.html", "report.json"


def report(config: ReportConfig, overrides: Sequence[str]) -> None:
    """Write a report over the runs of `config`, and print where it is and what is to be known of it.

    A report that lies there already is replaced: it holds nothing that the runs do not.

    Raises:
        TunelabError: the runs cannot be reported on, or the folder cannot be written.
    """
    found = assemble(config)
    folder = _folder(config).resolve()
    wants_figures = config.figures
    refuse_unread_keys(config, overrides)
    with _replaced(folder), complete_folder(folder) as staging:
        (staging / "figures").mkdir()
        figures = draw_all(found, staging / "figures") if wants_figures else {}
        _write(found, folder, staging, figures)
    for flag in found.flags:
        print(printable(f"{'warning' if flag.is_warning else 'note'}: {flag.text}"))
    best = found.ranked[0]
    cell = cells(found, best)[0]
    deviation = f" ± {cell.deviation}" if cell.deviation else ""
    said = f" ({claim(found)})" if claim(found) else ""
    print(printable(f"best         {best.group.label}: {found.main.label} {cell.mean}{deviation}{said}"))
    if summary(found):
        print(printable(f"reference    {recipe(found)}"))
        print(f"compared     {summary(found)}")
    print(printable(f"report       {shown_path(folder / PAGE)}"))
    print(printable(f"table        {shown_path(folder / 'table.tex')}"))


def _write(found: Report, folder: Path, staging: Path, figures: dict[str, Drawn]) -> None:
    if not figures:
        (staging / "figures").rmdir()
    atomic.write_text(staging / PAGE, report_page(found, folder, figures))
    atomic.write_text(staging / "report.md", report_markdown(found, folder, figures.values()))
    atomic.write_text(staging / "table.tex", table_tex(found))
    atomic.write_text(staging / "results.csv", results_csv(found, folder))
    atomic.write_text(staging / "table.csv", table_csv(found))
    atomic.write_json(staging / RECORD, report_json(found, folder))


def _folder(config: ReportConfig) -> Path:
    """Where it goes: `to`, else `report` in the only place that was named, if that holds runs and is none itself."""
    if config.to is not None:
        return Path(config.to)
    places = [Path(place) for place in config.runs]
    if len(places) == 1:
        return places[0] / FOLDER
    raise ConfigError(f"to: expected a folder for a report over {len(places)} places, found none; set to=<folder>.")


@contextlib.contextmanager
def _replaced(folder: Path) -> Generator[None]:
    """Put an earlier report out of the way; it comes back where making the new one fails."""
    earlier = folder.with_name(f".{folder.name}.earlier")
    if (folder / RECORD).is_file():
        shutil.rmtree(earlier, ignore_errors=True)
        folder.rename(earlier)
    try:
        yield
    except BaseException:
        if earlier.is_dir() and not folder.exists():
            earlier.rename(folder)
        raise
    shutil.rmtree(earlier, ignore_errors=True)
