"""The report for programs: results.csv, a row a run with everything, and report.json, the table with its runs."""

import csv
import io
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tunelab.escaping import spreadsheet_text
from tunelab.report.assembling import Report, Row
from tunelab.report.budget import budget_of
from tunelab.report.grouping import settings
from tunelab.report.mixing import base_of, code_of, data_of, versions_of
from tunelab.report.reading import Run

SCHEMA_VERSION = 1


def results_csv(report: Report, folder: Path) -> str:
    """A row a run, finished or not: where it is, how it ended, what it measured and took, and its configuration."""
    places = {run.folder: (row, index) for row in report.rows for index, run in enumerate(row.group.runs)}
    records = [_record(run, places.get(run.folder), folder) for run in report.runs]
    columns = dict.fromkeys(name for record in records for name in record)
    ordered = sorted(columns, key=lambda name: name.startswith("config."))  # stable: the configuration comes last
    text = io.StringIO()
    writer = csv.DictWriter(text, ordered, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(_cells(record) for record in records)
    return text.getvalue()


def _record(run: Run, place: tuple[Row, int] | None, folder: Path) -> dict[str, Any]:
    peak = place[0].figures[place[1]].peak_memory_gib if place else None
    origin = {"data": data_of(run), "base_model": base_of(run), "code": code_of(run), "versions": versions_of(run)}
    times: Mapping[str, Any] = run.facts.get("times_seconds") or {}
    return {
        "configuration": place[0].number if place else None,
        "folder": os.path.relpath(run.folder, folder),
        "status": run.status,
        "reason": run.reason,
        "seed": run.seed,
        **run.metrics,
        **asdict(budget_of(run, peak)),
        **{f"{name}_seconds": seconds for name, seconds in times.items() if name != "train"},
        **{name: run.facts.get(name) for name in ("peak_lr", "num_parameters", "best_step", "reproducibility")},
        **origin,
        **{f"config.{key}": value for key, value in settings(run).items()},
    }


def _cells(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: spreadsheet_text(each, "\n") if isinstance(each, str) else each for name, each in record.items()}


def report_json(report: Report, folder: Path) -> dict[str, Any]:
    """The table: each configuration with its runs (relative to the report), values by seed, mean and interval."""
    return {
        "schema_version": SCHEMA_VERSION,
        "title": report.title,
        "metrics": [{"name": each.name, "higher_is_better": each.better} for each in report.metrics],
        "factors": {factor.name: list(factor.levels) for factor in report.factors},
        "flags": [asdict(flag) for flag in report.flags],
        "configurations": [_configuration(report, row, folder) for row in report.rows],
    }


def _configuration(report: Report, row: Row, folder: Path) -> dict[str, Any]:
    best = [name for name, each in report.standings.items() if each.best == row.number and each.is_clear]
    return {
        "number": row.number,
        "levels": dict(row.group.levels),
        "runs": [{"folder": os.path.relpath(run.folder, folder), "seed": run.seed} for run in row.group.runs],
        "values": {name: {str(seed): value for seed, value in seeds.items()} for name, seeds in row.seeds.items()},
        "spreads": {name: asdict(spread) for name, spread in row.spreads.items()},
        "clearly_best_by": best,
        "budget": asdict(row.budget),
    }
