"""What the preparation of the data did, in figures: for `data_report.json`, the terminal and the page."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tunelab.escaping import printable, shorten

MAX_BINS = 30
_SHOWN_ORIGINS, _SHOWN_COLUMNS, _SHOWN_BAD_ROWS = 3, 8, 3  # all of them stand in data_report.json
_MAX_NAME_CHARACTERS = 60
_ACTION_STYLES = {"report": "yellow", "drop": "cyan", "error": "red"}


@dataclass(frozen=True, slots=True)
class SourceReport:
    """One data set that was read. `remark` says what `format: auto` decided, and why."""

    name: str
    format: str
    remark: str
    weight: float
    num_rows: int
    num_bad: int
    unused_columns: list[str]
    sha256: dict[str, str]  # by file


@dataclass(frozen=True, slots=True)
class SplitReport:
    """The figures of one split. Lengths and tokens are of the kept examples, after truncation.

    `num_examples` counts what rendering made of `num_rows`: more than the rows where a chat template rewrites
    earlier turns. `num_supervised_tokens_lost` counts those cut off and those of dropped examples. The histograms are
    lists of (upper bound in tokens, examples), see `histogram`.
    """

    num_rows: int
    num_examples: int
    num_kept: int
    num_dropped: dict[str, int]  # by reason
    num_truncated: int
    num_windows: int  # made of documents longer than data.max_length
    num_tokens: int
    num_supervised_tokens: int
    num_supervised_tokens_lost: int
    num_seams_encoded_apart: int
    max_length_tokens: int
    mean_length_tokens: float
    median_length_tokens: float
    length_histogram: list[tuple[int, int]]
    supervised_histogram: list[tuple[int, int]]  # of the supervised tokens of each example

    @property
    def supervised_fraction(self) -> float:
        """Supervised tokens as a fraction of all tokens."""
        return self.num_supervised_tokens / max(self.num_tokens, 1)

    @property
    def lost_fraction(self) -> float:
        """Supervised tokens lost as a fraction of those that the examples had."""
        return self.num_supervised_tokens_lost / max(self.num_supervised_tokens + self.num_supervised_tokens_lost, 1)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """The opposite of `asdict`, also where JSON made lists of the pairs."""
        names = ("length_histogram", "supervised_histogram")
        plain: dict[str, Any] = dict(fields)
        for name in names:
            plain[name] = [(int(bound), int(count)) for bound, count in fields[name]]
        return cls(**plain)


@dataclass(frozen=True, slots=True)
class DataReport:
    """What was read, what was decided, and what became of every row."""

    sources: list[SourceReport]
    template: str
    template_policy: list[str]  # sentences: what was decided where the tokenizer lacks a template or a token
    end_of_turn: str | None  # the special token that ends every trained response; None: nothing does
    train_on: str
    max_length: int
    over_length: str
    bad_rows: list[str]  # the first 20 sentences
    num_bad: int
    splits: dict[str, SplitReport]  # train, validation, test
    quality: dict[str, Any]  # a QualityReport as plain values
    preparation_seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain dictionaries, lists and scalars, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """The report that `to_dict` wrote. KeyError, TypeError or ValueError where it is none of this version."""
        plain: dict[str, Any] = dict(fields)
        plain["sources"] = [SourceReport(**source) for source in fields["sources"]]
        plain["splits"] = {name: SplitReport.from_dict(split) for name, split in fields["splits"].items()}
        return cls(**plain)


def histogram(values: npt.ArrayLike) -> list[tuple[int, int]]:
    """Count whole numbers of 0 or more in equally wide bins from 0: pairs (upper bound, count of values up to it).

    The width is 1, 2 or 5 times a power of ten, the narrowest that makes at most MAX_BINS bins. A bin takes its upper
    bound, not its lower one (the first takes 0 too). Empty bins up to the greatest value are there; no values: no bins.
    """
    array = np.asarray(values, dtype=np.int64)
    if not array.size:
        return []
    width = round_step(int(array.max()), MAX_BINS)
    counts = np.bincount(np.maximum(-(-array // width), 1))[1:]
    return [((index + 1) * width, int(count)) for index, count in enumerate(counts)]


def round_step(greatest: int, max_steps: int) -> int:
    """The least of 1, 2, 5, 10, 20, 50 … that reaches `greatest` in at most `max_steps` steps."""
    power = 1
    while True:
        for step in (power, 2 * power, 5 * power):
            if step * max_steps >= greatest:
                return step
        power *= 10


def report_table(report: DataReport) -> RenderableType:
    """Return what the terminal shows: sources, one column of figures for each split, findings, decisions.

    What has no news is left out. Names and sentences from the data are shown literally, control characters escaped.
    """
    headline = Text.assemble(("data", "bold"), f": {printable(_settings(report))}")
    groups = (
        ("sources", [_source_line(source) for source in report.sources]),
        ("", [_split_table(report.splits)]),
        ("findings", _finding_lines(report.quality.get("findings", ()))),
        ("rows left out, because they could not be read", _bad_row_lines(report)),
        ("decisions", [Text(printable(sentence)) for sentence in report.template_policy]),
    )
    shown: list[RenderableType] = [headline]
    for title, lines in groups:
        if title and lines:
            shown.append(Text(title, style="bold"))
        shown += [Padding(line, (0, 0, 0, 2)) for line in lines]
    return Group(*shown)


def _settings(report: DataReport) -> str:
    ending = f", responses end in {report.end_of_turn}" if report.end_of_turn else ""
    lengths = f"at most {report.max_length:,} tokens, over_length {report.over_length}"
    return f"template {_name(report.template)}, train_on {report.train_on}, {lengths}{ending}"


def _source_line(source: SourceReport) -> Text:
    line = Text.assemble((_name(source.name), "cyan"), f" · {source.num_rows:,} rows · {printable(source.format)}")
    if source.weight != 1:
        line.append(f" · weight {source.weight:g}")
    if source.num_bad:
        line.append(f" · {source.num_bad:,} bad", style="yellow")
    if source.remark:
        line.append(f" · {printable(source.remark)}")
    if source.unused_columns:
        line.append(f" · columns not used: {_some(source.unused_columns, _SHOWN_COLUMNS)}", style="dim")
    return line


def _split_table(splits: Mapping[str, SplitReport]) -> Table:
    table = Table(box=SIMPLE_HEAD)
    table.add_column("")
    for name in splits:
        table.add_column(Text(printable(name)), justify="right")
    for label, figures in split_figures(list(splits.values())):
        table.add_row(Text(label), *figures)
    return table


def split_figures(splits: Sequence[SplitReport]) -> list[tuple[str, list[str]]]:
    """The figures of the splits side by side: (label, one value a split). Rows without news are left out."""
    rows = [
        ("rows", True, [s.num_rows for s in splits]),
        ("examples", True, [s.num_examples for s in splits]),
        ("kept", True, [s.num_kept for s in splits]),
        *((f"dropped: {label}", False, counts) for label, counts in _dropped(splits)),
        ("truncated", False, [s.num_truncated for s in splits]),
        ("windows", False, [s.num_windows for s in splits]),
        ("tokens", True, [s.num_tokens for s in splits]),
        ("supervised tokens", True, [s.num_supervised_tokens for s in splits]),
        ("  of all tokens, %", True, [100 * s.supervised_fraction for s in splits]),
        ("supervised tokens lost", False, [s.num_supervised_tokens_lost for s in splits]),
        ("  of those there were, %", False, [100 * s.lost_fraction for s in splits]),
        ("seams encoded apart", False, [s.num_seams_encoded_apart for s in splits]),
        ("longest, tokens", True, [s.max_length_tokens for s in splits]),
        ("mean length, tokens", True, [s.mean_length_tokens for s in splits]),
        ("median length, tokens", True, [s.median_length_tokens for s in splits]),
    ]  # fmt: skip
    return [(label, [_figure(value) for value in values]) for label, always, values in rows if always or any(values)]


def _dropped(splits: Sequence[SplitReport]) -> list[tuple[str, list[int]]]:
    reasons = sorted({reason for split in splits for reason in split.num_dropped})
    return [(printable(spaced(reason)), [s.num_dropped.get(reason, 0) for s in splits]) for reason in reasons]


def _figure(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


def _finding_lines(findings: Sequence[Mapping[str, Any]]) -> list[RenderableType]:
    """Action, check and sentence side by side; all places stand in data_report.json and on the page."""
    if not findings:
        return []
    grid = Table.grid(padding=(0, 2))
    for finding in findings:
        action = str(finding["action"])
        grid.add_row(
            Text(printable(action), style=_ACTION_STYLES.get(action, "")),
            Text(printable(spaced(str(finding["check"])))),
            Text(printable(_about(finding)), style="dim"),
        )
    return [grid]


def _about(finding: Mapping[str, Any]) -> str:
    dropped = f"{finding['num_dropped']:,} dropped" if finding["num_dropped"] else ""
    detail = shorten(str(finding["detail"]), 400).rstrip(".")
    return "; ".join(
        filter(None, [detail, dropped, _some(finding["origins"], _SHOWN_ORIGINS, finding["num_examples"])])
    )


def _bad_row_lines(report: DataReport) -> list[Text]:
    lines = [Text(printable(shorten(reason, 400))) for reason in report.bad_rows[:_SHOWN_BAD_ROWS]]
    hidden = report.num_bad - len(lines)
    return [*lines, Text(f"… and {hidden:,} more", style="dim")] if hidden > 0 else lines


def spaced(word: str) -> str:
    """A key as words."""
    return word.replace("_", " ")


def _name(text: str) -> str:
    return printable(shorten(text, _MAX_NAME_CHARACTERS))


def _some(names: Sequence[str], limit: int, count: int = 0) -> str:
    """The first names; `count`: how many there are, where `names` has not all of them."""
    hidden = max(count, len(names)) - min(limit, len(names))
    rest = f" and {hidden:,} more" if hidden > 0 else ""
    return ", ".join(_name(name) for name in names[:limit]) + rest
