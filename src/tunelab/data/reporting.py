"""What the preparation of the data did, in figures: for `data_report.json` and for the terminal."""

from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table


@dataclass(frozen=True, slots=True)
class SplitReport:
    """The figures of one split. Lengths and tokens are of the kept examples, after truncation.

    `num_examples` counts what rendering made of `num_rows`: more than the rows where a chat template rewrites
    earlier turns. `num_supervised_tokens_lost` counts those cut off and those of dropped examples.
    """

    num_rows: int
    num_examples: int
    num_kept: int
    num_dropped: dict[str, int]  # by reason
    num_truncated: int
    num_tokens: int
    num_supervised_tokens: int
    num_supervised_tokens_lost: int
    num_seams_encoded_apart: int
    num_duplicates: int  # rows whose conversation another row of the split already had
    max_length_tokens: int
    mean_length_tokens: float


@dataclass(frozen=True, slots=True)
class DataReport:
    """What was read, what was decided, and what became of every row."""

    format: str
    template: str
    end_of_turn: str  # the special token that ends every trained response
    max_length: int
    over_length: str
    unused_columns: list[str]  # of the first training row
    file_sha256: dict[str, str]  # by the path in the configuration
    splits: dict[str, SplitReport]  # train, validation, test
    num_overlapping: dict[str, int]  # "validation_in_train": validation rows whose conversation train has too

    def to_dict(self) -> dict[str, Any]:
        """Return plain dictionaries, lists and scalars, ready for JSON."""
        return asdict(self)


def report_table(report: DataReport) -> Table:
    """Return the terminal's table: one column for each split, rows without news left out."""
    table = Table(
        title=f"data: format {report.format}, template {report.template}, max_length {report.max_length}",
        title_justify="left",
        caption="\n".join(_remarks(report)) or None,
        caption_justify="left",
    )
    table.add_column("")
    for split in report.splits:
        table.add_column(split, justify="right")
    for label, values in _lines(list(report.splits.values())):
        table.add_row(label, *values)
    return table


def _lines(splits: list[SplitReport]) -> list[tuple[str, list[str]]]:
    reasons = sorted({reason for split in splits for reason in split.num_dropped})
    always = {
        "rows": [split.num_rows for split in splits],
        "examples": [split.num_examples for split in splits],
        "kept": [split.num_kept for split in splits],
        "tokens": [split.num_tokens for split in splits],
        "supervised tokens": [split.num_supervised_tokens for split in splits],
        "longest, tokens": [split.max_length_tokens for split in splits],
        "mean length, tokens": [round(split.mean_length_tokens) for split in splits],
    }
    news = {
        **{f"dropped: {r.replace('_', ' ')}": [s.num_dropped.get(r, 0) for s in splits] for r in reasons},
        "truncated": [split.num_truncated for split in splits],
        "supervised tokens lost": [split.num_supervised_tokens_lost for split in splits],
        "seams encoded apart": [split.num_seams_encoded_apart for split in splits],
        "duplicates": [split.num_duplicates for split in splits],
    }
    shown = {**always, **{label: counts for label, counts in news.items() if any(counts)}}
    return [(label, [f"{count:,}" for count in counts]) for label, counts in shown.items()]


def _remarks(report: DataReport) -> list[str]:
    remarks = [
        f"{count:,} {pair.replace('_', ' ')}: exact duplicates between splits"
        for pair, count in report.num_overlapping.items()
        if count
    ]
    if report.unused_columns:
        remarks.append(f"columns not used: {', '.join(report.unused_columns)}")
    return remarks
