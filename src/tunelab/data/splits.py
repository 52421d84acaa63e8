"""Which split a row belongs to: decided by the row's own content, so that adding rows moves no other row."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tunelab.data.records import Row
from tunelab.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Splits:
    """Rows of one file, divided; each split keeps the order of the file."""

    train: list[Row]
    validation: list[Row]
    test: list[Row]


def split_rows(rows: Sequence[Row], validation_fraction: float, test_fraction: float) -> Splits:
    """Divide rows by `position`: test from the low end, validation from the high end, train between.

    The two fractions are expectations, not exact counts. Equal rows go to the same split, and changing one
    fraction moves no row in or out of the other's split. Raises ConfigError where the fractions leave
    nothing to train on.
    """
    if validation_fraction + test_fraction >= 1:
        raise ConfigError(
            "data.validation_fraction and data.test_fraction: expected a sum below 1, "
            f"found {validation_fraction} + {test_fraction}; "
            "lower one of them or set data.validation_path or data.test_path."
        )
    splits = Splits([], [], [])
    for row in rows:
        place = position(row.fields)
        if place < test_fraction:
            splits.test.append(row)
        elif place >= 1 - validation_fraction:
            splits.validation.append(row)
        else:
            splits.train.append(row)
    return splits


def position(fields: dict[str, Any]) -> float:
    """Return a number in [0, 1) that depends on the content alone: SHA-256 of the fields' canonical JSON."""
    canonical = json.dumps(fields, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    digest = hashlib.sha256(canonical.encode("ascii")).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53  # 53 bits: the fraction is exact and below 1
