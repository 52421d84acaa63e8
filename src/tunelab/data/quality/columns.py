"""Columns of numbers that grow block by block, so that millions of examples cost their bytes and little more."""

from typing import Any

import numpy as np
import numpy.typing as npt

BLOCK_ROWS = 65_536


class GrowingColumn:
    """An array that rows are appended to; `width` numbers a row (0: one number, and the array is 1-D)."""

    def __init__(self, dtype: npt.DTypeLike, width: int = 0) -> None:
        self._dtype = np.dtype(dtype)
        self._shape = (width,) if width else ()
        self._blocks: list[npt.NDArray[Any]] = []
        self._num_rows = 0

    def append(self, rows: npt.NDArray[Any]) -> None:
        """Append rows, converted to the column's type."""
        while len(rows):
            used = self._num_rows % BLOCK_ROWS
            if not used:
                self._blocks.append(np.zeros((BLOCK_ROWS, *self._shape), self._dtype))
            head, rows = rows[: BLOCK_ROWS - used], rows[BLOCK_ROWS - used :]
            self._blocks[-1][used : used + len(head)] = head
            self._num_rows += len(head)

    def take(self) -> npt.NDArray[Any]:
        """Return all rows as one array and forget them, block by block: they are never in memory twice."""
        result = np.empty((self._num_rows, *self._shape), self._dtype)
        start = 0
        for index, block in enumerate(self._blocks):
            rows = block[: self._num_rows - start]
            result[start : start + len(rows)] = rows
            start += len(rows)
            self._blocks[index] = block[:0].copy()
        self.__init__(self._dtype, *self._shape)
        return result
