"""Which rows the figures bring out, and how each looks: one colour and one mark in all figures of a report."""

from collections.abc import Mapping
from dataclasses import dataclass

from tunelab.report.assembling import Report, Row
from tunelab.report.drawing import MARKERS, SERIES

MAX_SHOWN = 6


@dataclass(frozen=True, slots=True)
class Look:
    """Of a row: a colour of the palette, and for who cannot tell colours a mark."""

    colour: str
    marker: str


REST = Look(SERIES[-1], "o")


def brought_out(report: Report) -> list[Row]:
    """The best rows by the main metric, best first; the reference in place of the last where it is none of them."""
    ranked = report.ranked
    shown = ranked[:MAX_SHOWN]
    left_out = [row for row in ranked[MAX_SHOWN:] if row.number == report.reference]
    return [*shown[:-1], *left_out] if left_out else shown


def looks(report: Report) -> Mapping[int, Look]:
    """Of each row, by its number; those that are not brought out look alike."""
    shown = {row.number: Look(SERIES[at], MARKERS[at]) for at, row in enumerate(brought_out(report))}
    return {row.number: shown.get(row.number, REST) for row in report.rows}
