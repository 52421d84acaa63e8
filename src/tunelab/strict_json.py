"""Strict JSON: what it cannot hold is null."""

import math
from typing import Any


def finite(value: Any) -> Any:
    """Replace infinities and nan by None, at any depth of dictionaries, lists and tuples."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value
