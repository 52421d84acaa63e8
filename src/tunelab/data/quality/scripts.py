"""In which scripts the letters of a split are written."""

from tunelab.data.quality.words import SCRIPTS, Positions

_SMALLEST_SHARE = 0.0005


def shares(counts: Positions) -> dict[str, float]:
    """Return script → share of the letters, the largest first, four digits; shares below 0.0005 are left out."""
    total = int(counts.sum())
    found = [(count / total, name) for name, count in zip(SCRIPTS, counts.tolist(), strict=True) if count]
    return {name: round(share, 4) for share, name in sorted(found, reverse=True) if share >= _SMALLEST_SHARE}
