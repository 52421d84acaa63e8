"""How numbers are written: a value as finely as its spread allows, the same number of decimals down a column."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

NOTHING = "–"
_MAX_DECIMALS = 6


def decimals_for(spreads: Iterable[float], values: Sequence[float]) -> int:
    """Decimals of a column: two significant digits of the median spread; without one, of the values' differences."""
    known = sorted(spread for spread in spreads if spread > 0)
    if not known:
        gap = max(values, default=0) - min(values, default=0)
        known = [gap / 10 if gap > 0 else abs(values[0] if values else 0) / 100]
    spread = known[len(known) // 2]
    if spread <= 0:
        return 1
    return max(0, min(_MAX_DECIMALS, 1 - math.floor(math.log10(spread))))


def fixed(value: float | None, decimals: int, sign: str = "") -> str:
    """A number with so many decimals and a true minus; `–` for none."""
    if value is None or not math.isfinite(value):
        return NOTHING
    return f"{round(value, decimals) + 0.0:{sign},.{decimals}f}".replace("-", "−")


def p_text(p_value: float | None) -> str:
    """A p-value: 0.032, 4e-06, `–`."""
    if p_value is None:
        return NOTHING
    return f"{p_value:.3f}" if p_value >= 0.001 else f"{p_value:.0e}" if p_value > 1e-99 else "<1e-99"


def count_text(count: float | None) -> str:
    """A count: 9,216 below a hundred thousand, then 1.77 M."""
    if count is None:
        return NOTHING
    for bound, unit in ((1e9, " B"), (1e6, " M")):
        if abs(count) >= bound:
            return f"{count / bound:.3g}{unit}"
    return f"{count:,.0f}"


def seconds_text(seconds: float | None) -> str:
    """A time: 42 s, 12.5 min, 3.1 h."""
    if seconds is None:
        return NOTHING
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def level_text(value: Any) -> str:
    """A value of the configuration: 1e-4, lora, LoraConfig of peft.LoraConfig, null."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        mantissa, _, exponent = f"{value:.4g}".partition("e")
        if 0 < abs(value) < 0.01:
            mantissa, _, exponent = f"{value:.3e}".partition("e")
            mantissa = mantissa.rstrip("0").rstrip(".")
        return f"{mantissa}e{int(exponent)}" if exponent else mantissa
    if isinstance(value, str) and value.startswith("[") and value.endswith("]"):
        return value.replace('"', "")  # a list as it is typed
    if isinstance(value, str) and value.startswith("/"):
        return shown_path(value)
    return str(value)


def shown_path(path: Path | str) -> str:
    """Relative to the working folder where it lies below it."""
    here, place = Path.cwd(), Path(path)
    return str(place.relative_to(here)) if place.is_relative_to(here) and place != here else str(path)


def plural(count: int, noun: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def joined(items: Sequence[str], most: int = 4) -> str:
    """`a, b and 3 more`."""
    if len(items) <= most:
        return ", ".join(items)
    return f"{', '.join(items[:most])} and {len(items) - most} more"
