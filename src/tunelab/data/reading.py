"""Rows become examples of a split: once for the survey and once more for the tokens, in the same order both times."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from tunelab.config import BadRows, DataConfig, TrainOn
from tunelab.data.formats import Layout, decide_layout, to_example
from tunelab.data.records import BadRow, Example, Row
from tunelab.data.sources import Source, evaluation_source, training_sources
from tunelab.data.splits import Divider, position
from tunelab.errors import DataError

_NUM_SHOWN = 20  # sentences about bad rows that a report keeps
_NUM_LOOKED_AT = 20  # first rows of a source that decide its layout


@dataclass(frozen=True, slots=True)
class Feed:
    """One source: the layout of its rows, and the split they belong to (None: divided by content)."""

    source: Source
    layout: Layout
    split: str | None


@dataclass(frozen=True, slots=True)
class Item:
    """One example on its way, with the columns it came from and how many times an epoch sees it."""

    source: int  # its place among the feeds
    split: str
    example: Example
    fields: dict[str, Any]
    copies: int


@dataclass(slots=True)
class Tally:
    """What one pass has read: rows, bad rows and columns by number of the source, rows by split, first sentences."""

    policy: BadRows
    max_fraction: float
    num_rows: Counter[int] = field(default_factory=Counter[int])
    num_bad: Counter[int] = field(default_factory=Counter[int])
    num_split_rows: Counter[str] = field(default_factory=Counter[str])
    columns: dict[int, set[str]] = field(default_factory=dict[int, set[str]])
    reasons: list[str] = field(default_factory=list[str])

    def bad(self, source: int, reason: str) -> None:
        """Count a bad row. Raises DataError where bad rows are errors."""
        if self.policy is BadRows.error:
            raise DataError(f"{reason.rstrip('.')}; or leave such rows out: data.on_bad_row=skip.")
        self.num_bad[source] += 1
        if len(self.reasons) < _NUM_SHOWN:
            self.reasons.append(reason)

    def check(self) -> None:
        """Raise DataError where more rows were bad than allowed."""
        bad, rows = self.num_bad.total(), self.num_rows.total()
        if bad > self.max_fraction * rows:
            raise DataError(
                f"data.max_bad_fraction: expected at most {self.max_fraction:.2%} bad rows, found {bad:,} of {rows:,} "
                f"({bad / rows:.2%}), the first: {self.reasons[0].rstrip('.')}; mend them or raise "
                "data.max_bad_fraction."
            )


def open_sources(config: DataConfig) -> list[tuple[Source, str | None]]:
    """Find the sources of a run, each with its split. Raises DataError or ConfigError for a missing one."""
    given = {"validation": "data.validation_path", "test": "data.test_path"}
    held_out = [(evaluation_source(config, key), split) for split, key in given.items()]
    return [
        *((source, None) for source in training_sources(config)),
        *((source, split) for source, split in held_out if source is not None),
    ]


def open_feeds(sources: list[tuple[Source, str | None]]) -> list[Feed]:
    """Decide the layout of each source by its first rows. Raises DataError where no format fits."""
    return [_feed(source, split) for source, split in sources]


def _feed(source: Source, split: str | None) -> Feed:
    rows = [row for row in islice(source.rows(), _NUM_LOOKED_AT) if isinstance(row, Row)]
    return Feed(source, decide_layout(source.format, source.columns, source.tags, rows), split)


class Reader:
    """The examples of all feeds, in order; iterating anew reads the files anew."""

    def __init__(self, config: DataConfig, feeds: list[Feed]) -> None:
        self._config = config
        self._feeds = feeds
        self._divider = Divider.create(config)
        self._limit = config.max_train_rows

    def read(self, tally: Tally) -> Iterator[Item]:
        """Yield the examples of one pass and count into `tally`."""
        for number, feed in enumerate(self._feeds):
            for row in feed.source.rows():
                item = self._item(number, feed, row, tally)
                if item is not None:
                    yield item

    def _item(self, number: int, feed: Feed, row: Row | BadRow, tally: Tally) -> Item | None:
        tally.num_rows[number] += 1
        if isinstance(row, BadRow):
            tally.bad(number, row.reason)
            return None
        if not row.fields.keys() <= tally.columns.setdefault(number, set()):
            tally.columns[number].update(row.fields)
        try:
            split = feed.split or self._divider.split(row)
            if split == "train" and self._limit is not None and tally.num_split_rows["train"] >= self._limit:
                return None
            example = to_example(row, feed.layout, self._train_on(feed.layout))
        except DataError as error:
            tally.bad(number, str(error))
            return None
        tally.num_split_rows[split] += 1
        copies = _copies(row, feed.source.weight) if split == "train" else 1
        return Item(number, split, example, row.fields, copies) if copies else None

    def _train_on(self, layout: Layout) -> TrainOn:
        """The key is read only where it decides something: the unread-key audit refuses it elsewhere."""
        return self._config.train_on if layout.by_role else TrainOn.responses


def _copies(row: Row, weight: float) -> int:
    """How often an epoch sees a row: the whole part of `weight`, and once more for a fixed share of the rows."""
    whole = int(weight)
    return whole + (position(row.fields, salt="weight") < weight - whole) if weight != 1 else 1
