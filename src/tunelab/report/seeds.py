"""What several seeds say: mean, spread and interval of a configuration, and tests of one against another."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from tunelab.evaluation.statistics import CONFIDENCE, LEVEL, Interval, holm
from tunelab.report.distributions import t_p_value, t_quantile

Seeds = Mapping[int, float]  # seed → value
Column = Mapping[int, Seeds]  # of a table: row → its seeds
PAIRED, WELCH = "paired t", "Welch's t"
PAIRED_SIGNS, PERMUTED = "exact sign flips", "exact permutation"  # where there is no spread to divide by
_NO_SPREAD = 1e-12  # relative: what rounding leaves of equal numbers


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean over `count` seeds; standard deviation (n - 1) and 95 % t interval of the mean where there are two.

    Equal values say nothing of the spread that others would have: they have no interval.
    """

    mean: float
    count: int
    deviation: float | None = None
    interval: Interval | None = None


@dataclass(frozen=True, slots=True)
class Difference:
    """One configuration less another. `count`: pairs of seeds, or seeds of both; None where no test is possible."""

    change: float
    count: int
    interval: Interval | None = None
    p_value: float | None = None
    test: str | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """One column of a table: every other row less the row `to`. `p_values_holm`: adjusted over the rows."""

    to: int
    differences: Mapping[int, Difference]
    p_values_holm: Mapping[int, float]


@dataclass(frozen=True, slots=True)
class Standing:
    """One column of a table: the others compared with the best row, and whether the best is distinguishable.

    `p_value`: the largest unadjusted one, which is the test that the best differs from every other row
    (intersection-union; Berger 1982); `p_value_holm`: adjusted over the columns of the table.
    """

    others: Comparison
    p_value: float | None
    p_value_holm: float | None = None

    @property
    def best(self) -> int:
        """The number of the best row."""
        return self.others.to

    @property
    def is_clear(self) -> bool:
        """Whether the best row may be set in bold."""
        return self.p_value_holm is not None and self.p_value_holm < LEVEL


def spread_of(values: Seeds, is_fraction: bool = False) -> Spread:
    """Mean, standard deviation and interval over seeds; that of a fraction is cut at 0 and 1."""
    numbers = list(values.values())
    mean = fmean(numbers)
    if len(numbers) < 2:
        return Spread(mean, len(numbers))
    deviation = stdev(numbers)
    if deviation <= _NO_SPREAD * max(map(abs, numbers)):
        return Spread(mean, len(numbers), deviation)
    low, high = _around(mean, deviation / math.sqrt(len(numbers)), len(numbers) - 1)
    if is_fraction and min(numbers) >= 0 and max(numbers) <= 1:
        low, high = max(0.0, low), min(1.0, high)
    return Spread(mean, len(numbers), deviation, (low, high))


def difference(first: Seeds, second: Seeds) -> Difference:
    """The second less the first: paired by seed where both have two seeds or more in common, else Welch's test."""
    shared = sorted(first.keys() & second.keys())
    if len(shared) >= 2:
        return _paired([second[seed] - first[seed] for seed in shared])
    change = fmean(second.values()) - fmean(first.values())
    if len(first) < 2 or len(second) < 2:
        return Difference(change, min(len(first), len(second)))
    return _welch(list(first.values()), list(second.values()))


def compare(column: Column, to: int) -> Comparison:
    """Every other row less the row `to`, with p-values after Holm's adjustment over the rows."""
    differences = {row: difference(column[to], values) for row, values in column.items() if row != to}
    p_values = {row: p for row, each in differences.items() if (p := each.p_value) is not None}
    return Comparison(to, differences, dict(zip(p_values, holm(list(p_values.values())), strict=True)))


def standings(columns: Sequence[Column], signs: Sequence[int]) -> list[Standing]:
    """The standing in each column, of which higher is better times its sign."""
    found = [_standing(column, sign) for column, sign in zip(columns, signs, strict=True)]
    tested = [index for index, each in enumerate(found) if each.p_value is not None]
    adjusted = holm([p for each in found if (p := each.p_value) is not None])
    for index, p_value in zip(tested, adjusted, strict=True):
        each = found[index]
        found[index] = Standing(each.others, each.p_value, p_value)
    return found


def _standing(column: Column, sign: int) -> Standing:
    others = compare(column, max(column, key=lambda row: sign * fmean(column[row].values())))
    found = list(others.differences.values())
    p_values = [p for each in found if (p := each.p_value) is not None]
    wins = all(sign * each.change < 0 for each in found)  # on shared seeds it may be the other way
    complete = len(found) > 0 and len(p_values) == len(found)
    largest = (max(p_values) if wins else 1.0) if complete else None
    return Standing(others, largest)


def _paired(changes: Sequence[float]) -> Difference:
    mean, deviation, count = fmean(changes), stdev(changes), len(changes)
    if deviation <= _NO_SPREAD * max(map(abs, changes)):
        p_value = min(1.0, 2 / 2**count) if mean else 1.0
        return Difference(mean, count, None, p_value, PAIRED_SIGNS)
    error = deviation / math.sqrt(count)
    return Difference(mean, count, _around(mean, error, count - 1), t_p_value(mean / error, count - 1), PAIRED)


def _welch(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Unequal variances; the degrees of freedom are Welch's and Satterthwaite's."""
    change, count = fmean(second) - fmean(first), min(len(first), len(second))
    parts = [(stdev(values) ** 2 / len(values), len(values) - 1) for values in (first, second)]
    variance = sum(part for part, _ in parts)
    if math.sqrt(variance) <= _NO_SPREAD * max(map(abs, (*first, *second)), default=0.0):
        ways = math.comb(len(first) + len(second), len(first))
        return Difference(change, count, None, min(1.0, 2 / ways) if change else 1.0, PERMUTED)
    degrees = variance**2 / sum(part**2 / own for part, own in parts)
    error = math.sqrt(variance)
    return Difference(change, count, _around(change, error, degrees), t_p_value(change / error, degrees), WELCH)


def _around(value: float, error: float, degrees: float) -> Interval:
    half = t_quantile(CONFIDENCE, degrees) * error
    return value - half, value + half
