"""Labels: how often each of a few responses, or each value of a column, comes; and which examples make them even."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tunelab.data.quality.words import Hashes, Positions
from tunelab.errors import DataError

MAX_LABELS = 50
MIN_EXAMPLES = 100
_MAX_LABEL_CHARACTERS = 200


class LabelCounts:
    """Counts labels until there are more than MAX_LABELS different ones, or one as long as no label is."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._is_open = True

    def add(self, label: str) -> None:
        """Count one example."""
        if not self._is_open:
            return
        self._counts[label] = self._counts.get(label, 0) + 1
        if len(self._counts) > MAX_LABELS or len(label) > _MAX_LABEL_CHARACTERS:
            self._is_open = False
            self._counts = {}

    @property
    def counts(self) -> dict[str, int]:
        """Label → examples, the most frequent first; empty where these are no labels."""
        return dict(sorted(self._counts.items(), key=lambda item: (-item[1], item[0])))


def column_value(fields: Mapping[str, Any], column: str, origin: str, required: bool) -> str:
    """Return the value of `data.quality.balance_by` in a row, as text.

    Raises DataError where `required` and the row has no such column.
    """
    if required and column not in fields:
        names = ", ".join(map(repr, fields)) or "none"
        raise DataError(
            f"{origin}: expected the column {column!r} of data.quality.balance_by, found {names}; "
            "set data.quality.balance_by=<column> or data.quality.balance_by=null."
        )
    value = fields.get(column)
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)


def surplus(codes: npt.NDArray[np.int32], identities: Hashes, eligible: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return which eligible examples are too many, so that each code keeps as many as the rarest eligible one has.

    Those with the smallest content hashes stay: the order of the examples does not matter.
    """
    flags = np.zeros(codes.size, np.bool_)
    rows: Positions = np.flatnonzero(eligible)
    if not rows.size:
        return flags
    rows = rows[np.lexsort((identities[rows], codes[rows]))]
    _, starts, counts = np.unique(codes[rows], return_index=True, return_counts=True)
    rank = np.arange(rows.size) - np.repeat(starts, counts)
    flags[rows[rank >= counts.min()]] = True
    return flags
