"""The formats that the columns and values of a source's first rows allow."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tunelab.config import TrainOn
from tunelab.data.formats.reading import to_example
from tunelab.data.formats.registry import Format, Layout
from tunelab.data.formats.tagging import Given, decide_tags, other_keys
from tunelab.data.records import Row
from tunelab.errors import DataError


@dataclass(frozen=True, slots=True)
class Source:
    """What a decision rests on: the first rows, all of their columns, and the overrides that the person set."""

    rows: Sequence[Row]
    present: Mapping[str, None]
    columns: Given
    tags: Given

    @property
    def origin(self) -> str:
        """Where the first row stands."""
        return self.rows[0].origin if self.rows else "data.path"


def resolve(format_: Format, source: Source) -> Layout:
    """Return the layout of `format_`: the column that was set, else the one that is there, else the format's own."""
    named = {part: column_of(part, names, source) for part, names in format_.parts().items()}
    required = {part: name for part, name in named.items() if part in format_.required or source.columns.get(part)}
    optional = {part: name for part, name in named.items() if part not in required}
    tags = decide_tags(format_, named, source.tags, source.rows)
    return Layout(format_.name, required, optional, tags, remark="", reader=format_)


def column_of(part: str, names: Sequence[str], source: Source) -> str:
    """The column that holds `part`, of the names that it may have."""
    return source.columns.get(part) or next((name for name in names if name in source.present), names[0])


def fitting(formats: Iterable[Format], source: Source) -> list[Layout]:
    """The layouts whose columns, and keys inside turns, the rows have; each reads every column that was set."""
    return [resolve(format_, source) for format_ in formats if _fits(format_, source)]


def narrowed(layouts: list[Layout], source: Source) -> list[Layout]:
    """Of these the ones that understand a row, with documents last, and none that reads less than another.

    Of the ways to write one format the columns alone decide, so that none of them is passed over for a bad value.
    """
    layouts = [layout for layout in layouts if not any(_same_but_more(other, layout, source) for other in layouts)]
    layouts = [layout for layout in layouts if refusal(layout, source) is None] or layouts
    layouts = [layout for layout in layouts if not layout.reader.last_resort] or layouts
    return [layout for layout in layouts if not any(reads_more(other, layout, source) for other in layouts)]


def refusal(layout: Layout, source: Source) -> DataError | None:
    """None where the layout understands at least one of the rows, else its error for the first."""
    first: DataError | None = None
    for row in source.rows:
        try:
            to_example(row, layout, TrainOn.responses)
        except DataError as error:
            first = first or error
        else:
            return None
    return first


def reads_more(layout: Layout, other: Layout, source: Source) -> bool:
    """Whether `layout` reads all the columns that `other` reads, and more of those that are there."""
    return read_columns(layout, source) > read_columns(other, source)


def _same_but_more(layout: Layout, other: Layout, source: Source) -> bool:
    return layout.format == other.format and reads_more(layout, other, source)


def read_columns(layout: Layout, source: Source) -> set[str]:
    """The columns of the rows that the layout reads."""
    return layout.names() & source.present.keys()


def missing_parts(format_: Format, source: Source) -> list[str]:
    """The required parts, and those whose column was set, that no row has."""
    if not source.rows:
        return []
    needed = [part for part in format_.parts() if part in format_.required or source.columns.get(part)]
    return [part for part in needed if column_of(part, format_.parts()[part], source) not in source.present]


def unknown_keys(format_: Format, source: Source) -> list[str] | None:
    """The keys inside the rows' turns where the format's own are not among them, else None."""
    named = {part: column_of(part, names, source) for part, names in format_.parts().items()}
    return other_keys(format_, named, source.tags, source.rows)


def _fits(format_: Format, source: Source) -> bool:
    parts = format_.parts()
    if any(name and part not in parts for part, name in source.columns.items()):
        return False
    if any(source.tags.values()) and not format_.turns:
        return False
    return not missing_parts(format_, source) and unknown_keys(format_, source) is None
