"""Which split a row belongs to: decided by the row's own content, so that adding rows moves no other row."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from tunelab.config import DataConfig
from tunelab.data.records import Row
from tunelab.errors import ConfigError, DataError


@dataclass(frozen=True, slots=True)
class Divider:
    """Divides rows by `position`: test from the low end, validation from the high end, train between.

    The two fractions are expectations, not exact counts. Equal rows go to the same split, and changing one fraction
    moves no row in or out of the other's split. With `group_by` the position is that of the row's value in this column:
    rows with the same value stay together.
    """

    validation_fraction: float
    test_fraction: float
    group_by: str | None = None

    @classmethod
    def create(cls, config: DataConfig) -> "Divider":
        """Read the fractions of the splits that are not given as files. Raises ConfigError where nothing is left."""
        validation = config.validation_fraction if config.validation_path is None else 0.0
        test = config.test_fraction if config.test_path is None else 0.0
        if validation + test >= 1:
            raise ConfigError(
                "data.validation_fraction and data.test_fraction: expected a sum below 1, "
                f"found {validation} + {test}; lower one of them or set data.validation_path or data.test_path."
            )
        return cls(validation, test, config.group_by if validation + test else None)

    def split(self, row: Row) -> str:
        """Return "train", "validation" or "test". Raises DataError for a row without the column to group by."""
        if not self.validation_fraction + self.test_fraction:
            return "train"
        place = position(row.fields if self.group_by is None else {self.group_by: self._group(row)})
        if place < self.test_fraction:
            return "test"
        return "validation" if place >= 1 - self.validation_fraction else "train"

    def _group(self, row: Row) -> Any:
        if self.group_by not in row.fields:
            raise DataError(
                f"{row.origin}: expected a column {self.group_by!r} to group rows by, found "
                f"{', '.join(map(repr, row.fields)) or 'no columns'}; set data.group_by=<column>."
            )
        return row.fields[self.group_by]


def position(fields: dict[str, Any], salt: str = "") -> float:
    """Return a number in [0, 1) that depends on the content alone: SHA-256 of the fields' canonical JSON.

    Another `salt` gives an independent number.
    """
    canonical = json.dumps(fields, sort_keys=True, ensure_ascii=True, separators=(",", ":"), default=str)
    digest = hashlib.sha256((salt + canonical).encode("ascii")).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53  # 53 bits: the fraction is exact and below 1
