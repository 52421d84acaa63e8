"""The report for programs: results.csv, a row a run with everything, table.csv, a row a configuration, and report.json,
the table with its runs.
"""

import csv
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tunelab.escaping import spreadsheet_text
from tunelab.report.assembling import Report, Row
from tunelab.report.budget import budget_of
from tunelab.report.differences import verdict_of
from tunelab.report.grouping import settings
from tunelab.report.metrics import Metric
from tunelab.report.mixing import base_of, code_of, data_of, versions_of
from tunelab.report.reading import Run

SCHEMA_VERSION = 1


def results_csv(report: Report, folder: Path) -> str:
    """A row a run, finished or not: where it is, how it ended, what it measured and took, and its configuration."""
    places = {run.folder: (row, index) for row in report.rows for index, run in enumerate(row.group.runs)}
    records = [_record(run, places.get(run.folder), folder) for run in report.runs]
    columns = dict.fromkeys(name for record in records for name in record)
    ordered = sorted(columns, key=lambda name: name.startswith("config."))  # stable: the configuration comes last
    return _csv(records, ordered)


def table_csv(report: Report) -> str:
    """A row a configuration: its factors, its mean, deviation and interval by each metric, its change, its costs."""
    records = [_table_row(report, row) for row in report.rows]
    return _csv(records, list(dict.fromkeys(name for record in records for name in record)))


def _table_row(report: Report, row: Row) -> dict[str, Any]:
    record: dict[str, Any] = {"configuration": row.number, "label": row.group.label}
    record |= {f"config.{name}": level for name, level in row.group.levels.items()}
    for metric in report.metrics:
        name, spread = metric.name, row.spreads.get(metric.name)
        if spread is not None:
            low, high = spread.interval or (None, None)
            record |= {name: spread.mean, f"{name}/sd": spread.deviation, f"{name}/seeds": spread.count}
            record |= {f"{name}/low": low, f"{name}/high": high}
        change = _change(report, row, metric)
        if change is not None:
            low, high = change["interval"] or (None, None)
            record |= {f"{name}/change": change["change"], f"{name}/change_low": low, f"{name}/change_high": high}
            record |= {f"{name}/p": change["p_value"], f"{name}/p_holm": change["p_value_holm"]}
            record |= {f"{name}/verdict": change["verdict"]}
    return {**record, **asdict(row.budget)}


def _change(report: Report, row: Row, metric: Metric) -> dict[str, Any] | None:
    """The row less the reference; None where there is none."""
    comparison = report.comparisons.get(metric.name)
    if report.reference is None or comparison is None or row.number not in comparison.differences:
        return None
    adjusted, verdict = comparison.p_values_holm.get(row.number), verdict_of(report, metric, row.number)
    return {**asdict(comparison.differences[row.number]), "p_value_holm": adjusted, "verdict": verdict.value}


def _csv(records: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
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
        "reference": report.reference,
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
        "against_reference": {
            metric.name: change for metric in report.metrics if (change := _change(report, row, metric)) is not None
        },
        "budget": asdict(row.budget),
    }
