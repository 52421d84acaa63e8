"""One row becomes one example, by the function of the layout's format."""

from tunelab.config import TrainOn
from tunelab.data.formats.fields import OVERRIDABLE, Fields, keys_of
from tunelab.data.formats.registry import Layout
from tunelab.data.records import Example, Row
from tunelab.errors import DataError


def to_example(row: Row, layout: Layout, train_on: TrainOn) -> Example:
    """Turn a row into an example. `train_on` matters where `layout.by_role`.

    Raises DataError, quoting the row's origin, for a missing column, a value of another type, or turns out of order.
    """
    for part, name in layout.required.items():
        if name not in row.fields:
            raise DataError(
                f"{row.origin}: expected a column {name!r} as format {layout.format} has it, "
                f"found {keys_of(row.fields, 'column')}; {_remedy(part)}."
            )
    return layout.reader.read(Fields(row, layout, train_on))


def _remedy(part: str) -> str:
    return f"set data.columns.{part}=<column> or mend the row" if part in OVERRIDABLE else "mend the row"
