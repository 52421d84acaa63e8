"""Formats: rows become examples, each layout of columns by one registered function."""

from tunelab.data.formats import choices, conversations, plain, preferences
from tunelab.data.formats.deciding import decide_layout
from tunelab.data.formats.fields import Fields
from tunelab.data.formats.reading import to_example
from tunelab.data.formats.registry import Layout, Tags, data_format, forget_format, known_formats

__all__ = [
    "Fields",
    "Layout",
    "Tags",
    "choices",
    "conversations",
    "data_format",
    "decide_layout",
    "forget_format",
    "known_formats",
    "plain",
    "preferences",
    "to_example",
]
