"""table.tex: the table for a paper, in booktabs' style. It compiles by itself, and can be `\\input` as it is."""

from collections.abc import Sequence

from tunelab.escaping import printable
from tunelab.report.assembling import Report
from tunelab.report.formatting import count_text
from tunelab.report.metrics import Metric
from tunelab.report.mixing import Flag
from tunelab.report.table import Cell, cells, factor_texts, reading_notes

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
    factors, metrics = report.factors, report.metrics
    columns = "l" * max(1, len(factors)) + "r" * len(metrics) + "rr"
    names = [*(each.name for each in factors)] or ["configuration"]
    heads = [*map(tex, names), *map(_head, metrics), "n", "\\shortstack[r]{trainable\\\\parameters}"]
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
        *(f"{tex(note[0].upper() + note[1:])}.\\par" for note in reading_notes(report, intervals=False)),
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


def _head(metric: Metric) -> str:
    """The name above, its unit and which way is better below."""
    below = " ".join(part for part in (metric.unit and f"({metric.unit})", metric.arrow) if part)
    return f"\\shortstack[r]{{{tex(metric.plain)}\\\\{tex(below)}}}" if below else tex(metric.plain)


def _line(report: Report, index: int) -> str:
    row = report.rows[index]
    texts = factor_texts(report, row) or ["all runs"]
    found = cells(report, row)
    count = str(max(each.count for each in found))
    return " & ".join(
        [*map(tex, texts), *map(_cell, found), count, tex(count_text(row.budget.trainable_parameters))]
    ) + (" \\\\")


def _cell(cell: Cell) -> str:
    mean = f"\\textbf{{{tex(cell.mean)}}}" if cell.is_best else tex(cell.mean)
    if cell.deviation:
        return f"{mean} $\\pm$ {tex(cell.deviation)}{tex(cell.mark)}"
    return mean + (f" {tex(cell.interval)}" if cell.interval else "") + tex(cell.mark)


def _said(flags: Sequence[Flag]) -> list[Flag]:
    """What a reader of the paper must know besides: warnings."""
    return [flag for flag in flags if flag.is_warning]
