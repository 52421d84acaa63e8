import numpy as np
import pytest

from tunelab.data.quality import columns
from tunelab.data.quality.columns import GrowingColumn


@pytest.mark.parametrize("width", [0, 3])
@pytest.mark.parametrize("sizes", [[], [0], [4], [3, 5, 1], [8, 8], [25, 1]])
def test_rows_come_back_in_order_and_once(width: int, sizes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "BLOCK_ROWS", 4)
    shape = (width,) if width else ()
    generator = np.random.default_rng(0)
    parts = [generator.integers(0, 1000, (size, *shape)).astype(np.uint64) for size in sizes]
    column = GrowingColumn(np.uint16, width)
    for part in parts:
        column.append(part)
    taken = column.take()
    assert taken.dtype == np.uint16
    assert taken.shape == (sum(sizes), *shape)
    assert taken.tolist() == [row for part in parts for row in part.tolist()]
    assert column.take().shape == (0, *shape)
    column.append(np.ones((2, *shape)))
    assert column.take().shape == (2, *shape)
