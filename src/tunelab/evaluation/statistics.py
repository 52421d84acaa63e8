"""Intervals and paired tests on sums over examples: Wilson, bootstrap, permutation, McNemar, Holm, and a verdict.

A metric is a function of column sums: each example has a row of k numbers (for the loss: nll_sum and token_count), and
the value of a set of examples comes from the sum of their rows. Resampling therefore always draws examples, never
tokens, and one matrix product serves all metrics at once.
"""

import math
from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import cast

import numpy as np
import numpy.typing as npt

NUM_RESAMPLES = 10_000
CONFIDENCE = 0.95
LEVEL = 0.05  # a Holm-adjusted p-value below it makes a difference
SEED = 0
_NORMAL_QUANTILE = 1.959963984540054  # of (1 + CONFIDENCE) / 2
_BLOCK_ELEMENTS = 200_000  # resamples x examples at a time: what a cache holds

Floats = npt.NDArray[np.float64]
Interval = tuple[float, float]


class Verdict(StrEnum):
    """What a test says of the second of two models."""

    BETTER = "better"
    WORSE = "worse"
    NOT_DISTINGUISHABLE = "not distinguishable"


def wilson_interval(num_right: int, count: int) -> Interval:
    """The 95 % score interval of a rate, within [0, 1] (Wilson 1927; no continuity correction).

    Raises ValueError for a count of 0, or more right than there are.
    """
    if not 0 <= num_right <= count or count < 1:
        raise ValueError(f"expected 0 to {count} right of at least 1, found {num_right}")
    rate, square = num_right / count, _NORMAL_QUANTILE**2
    centre = (rate + square / (2 * count)) / (1 + square / count)
    half = _NORMAL_QUANTILE * math.sqrt(rate * (1 - rate) / count + square / (4 * count**2)) / (1 + square / count)
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return (0.0 if num_right == 0 else low, 1.0 if num_right == count else high)


def paired_rate_interval(num_both: int, num_only_first: int, num_only_second: int, num_neither: int) -> Interval:
    """The 95 % interval of the second rate less the first, on the same examples (Newcombe 1998, paired method 10).

    The four counts of examples that both models have right, one of them, or neither. Unlike the bootstrap it has a
    width where all examples agree.
    """
    count = num_both + num_only_first + num_only_second + num_neither
    first, second = num_both + num_only_first, num_both + num_only_second
    product = num_both * num_neither - num_only_first * num_only_second
    corrected = max(product - count / 2, 0) if product > 0 else product
    spread = math.sqrt(first * (count - first) * second * (count - second))
    correlation = corrected / spread if spread else 0.0
    return score_interval_of_difference((first, count), (second, count), correlation)


def score_interval_of_difference(first: tuple[int, int], second: tuple[int, int], correlation: float = 0.0) -> Interval:
    """The 95 % interval of the second rate less the first from Wilson's intervals of both (Newcombe 1998).

    Rates are given as (right, count). `correlation` 0 is for independent samples.
    """
    rate_1, rate_2 = first[0] / first[1], second[0] / second[1]
    (low_1, high_1), (low_2, high_2) = wilson_interval(*first), wilson_interval(*second)

    def distance(below: float, above: float) -> float:
        return math.sqrt(max(0.0, below**2 - 2 * correlation * below * above + above**2))

    change = rate_2 - rate_1
    return change - distance(rate_2 - low_2, high_1 - rate_1), change + distance(high_2 - rate_2, rate_1 - low_1)


def resampled_sums(rows: Floats, num_resamples: int = NUM_RESAMPLES, seed: int = SEED) -> Floats:
    """Draw n of the n `rows` (n, k) with replacement, `num_resamples` times, and return the sums of each draw.

    (num_resamples, k). The draws depend on (n, num_resamples, seed) alone: two models that stand side by side in the
    columns are resampled together, which is the paired bootstrap (Efron 1979; Koehn 2004).
    """
    num_rows = len(rows)
    generator = np.random.PCG64(seed)
    sizes = list(_blocks(num_resamples, num_rows))
    # Used again for each block: fresh memory from the system for each takes longer than the rest.
    drawn = np.empty(max(sizes, default=0) * num_rows, dtype=np.uint64)
    counts = np.empty((max(sizes, default=0), num_rows))
    sums: list[Floats] = []
    for size in sizes:
        draws = _draws(generator, num_rows, drawn[: size * num_rows]).reshape(size, num_rows)
        sums.append(_counts(draws, counts[:size]) @ rows)
    return np.concatenate(sums)


def swapped_sums(
    first: Floats, second: Floats, num_resamples: int = NUM_RESAMPLES, seed: int = SEED
) -> tuple[Floats, bool]:
    """Exchange the two models on a random half of the examples, again and again; return the sums of the first.

    `first`, `second`: (n, k), the same examples. Returns (m, k) sums (those of the second are the grand total less
    these) and whether they are all 2**n exchanges, which is so where these are no more than `num_resamples`.
    """
    num_rows = len(first)
    total, differences = first.sum(axis=0), second - first
    if 2**num_rows <= num_resamples:
        numbers = np.arange(2**num_rows)[:, None] >> np.arange(num_rows)
        return total + (numbers & 1) @ differences, True
    generator = np.random.PCG64(seed)
    sums = [
        total + _bits(generator, size * num_rows).reshape(size, num_rows).astype(np.float64) @ differences
        for size in _blocks(num_resamples, num_rows)
    ]
    return np.concatenate(sums), False


def percentile_interval(values: Floats) -> Interval | None:
    """The middle 95 % of bootstrap values, those that are no numbers left out; None where fewer than half are."""
    finite = values[np.isfinite(values)]
    if 2 * len(finite) < len(values) or not len(finite):
        return None
    tail = (1 - CONFIDENCE) / 2
    low, high = cast(list[float], np.quantile(finite, [tail, 1 - tail]).tolist())
    return low, high


def permutation_p_value(observed: float, permuted: Floats, is_exact: bool) -> float:
    """Two-sided: how often an exchange gives a difference as large as the one observed.

    Where exchanges were drawn, the observed one counts as one more draw, so that p is never 0 (Phipson and Smyth 2010).
    A difference that is no number counts as large.
    """
    bound = abs(observed) * (1 - 1e-9) - 1e-12  # what rounding may take from an equal difference
    num_as_large = int(np.count_nonzero(~(np.abs(permuted) < bound)))
    return num_as_large / len(permuted) if is_exact else (num_as_large + 1) / (len(permuted) + 1)


def mcnemar_p_value(num_only_first: int, num_only_second: int) -> float:
    """Exact two-sided McNemar test: examples that only one of two models has right are a fair coin (McNemar 1947)."""
    num_discordant = num_only_first + num_only_second
    term = tail = 1  # of the binomial coefficients, as whole numbers
    for right in range(min(num_only_first, num_only_second)):
        term = term * (num_discordant - right) // (right + 1)
        tail += term
    return min(1.0, 2 * tail / 2**num_discordant)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust the p-values of a family of tests so that all of them together err in 5 % of cases at most (Holm 1979)."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def verdict_of(change: float, adjusted_p_value: float, higher_is_better: bool) -> Verdict:
    """Say in words what a difference (second less first) and its adjusted p-value mean."""
    if adjusted_p_value >= LEVEL or not change:
        return Verdict.NOT_DISTINGUISHABLE
    return Verdict.BETTER if (change > 0) == higher_is_better else Verdict.WORSE


def effect_size(differences: Floats) -> float | None:
    """Mean over standard deviation of paired differences (Cohen's d_z); None for fewer than 2, or where all agree."""
    spread = float(differences.std(ddof=1)) if len(differences) > 1 else 0.0
    return float(differences.mean()) / spread if spread > 1e-12 else None


def _blocks(num_resamples: int, num_rows: int) -> Iterator[int]:
    """Sizes that add up to `num_resamples`, each small enough for memory."""
    size = max(1, _BLOCK_ELEMENTS // max(1, num_rows))
    for start in range(0, num_resamples, size):
        yield min(size, num_resamples - start)


def _draws(generator: np.random.PCG64, num_rows: int, out: npt.NDArray[np.uint64]) -> npt.NDArray[np.intp]:
    """Row numbers in [0, num_rows), into `out`, from the raw stream, which numpy promises for all versions."""
    words = generator.random_raw(-(-out.size // 2)).view(np.uint32)[: out.size]
    np.multiply(words, np.uint64(num_rows), out=out)  # as 64 bits: the upper half is the row
    out >>= np.uint64(32)
    return out.view(np.intp)


def _bits(generator: np.random.PCG64, number: int) -> npt.NDArray[np.uint8]:
    return np.unpackbits(generator.random_raw(-(-number // 64)).view(np.uint8), count=number)


def _counts(draws: npt.NDArray[np.intp], out: Floats) -> Floats:
    """How often each row was drawn, into `out`: (resamples, rows)."""
    for counted, row in zip(out, draws, strict=True):
        counted[:] = np.bincount(row, minlength=draws.shape[1])
    return out
