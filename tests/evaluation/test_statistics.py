import math

import numpy as np
import pytest
import scipy.stats

from tunelab.evaluation import statistics
from tunelab.evaluation.statistics import (
    Verdict,
    effect_size,
    holm,
    mcnemar_p_value,
    paired_rate_interval,
    percentile_interval,
    permutation_p_value,
    resampled_sums,
    score_interval_of_difference,
    swapped_sums,
    verdict_of,
    wilson_interval,
)


@pytest.mark.parametrize(("right", "count"), [(0, 1), (1, 1), (0, 50), (50, 50), (3, 7), (81, 263), (9_999, 10_000)])
def test_wilson_is_that_of_scipy(right: int, count: int):
    expected = scipy.stats.binomtest(right, count).proportion_ci(method="wilson")
    assert wilson_interval(right, count) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_as_published():
    # Newcombe, Statistics in Medicine 17 (1998) 857, table I, method 3.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx((0, 0.1611), abs=5e-5)
    assert wilson_interval(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)


@pytest.mark.parametrize(("right", "count"), [(0, 0), (2, 1), (-1, 5)])
def test_no_interval_of_nothing(right: int, count: int):
    with pytest.raises(ValueError, match="expected"):
        wilson_interval(right, count)


def test_difference_of_independent_rates_as_published():
    # Newcombe, Statistics in Medicine 17 (1998) 873, table II (a), method 10: 56/70 less 48/80.
    assert score_interval_of_difference((48, 80), (56, 70)) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_difference_of_paired_rates_covers_the_truth():
    rng = np.random.default_rng(0)
    shared, first, second = rng.random((3, 1000, 40))
    hard = shared < 0.4  # examples that neither has right
    before, after = ~hard & (first < 0.7), ~hard & (second < 0.9)
    covered = 0
    for a, b in zip(before, after, strict=True):
        table = [int(n.sum()) for n in (a & b, a & ~b, ~a & b, ~a & ~b)]
        low, high = paired_rate_interval(*table)
        covered += low <= 0.6 * 0.2 <= high
    assert 0.93 <= covered / 1000 <= 0.985


def test_paired_rates_at_the_edge():
    low, high = paired_rate_interval(0, 0, 40, 0)
    assert (low, high) == pytest.approx((1 - 0.0876 * math.sqrt(2), 1), abs=1e-3)
    low, high = paired_rate_interval(10, 0, 0, 10)
    assert low == -high < 0
    swapped = paired_rate_interval(12, 3, 9, 16)
    assert paired_rate_interval(12, 9, 3, 16) == pytest.approx((-swapped[1], -swapped[0]))


@pytest.mark.parametrize(("first", "second"), [(0, 0), (0, 5), (5, 0), (3, 9), (12, 12), (121, 59), (2000, 2100)])
def test_mcnemar_is_the_binomial_test(first: int, second: int):
    expected = scipy.stats.binomtest(first, first + second).pvalue if first + second else 1.0
    assert mcnemar_p_value(first, second) == pytest.approx(expected, rel=1e-9)


def test_holm_as_published():
    # Holm, Scandinavian Journal of Statistics 6 (1979) 65, by hand; the order of the input is kept.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_draws_are_uniform_and_the_same_for_ever():
    rows = np.eye(5)
    counts = resampled_sums(rows, 20_000)
    assert (counts.sum(axis=1) == 5).all()
    assert counts.mean(axis=0) == pytest.approx(np.ones(5), abs=0.02)
    assert counts.var(axis=0) == pytest.approx(np.full(5, 0.8), abs=0.03)
    assert counts[:2].tolist() == resampled_sums(rows, 20_000)[:2].tolist()
    # PCG64's raw stream, which numpy promises: seed 0 begins so.
    assert counts[0].tolist() == [0, 2, 1, 1, 1]


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch):
    rows = np.random.default_rng(0).random((6, 2))
    whole = resampled_sums(rows, 100), swapped_sums(np.tile(rows, (4, 1)), np.tile(rows[::-1], (4, 1)), 128)[0]
    monkeypatch.setattr(statistics, "_BLOCK_ELEMENTS", 6 * 64)
    assert resampled_sums(rows, 100) == pytest.approx(whole[0])
    parts = swapped_sums(np.tile(rows, (4, 1)), np.tile(rows[::-1], (4, 1)), 128)[0]
    assert parts == pytest.approx(whole[1])


def test_bootstrap_interval_is_near_that_of_scipy():
    rng = np.random.default_rng(0)
    nll, tokens = rng.gamma(2, 3, 120), rng.integers(1, 30, 120).astype(float)
    sums = resampled_sums(np.stack([nll, tokens], axis=1))
    expected = scipy.stats.bootstrap(
        (nll, tokens), lambda a, b, axis: a.sum(axis) / b.sum(axis), paired=True, vectorized=True, n_resamples=9999,
        method="percentile", rng=1,
    )  # fmt: skip
    low, high = expected.confidence_interval
    error = 0.03 * (high - low)  # of the quantiles of 10,000 draws
    assert percentile_interval(sums[:, 0] / sums[:, 1]) == pytest.approx((low, high), abs=error)


def test_interval_of_values_that_are_no_numbers():
    assert percentile_interval(np.array([np.nan, np.inf, 1.0])) is None
    assert percentile_interval(np.array([np.nan, 1.0, 1.0, 1.0])) == (1.0, 1.0)


def test_exact_permutation_is_that_of_scipy():
    rng = np.random.default_rng(0)
    for size in (3, 8, 12):
        first, second = rng.normal(0, 1, size), rng.normal(0.7, 1, size)
        sums, is_exact = swapped_sums(first[:, None], second[:, None])
        assert (len(sums), is_exact) == (2**size, True)
        total = (first + second).sum()
        p_value = permutation_p_value((second - first).mean(), (total - 2 * sums[:, 0]) / size, is_exact)
        expected = scipy.stats.permutation_test(
            (second, first), lambda a, b, axis: (a - b).mean(axis), permutation_type="samples", vectorized=True,
            n_resamples=np.inf,
        )  # fmt: skip
        assert p_value == pytest.approx(expected.pvalue, abs=1e-12)


def test_drawn_permutation_is_near_that_of_the_normal_law():
    rng = np.random.default_rng(1)
    difference = rng.normal(0.1, 1, 400)
    sums, is_exact = swapped_sums(np.zeros((400, 1)), difference[:, None])
    permuted = (difference.sum() - 2 * sums[:, 0]) / 400
    p_value = permutation_p_value(difference.mean(), permuted, is_exact)
    z = difference.mean() / math.sqrt((difference**2).mean() / 400)
    assert not is_exact
    assert p_value == pytest.approx(2 * scipy.stats.norm.sf(z), abs=0.01)


def test_p_values_at_the_edge():
    assert permutation_p_value(0.0, np.array([0.0, 0.0]), True) == 1
    assert permutation_p_value(5.0, np.zeros(99), False) == 0.01
    assert permutation_p_value(5.0, np.array([np.nan, 0.0, 0.0]), False) == 0.5


@pytest.mark.parametrize(
    ("change", "p_value", "higher", "verdict"),
    [
        (0.1, 0.01, True, Verdict.BETTER),
        (0.1, 0.01, False, Verdict.WORSE),
        (-0.1, 0.01, True, Verdict.WORSE),
        (-0.1, 0.01, False, Verdict.BETTER),
        (0.1, 0.05, True, Verdict.NOT_DISTINGUISHABLE),
        (0.0, 0.01, True, Verdict.NOT_DISTINGUISHABLE),
    ],
)
def test_verdict(change: float, p_value: float, higher: bool, verdict: Verdict):
    assert verdict_of(change, p_value, higher) is verdict


def test_effect_size_by_hand():
    assert effect_size(np.array([1.0, 2.0, 3.0])) == 2.0
    assert effect_size(np.array([1.0, 1.0])) is None
    assert effect_size(np.array([1.0])) is None
