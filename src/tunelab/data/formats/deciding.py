"""Which format a source has: the one that was named, or the one that its first rows show."""

from collections.abc import Sequence
from dataclasses import replace

from tunelab.config import ColumnsConfig, TagsConfig, mark_read, to_plain
from tunelab.data.formats.candidates import (
    Source,
    fitting,
    missing_parts,
    narrowed,
    read_columns,
    reads_more,
    refusal,
    resolve,
    unknown_keys,
)
from tunelab.data.formats.fields import OVERRIDABLE, keys_of
from tunelab.data.formats.registry import FORMATS, Format, Layout, known_formats
from tunelab.data.records import Row
from tunelab.errors import ConfigError, DataError
from tunelab.suggesting import did_you_mean

AUTO = "auto"
_BY_NAME = "auto (the kind of file is read from its name)"
FOREIGN_FORMATS = {  # what other tools call a format → ours
    "chat": "messages",
    "chat_template": "messages",
    "chatml": "messages",
    "completion": "text (a whole document) or prompt_completion (a prompt and its answer)",
    "conversation": "messages or sharegpt",
    "conversational": "messages",
    "conversations": "sharegpt",
    "cpt": "text",
    "csv": _BY_NAME,
    "dpo": "preference",
    "input_output": "segments",
    "instruct": "alpaca",
    "instruction": "alpaca",
    "json": _BY_NAME,
    "jsonl": _BY_NAME,
    "openai": "messages",
    "orpo": "preference",
    "pairwise": "preference",
    "parquet": _BY_NAME,
    "pretrain": "text",
    "prompt_response": "prompt_completion",
    "pt": "text",
    "ranking": "preference",
    "simpo": "preference",
    "tokenized": "pretokenized",
}


def decide_layout(format: str, columns: ColumnsConfig, tags: TagsConfig, rows: Sequence[Row]) -> Layout:
    """Return how the rows of a source are read. `rows` are its first ones (some 20); `auto` decides by them.

    The keys of `columns` and `tags` that matter for the format, and no others, are recorded as read. Raises ConfigError
    for an unknown format, DataError where the rows lack its columns or fit several formats.
    """
    present = dict.fromkeys(name for row in rows for name in row.fields)
    source = Source(rows, present, to_plain(columns), to_plain(tags))
    formats = FORMATS if format == AUTO else _named(format)
    _require_named_columns(formats, source)
    layout = _chosen(formats, format, source)
    _refuse_two_columns(layout, source)
    mark_read(columns, *(layout.reader.parts().keys() & OVERRIDABLE))
    if layout.tags:
        mark_read(tags, *source.tags)
    return replace(layout, remark=_remark(layout, "found by auto" if format == AUTO else "as set", source))


def _require_named_columns(formats: Sequence[Format], source: Source) -> None:
    """Raise DataError where the rows lack a column that the person named for one of these formats."""
    read = {part for known in formats for part in known.parts()}
    for part, name in source.columns.items():
        if name and part in read and source.rows and name not in source.present:
            raise DataError(
                f"{source.origin}: expected a column {name!r} as data.columns.{part} says, found "
                f"{keys_of(source.present, 'column')}{did_you_mean(name, source.present)}; "
                f"set data.columns.{part}=<column>."
            )


def _named(name: str) -> list[Format]:
    found = [known for known in FORMATS if known.name == name]
    if found:
        return found
    names = [AUTO, *known_formats()]
    foreign = FOREIGN_FORMATS.get(name.lower())
    hint = f" (here it is called {foreign})" if foreign else did_you_mean(name, names)
    raise ConfigError(f"data.format: expected one of {', '.join(names)}, found {name!r}{hint}; set data.format=<name>.")


def _chosen(formats: Sequence[Format], asked: str, source: Source) -> Layout:
    if asked == AUTO and not source.rows:
        raise DataError("data.format: expected a row to recognise the format by, found none; set data.format=<name>.")
    found = narrowed(fitting(formats, source), source)
    if not found and asked == AUTO:
        raise _unrecognised(formats, source)
    if not found:
        return _nearest(formats, source)
    if any(read_columns(layout, source) != read_columns(found[0], source) for layout in found):
        raise _ambiguous(found, source)
    return found[0]  # formats that read the same columns, and can read them: the first one stands


def _nearest(formats: Sequence[Format], source: Source) -> Layout:
    """The layout of a named format whose columns are there all the same. Raises DataError for what is missing."""
    nearest = min(formats, key=lambda format_: len(missing_parts(format_, source)))
    layout = resolve(nearest, source)
    missing, keys = missing_parts(nearest, source), unknown_keys(nearest, source)
    if missing:
        part = missing[0]
        name = layout.required[part]
        override = f"set data.columns.{part}=<column>" if part in OVERRIDABLE else f"rename the column to {name!r}"
        raise DataError(
            f"{source.origin}: expected a column {name!r} as format {layout.format} has it, found "
            f"{keys_of(source.present, 'column')}{did_you_mean(name, source.present)}; {override} or data.format=auto."
        )
    if keys is not None:
        raise _unknown_keys(nearest, keys, source)
    return layout


def _unrecognised(formats: Sequence[Format], source: Source) -> DataError:
    for format_ in formats:
        keys = unknown_keys(format_, source)
        if keys is not None and not missing_parts(format_, source):
            return _unknown_keys(format_, keys, source)
    known = "; ".join(f"{known.name}: {', '.join(names[0] for names in known.required.values())}" for known in formats)
    found = keys_of(source.present, "column")
    return DataError(
        f"{source.origin}: expected the columns of a known format ({known}), found {found}; "
        "set data.format=<name> and data.columns.<part>=<column>, "
        "for example data.columns.prompt=<column> data.columns.response=<column>."
    )


def _unknown_keys(format_: Format, keys: list[str], source: Source) -> DataError:
    layout = resolve(format_, source)
    tags, name = layout.tags, layout.required[format_.turns[0]]
    expected = f"turns with {tags.role!r} and {tags.content!r}" if tags else "turns"
    return DataError(
        f"{source.origin}: expected {expected} in column {name!r} as format {layout.format} has them, "
        f"found {keys_of(keys)}; set data.format=auto, or data.tags.role=<key> data.tags.content=<key>."
    )


def _ambiguous(found: Sequence[Layout], source: Source) -> DataError:
    names = list(dict.fromkeys(layout.format for layout in found))
    fits = " and ".join(
        f"{layout.format} ({', '.join(map(repr, sorted(read_columns(layout, source))))})" for layout in found
    )
    override = " or ".join(f"data.format={name}" for name in names)
    if len(names) < len(found):
        override = "data.columns.<part>=<column> for the columns that you mean"
    mixed = "" if any(_all_columns(found, source) <= row.fields.keys() for row in source.rows) else _MIXED
    return DataError(
        f"{source.origin}: expected the columns of one format, found those of {fits}; set {override}{mixed}."
    )


_MIXED = ", or, as no row has all of these, write each kind to a file of its own and mix them with data.mix"


def _all_columns(found: Sequence[Layout], source: Source) -> set[str]:
    return set[str]().union(*(read_columns(layout, source) for layout in found))


def _refuse_two_columns(layout: Layout, source: Source) -> None:
    """Raise DataError where two columns could hold the same part, and the person has not said which."""
    for part, names in layout.reader.parts().items():
        there = [name for name in names if name in source.present]
        if len(there) > 1 and not source.columns.get(part):
            override = " or ".join(f"data.columns.{part}={name}" for name in there)
            raise DataError(
                f"{source.origin}: expected one column for the {part} of format {layout.format}, "
                f"found {' and '.join(map(repr, there))}; set {override}."
            )


def _remark(layout: Layout, how: str, source: Source) -> str:
    """One sentence: the format, how it was decided, the columns that say so, and what was turned down."""
    columns = [repr(name) if part == name else f"{name!r} ({part})" for part, name in layout.required.items()]
    tags = layout.tags
    turns = f" with {tags.role}/{tags.content} turns" if tags else ""
    remark = f"format {layout.format}, {how}: the rows have {', '.join(columns)}{turns}"
    for other in fitting(FORMATS, source) if how != "as set" else []:
        error = refusal(other, source)
        if error and reads_more(other, layout, source):
            remark += f"; not {other.format}, for in {str(error).split('; ')[0]}"
    return f"{remark}."
