"""report.md: the report as text, for a repository, an issue or an e-mail."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from tunelab.escaping import printable
from tunelab.report.assembling import Report, Row
from tunelab.report.differences import DifferenceLine, against_reference, differences, shows_change
from tunelab.report.drawing import Drawn
from tunelab.report.formatting import NOTHING, count_text, p_text, seconds_text
from tunelab.report.metrics import Metric
from tunelab.report.table import Cell, cells, factor_heads, factor_texts, reading_notes, relative


def report_markdown(report: Report, folder: Path, figures: Iterable[Drawn]) -> str:
    """The text; `folder` is where it will lie."""
    parts = [
        f"# {md(report.title)}",
        _flags(report),
        "## Results",
        _results(report, folder),
        "; ".join(reading_notes(report)) + ".",
        *_differences(report),
        *_analysis(report),
        *(f"![{md(each.title)}](figures/{each.name}.png)\n\n{md(each.title)}. {md(each.caption)}" for each in figures),
        "## Runs",
        _runs(report, folder),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def md(text: str) -> str:
    """A text of unknown origin as Markdown: no character acts."""
    return re.sub(r"([\\`*_{}\[\]<>()#+!|~$&])", r"\\\1", printable(text))


def _flags(report: Report) -> str:
    return "\n".join(f"- {'**Warning.** ' if flag.is_warning else ''}{md(flag.text)}" for flag in report.flags)


def _results(report: Report, folder: Path) -> str:
    metrics = [head for each in report.metrics for head in _metric_heads(report, each)]
    heads = ["#", *factor_heads(report), *metrics, "n", "trainable", "time", "runs"]
    rows: list[list[str]] = []
    for row in report.rows:
        found = cells(report, row)
        links = [f"[{run.seed}]({relative(run.folder, folder)})" for run in row.group.runs]
        budget = [count_text(row.budget.trainable_parameters), seconds_text(row.budget.train_seconds)]
        count = str(max(each.count for each in found))
        texts = [md(text) for text in factor_texts(report, row)]
        figures = [
            text
            for metric, cell in zip(report.metrics, found, strict=True)
            for text in (_cell(cell), *_change(report, row, metric))
        ]
        rows.append([str(row.number), *texts, *figures, count, *budget, " ".join(links)])
    return _table([md(head) for head in heads], rows)


def _metric_heads(report: Report, metric: Metric) -> list[str]:
    head = f"{metric.label} {metric.arrow}"
    return [head, "change", "verdict"] if shows_change(report, metric) else [head]


def _change(report: Report, row: Row, metric: Metric) -> list[str]:
    if not shows_change(report, metric):
        return []
    line = against_reference(report, row, metric)
    return [f"{line.change} {line.interval}".strip(), line.verdict] if line else [NOTHING, ""]


def _cell(cell: Cell) -> str:
    mean = f"**{cell.mean}**" if cell.is_best else cell.mean
    return " ".join(part for part in (mean, cell.deviation and f"± {cell.deviation}", cell.interval, cell.mark) if part)


def _differences(report: Report) -> list[str]:
    parts: list[str] = []
    what = "best" if report.reference is None else "reference"
    for metric in report.metrics:
        lines = differences(report, metric)
        if lines:
            with_examples = any(each.examples for each in lines)
            to = report.comparisons[metric.name].to
            heads = [f"against {to}", "change", "95 %", "test over seeds", "p", "p (Holm)", "verdict"]
            heads += ["over examples", "p"] if with_examples else []
            rows = [_difference(each, with_examples) for each in lines]
            parts += [f"### Against the {what}: {md(metric.label)}", _table(heads, rows)]
    return parts


def _difference(line: DifferenceLine, with_examples: bool) -> list[str]:
    verdict = f"{line.verdict}{f'; {line.noise}' if line.noise else ''}"
    texts = [str(line.row.number), line.change, line.interval, line.test, line.p, line.p_holm, verdict]
    return [*texts, line.examples, line.examples_p] if with_examples else texts


def _analysis(report: Report) -> list[str]:
    found = report.analysis
    if found is None:
        return []
    rows = [
        [md(term.name), str(term.degrees), f"{term.share:.1%}",
         "" if term.statistic is None else f"{term.statistic:.3g}", p_text(term.p_value)]
        for term in found.terms
    ]  # fmt: skip
    rows.append(["not explained", str(found.residual_degrees), f"{found.residual_share:.1%}", "", ""])
    return [f"## Factors of {md(report.main.label)}", _table(["term", "df", "share", "F", "p"], rows)]


def _runs(report: Report, folder: Path) -> str:
    rows = [
        [f"[{md(run.folder.name)}]({relative(run.folder, folder)})", str(run.seed), run.status, md(run.reason or "")]
        for run in sorted(report.runs, key=lambda run: run.is_finished)
    ]
    return _table(["run", "seed", "status", "reason"], rows)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(' '.join(str(cell).split()) for cell in line)} |" for line in lines)
