"""What the quality checks found, as plain values for `data_report.json` and the pages."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

MAX_ORIGINS = 5


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found in one split. `detail` is a sentence for a person; it never quotes a secret.

    `num_examples` counts the examples found, `num_dropped` those left out for this very check (an example that several
    checks would drop is counted by the first). `origins` are the first of the examples found.
    """

    check: str
    split: str
    action: str
    num_examples: int
    num_dropped: int
    origins: tuple[str, ...]
    detail: str


@dataclass(frozen=True, slots=True)
class QualityReport:
    """All findings; a check of `checks` without a finding found nothing.

    `checks` are those that ran, with their actions. `label_balance` is split → response or value → examples, where
    there are few of them. `scripts` is split → Unicode script → share of the letters, `num_checked` split → examples.
    """

    checks: dict[str, str]
    findings: list[Finding]
    label_balance: dict[str, dict[str, int]]
    scripts: dict[str, dict[str, float]]
    num_checked: dict[str, int]


def first_places(found: npt.NDArray[np.bool_]) -> list[int]:
    """Return where the first MAX_ORIGINS found examples stand."""
    return [int(place) for place in np.flatnonzero(found)[:MAX_ORIGINS]]
