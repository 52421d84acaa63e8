"""table.tex: the table for a paper, in booktabs' style. It compiles by itself, and can be `\\input` as it is."""

from collections.abc import Sequence

from tunelab.escaping import printable
from tunelab.report.assembling import Report, Row
from tunelab.report.differences import against_reference, shows_change
from tunelab.report.formatting import NOTHING, count_text
from tunelab.report.metrics import Metric
from tunelab.report.mixing import Flag
from tunelab.report.table import Cell, cells, factor_heads, factor_texts, reading_notes

CLEAR = "*"  # behind a change that is distinguishable from none
_LONG = 40  # rows from which the table may break over pages
_SPECIAL = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    **{character: f"{{{character}}}" for character in "[]*"},  # behind the end of a row they would act
    "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "\\": "\\textbackslash{}",
    "<": "$<$", ">": "$>$", "|": "$|$", '"': "''", "`": "'",
    "±": "$\\pm$", "−": "$-$", "×": "$\\times$", "→": "$\\to$", "↑": "$\\uparrow$", "↓": "$\\downarrow$",
    "†": "\\textdagger{}", "·": "$\\cdot$", "–": "--", "…": "\\dots{}", "≥": "$\\geq$", "≤": "$\\leq$",
}  # fmt: skip
# \\documentclass means something else once a class is loaded: so the file knows whether it is the whole document.
_HEAD = r"""% Written by tunelab. It compiles as it is (pdflatex table.tex), and \input{table} puts the table into a
% paper, whose preamble needs \usepackage{booktabs}PACKAGES.
\expandafter\ifx\csname @twoclasseserror\endcsname\documentclass
  \def\tunelabend{}
\else
  \def\tunelabend{\end{document}}
  \documentclass{article}
  \usepackage[a4paper,landscape,margin=15mm]{geometry}
  \usepackage{booktabs,longtable}
  \pagestyle{empty}
  \begin{document}
\fi
"""


def table_tex(report: Report) -> str:
    """The file: a row a configuration; what must be known to read it stands below."""
    is_long = len(report.rows) > _LONG
    environment = "longtable" if is_long else "tabular"
    names = factor_heads(report) or ["configuration"]
    figures = [head for metric in report.metrics for head in _heads(report, metric)]
    columns = "l" * len(names) + "r" * len(figures) + "rr"
    heads = [*map(tex, names), *figures, "n", "\\shortstack[r]{trainable\\\\parameters}"]
    lines = [
        _HEAD.replace("PACKAGES", " and \\usepackage{longtable}" if is_long else "")
        + "\\par\\begingroup\\small\\setlength{\\tabcolsep}{5pt}\\parindent0pt",
        f"\\begin{{{environment}}}{{@{{}}{columns}@{{}}}}",
        "\\toprule",
        " & ".join(heads) + " \\\\",
        "\\midrule" + ("\\endhead" if is_long else ""),
        *(_line(report, index) for index in range(len(report.rows))),
        "\\bottomrule",
        f"\\end{{{environment}}}",
        "\\par\\medskip\\footnotesize",
        *(f"{tex(note[0].upper() + note[1:])}.\\par" for note in reading_notes(report, tested=CLEAR)),
        *(f"{tex(flag.text)}\\par" for flag in _said(report.flags)),
        "\\endgroup",
        "\\tunelabend",
    ]
    return "\n".join(lines) + "\n"


def tex(text: str) -> str:
    """A text of unknown origin as LaTeX: no character acts; what pdflatex has no letter for is shown by its number."""
    return "".join(_SPECIAL.get(character) or _letter(character) for character in printable(text))


def _letter(character: str) -> str:
    """The letters of Western Europe are in every font of LaTeX; the four that are not, and signs, are not."""
    known = character.isascii() or ("\u00c0" <= character <= "\u00ff" and character not in "ÐðÞþ÷")
    return character if known else f"{{[}}U+{ord(character):04X}{{]}}"


def _heads(report: Report, metric: Metric) -> list[str]:
    """The name above, its unit and which way is better below; and that of the change against the reference."""
    below = " ".join(part for part in (metric.unit and f"({metric.unit})", metric.arrow) if part)
    head = f"\\shortstack[r]{{{tex(metric.plain)}\\\\{tex(below)}}}" if below else tex(metric.plain)
    return [head, "change"] if shows_change(report, metric) else [head]


def _line(report: Report, index: int) -> str:
    row = report.rows[index]
    texts = factor_texts(report, row) or ["all runs"]
    found = cells(report, row)
    count = str(max(each.count for each in found))
    figures = [
        text
        for metric, cell in zip(report.metrics, found, strict=True)
        for text in (_cell(cell), *_change(report, row, metric))
    ]
    return " & ".join([*map(tex, texts), *figures, count, tex(count_text(row.budget.trainable_parameters))]) + " \\\\"


def _cell(cell: Cell) -> str:
    mean = f"\\textbf{{{tex(cell.mean)}}}" if cell.is_best else tex(cell.mean)
    deviation = f" $\\pm$ {tex(cell.deviation)}" if cell.deviation else ""
    return _stacked(f"{mean}{deviation}{tex(cell.mark)}", cell.interval)


def _change(report: Report, row: Row, metric: Metric) -> list[str]:
    if not shows_change(report, metric):
        return []
    line = against_reference(report, row, metric)
    if line is None:
        return [tex(NOTHING)]
    mark = f"\\rlap{{{CLEAR}}}" if line.verdict.is_clear else ""  # of no width, so that the figures stand in a column
    return [_stacked(tex(line.change) + mark, line.interval)]


def _stacked(figure: str, interval: str) -> str:
    """A figure with its interval below; the row is aligned by the figure."""
    if not interval:
        return figure
    return f"\\begin{{tabular}}[t]{{@{{}}r@{{}}}}{figure}\\\\[-2pt]\\scriptsize {tex(interval)}\\end{{tabular}}"


def _said(flags: Sequence[Flag]) -> list[Flag]:
    """What a reader of the paper must know besides: warnings."""
    return [flag for flag in flags if flag.is_warning]
