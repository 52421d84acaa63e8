"""Finds the whole number whose size comes nearest to a target, where a size only grows, or only falls."""

from collections.abc import Callable

LIMIT = 2**24


def nearest(size: Callable[[int], int | None], target: float, start: int, last: int = LIMIT) -> int | None:
    """The number from 1 to `last` whose `size` is nearest to `target`; None where there is none.

    `size` is monotone, and None for numbers that are too large. `start`: where to look first. A size that is affine in
    its number, as most are, is asked for about five times.
    """
    first = size(1)
    if first is None:
        return None
    second = size(2) if last > 1 else first
    sign = -1 if second is not None and second < first else 1

    def excess(number: int) -> float | None:
        found = size(number)
        return None if found is None else sign * (found - target)

    low, high = 1, max(1, min(start, last))
    if sign * (first - target) >= 0:
        return 1
    while high < last and (high == 1 or _is_below(excess(high))):
        if low < high and size(high) == size(low):
            return _smallest(size, low, high)
        low, high = high, min(2 * high, last)
    return _between(excess, low, high)


def _between(excess: Callable[[int], float | None], low: int, high: int) -> int:
    """By interpolation, and by halves where that is slow; `excess` is below 0 at `low`."""
    turn = 0
    while high - low > 1:
        below, above = excess(low), excess(high)
        assert below is not None
        turn += 1
        if above is None or turn % 3 == 0:
            middle = (low + high) // 2
        else:
            middle = low + int(-below / max(above - below, 1) * (high - low))
        middle = min(max(middle, low + 1), high - 1)
        low, high = (middle, high) if _is_below(excess(middle)) else (low, middle)
    above, below = excess(high), excess(low)
    return low if above is None or (below is not None and abs(below) <= abs(above)) else high


def _smallest(size: Callable[[int], int | None], low: int, high: int) -> int:
    """The first number of the size that no larger one exceeds; `low` has it."""
    wanted, bottom, top = size(high), 1, low
    while bottom < top:
        middle = (bottom + top) // 2
        bottom, top = (bottom, middle) if size(middle) == wanted else (middle + 1, top)
    return bottom


def _is_below(excess: float | None) -> bool:
    return excess is not None and excess < 0
