"""The statistics of a report, against scipy, statsmodels' own results, and plain loops."""

import math
import random
from itertools import product
from statistics import fmean

import numpy as np
import pytest
import scipy.stats
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tunelab.report.distributions import f_p_value, incomplete_beta, t_p_value, t_quantile
from tunelab.report.noise import Floor
from tunelab.report.seeds import PAIRED, PAIRED_SIGNS, PERMUTED, WELCH, difference, spread_of, standings
from tunelab.report.trade_offs import Point, pareto_front
from tunelab.report.variance import analyse

DEGREES = st.one_of(st.integers(1, 40).map(float), st.floats(1, 1e4))


def seeds(*values: float, first: int = 1) -> dict[int, float]:
    return dict(enumerate(values, start=first))


@settings(max_examples=60, deadline=None)
@given(st.floats(0, 60), DEGREES, st.integers(1, 9))
@example(4.859201996410203e-15, 32.0, 1)
@example(1e-8, 3.0, 2)
def test_tails_are_those_of_scipy(statistic, degrees, numerator):
    assert t_p_value(statistic, degrees) == pytest.approx(
        2 * scipy.stats.t.sf(statistic, degrees), rel=1e-8, abs=1e-250
    )
    expected = scipy.stats.f.sf(statistic, numerator, degrees)
    assert f_p_value(statistic, numerator, degrees) == pytest.approx(expected, rel=1e-8, abs=1e-250)


@pytest.mark.parametrize("degrees", [1, 2, 3.7, 9, 120, 1e5])
def test_quantiles_are_those_of_scipy(degrees):
    assert t_quantile(0.95, degrees) == pytest.approx(scipy.stats.t.ppf(0.975, degrees), rel=1e-9)


def test_the_ends_of_the_distributions():
    assert (incomplete_beta(0, 2, 3), incomplete_beta(1, 2, 3)) == (0, 1)
    assert t_p_value(math.inf, 3) == f_p_value(math.inf, 2, 3) == 0
    assert t_p_value(0, 3) == pytest.approx(1)


def test_the_interval_of_a_mean_is_students():
    values = [0.91, 0.94, 0.9, 0.97]
    spread = spread_of(seeds(*values))
    low, high = scipy.stats.t.interval(0.95, 3, loc=np.mean(values), scale=scipy.stats.sem(values))
    assert spread.interval == pytest.approx((low, high), rel=1e-9)
    assert (spread.mean, spread.deviation) == pytest.approx((np.mean(values), np.std(values, ddof=1)))
    assert spread_of({3: 0.5}).interval is None
    equal = spread_of(seeds(0.3, 0.1 + 0.2, 0.3))
    assert (equal.interval, equal.deviation) == (None, pytest.approx(0))  # three equal figures prove no certainty


def test_the_interval_of_a_fraction_is_cut_where_fractions_end():
    wide = seeds(0.01, 0.02, 0.43)
    low, high = spread_of(wide, is_fraction=True).interval or (None, None)
    assert (low, high) == (0.0, (spread_of(wide).interval or (0, 0))[1])
    assert spread_of(seeds(-0.1, 0.2), is_fraction=True).interval == spread_of(seeds(-0.1, 0.2)).interval


def test_runs_of_the_same_seeds_are_paired():
    first, second = [0.90, 0.92, 0.95, 0.91], [0.93, 0.94, 0.96, 0.95]
    found = difference(seeds(*first), seeds(*second))
    expected = scipy.stats.ttest_rel(second, first)
    interval = expected.confidence_interval(0.95)
    assert (found.test, found.count) == (PAIRED, 4)
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-9)
    assert found.interval == pytest.approx((interval.low, interval.high), rel=1e-9)
    # a seed that only one of them has is left out of the pairs
    assert difference({**seeds(*first), 9: 0.1}, seeds(*second)) == found


def test_runs_of_other_seeds_are_tested_by_welch():
    first, second = [0.90, 0.92, 0.97], [0.93, 0.94, 0.945, 0.935]
    found = difference(seeds(*first), seeds(*second, first=11))
    expected = scipy.stats.ttest_ind(second, first, equal_var=False)
    interval = expected.confidence_interval(0.95)
    assert found.test == WELCH
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-9)
    assert found.interval == pytest.approx((interval.low, interval.high), rel=1e-8)


def test_equal_differences_prove_no_more_than_their_signs():
    found = difference(seeds(0.5, 0.5, 0.5), seeds(0.75, 0.75, 0.75))
    assert (found.test, found.p_value, found.interval) == (PAIRED_SIGNS, 0.25, None)
    apart = difference(seeds(0.5, 0.5, 0.5), seeds(0.75, 0.75, 0.75, first=9))
    assert (apart.test, apart.p_value) == (PERMUTED, 2 / math.comb(6, 3))
    assert difference(seeds(0.5, 0.5), seeds(0.5, 0.5)).p_value == 1
    rounded = difference(seeds(0.1, 0.3), seeds(0.1 + 0.2, 0.3 + 0.2))
    assert rounded.test == PAIRED_SIGNS


def test_one_seed_has_no_test():
    found = difference({1: 0.5}, {1: 0.7})
    assert found.change == pytest.approx(0.2)
    assert (found.p_value, found.interval, found.test) == (None, None, None)
    (standing,) = standings([{1: {1: 0.5}, 2: {1: 0.7}}], [1])
    assert (standing.best, standing.p_value, standing.is_clear) == (2, None, False)


def test_the_best_is_clear_only_where_it_differs_from_every_other():
    clear = {1: seeds(0.90, 0.91, 0.92, 0.90), 2: seeds(0.50, 0.52, 0.51, 0.50), 3: seeds(0.40, 0.43, 0.41, 0.40)}
    close = {**clear, 3: seeds(0.89, 0.92, 0.91, 0.905)}
    first, second = standings([clear, close], [1, 1])
    assert (first.best, first.is_clear) == (1, True)
    assert (second.best, second.is_clear) == (1, False)
    largest = max(scipy.stats.ttest_rel(list(clear[1].values()), list(clear[row].values())).pvalue for row in (2, 3))
    assert first.p_value == pytest.approx(largest, rel=1e-9)
    assert first.p_value_holm == pytest.approx(2 * largest, rel=1e-9)  # two columns
    (lower,) = standings([clear], [-1])
    assert lower.best == 3


def test_the_differences_are_adjusted_over_the_rows():
    rows = {1: seeds(0.9, 0.91, 0.92), 2: seeds(0.85, 0.87, 0.86), 3: seeds(0.8, 0.84, 0.85)}
    (standing,) = standings([rows], [1])
    raw = [standing.others.differences[row].p_value for row in (2, 3)]
    small, large = sorted(raw)
    expected = dict(zip(sorted((2, 3), key=lambda row: standing.others.differences[row].p_value),
                        (min(1, 2 * small), max(2 * small, large)), strict=True))  # fmt: skip
    assert standing.others.p_values_holm == pytest.approx(expected)


def test_equal_configurations_are_seldom_called_different():
    draw, num_clear = random.Random(0), 0
    for _ in range(300):
        rows = {row: seeds(*(draw.gauss(0, 1) for _ in range(4))) for row in range(4)}
        num_clear += standings([rows], [1])[0].is_clear
    assert num_clear <= 0.05 * 300


# Made unequal by leaving out five of eighteen cells; results of statsmodels 0.15, anova_lm(typ=2) of
# y ~ C(a) * C(b) + C(seed), and means of its predictions of y ~ C(a) + C(b) + C(seed) over all combinations.
CELLS = [("x", "u", 2), ("x", "u", 3), ("x", "v", 1), ("x", "v", 3), ("y", "u", 1), ("y", "u", 2), ("y", "u", 3),
         ("y", "v", 2), ("y", "v", 3), ("z", "u", 1), ("z", "u", 3), ("z", "v", 1), ("z", "v", 2)]  # fmt: skip
VALUES = [0.711, 0.954, -0.014, 0.766, 2.381, 2.423, 2.923, 1.649, 1.107, 0.923, 1.106, 0.448, 0.313]
STATSMODELS = {
    "a": (2, 5.477642, 29.323231, 0.001730),
    "b": (1, 1.895501, 20.294210, 0.006371),
    "seed": (2, 0.221301, 1.184680, 0.379184),
    "a × b": (2, 0.463283, 2.480071, 0.178551),
}
MEANS = {"x": 0.5745315602836882, "y": 2.0056989361702127, "z": 0.7144450354609923}


def columns(cells):
    return {"a": [a for a, _, _ in cells], "b": [b for _, b, _ in cells]}, [seed for _, _, seed in cells]


def test_variance_of_unequal_cells_is_that_of_statsmodels():
    found = analyse(VALUES, *columns(CELLS))
    assert found is not None
    assert (found.is_balanced, found.has_block, found.residual_degrees) == (False, True, 5)
    for term in found.terms:
        figures = (term.degrees, term.sum_of_squares, term.statistic, term.p_value)
        assert figures == pytest.approx(STATSMODELS[term.name], abs=1e-6)
    means = {effect.level: effect.mean for effect in found.effects if effect.factor == "a"}
    assert means == pytest.approx(MEANS)


def test_shares_of_equal_cells_add_up_and_are_those_of_plain_loops():
    draw = random.Random(3)
    cells = list(product("xyz", "uv", (1, 2, 3)))
    values = [ord(a) + (b == "u") * draw.random() + 0.1 * seed + draw.random() for a, b, seed in cells]
    found = analyse(values, *columns(cells))
    assert found is not None
    assert found.is_balanced
    assert sum(term.share for term in found.terms) + found.residual_share == pytest.approx(1)
    grand = fmean(values)
    by_a = {a: fmean(v for v, cell in zip(values, cells, strict=True) if cell[0] == a) for a in "xyz"}
    assert found.terms[0].sum_of_squares == pytest.approx(sum(6 * (mean - grand) ** 2 for mean in by_a.values()))
    assert {each.level: each.mean for each in found.effects if each.factor == "a"} == pytest.approx(by_a)


def test_one_factor_is_the_f_test_of_scipy():
    groups = [[0.9, 0.91, 0.95], [0.8, 0.85, 0.83], [0.88, 0.9]]
    values = [value for group in groups for value in group]
    levels = [str(index) for index, group in enumerate(groups) for _ in group]
    found = analyse(values, {"a": levels}, list(range(len(values))))
    expected = scipy.stats.f_oneway(*groups)
    assert found is not None
    assert (found.terms[0].statistic, found.terms[0].p_value) == pytest.approx((expected.statistic, expected.pvalue))
    assert not found.has_block


def test_what_cannot_be_told_apart_is_said():
    cells = list(product("xy", (1, 2, 3)))
    found = analyse(
        [1, 2, 3, 2, 3, 5], {"a": [a for a, _ in cells], "b": [a * 2 for a, _ in cells]}, [s for _, s in cells]
    )
    assert found is not None
    assert [term.name for term in found.terms] == ["a", "seed"]
    assert "b" in found.left_out
    assert {effect.factor for effect in found.effects} == set()  # a and b: neither mean is determined


def test_one_run_a_cell_leaves_the_pair_as_noise():
    cells = list(product("xyz", "uv"))
    found = analyse([1, 2, 2, 4, 5, 5.5], {"a": [a for a, _ in cells], "b": [b for _, b in cells]}, [1] * 6)
    assert found is not None
    assert ([term.name for term in found.terms], found.residual_degrees) == (["a", "b"], 2)
    assert analyse([1, 1, 1], {"a": ["x", "y", "z"]}, [1, 1, 1]) is None


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=12))
def test_the_front_holds_what_nothing_else_beats(pairs):
    points = [Point(number, float(cost), float(quality)) for number, (cost, quality) in enumerate(pairs)]
    front = {(point.cost, point.quality) for point in pareto_front(points)}
    expected = {
        (p.cost, p.quality)
        for p in points
        if not any(q.cost <= p.cost and q.quality >= p.quality and (q.cost, q.quality) != (p.cost, p.quality)
                   for q in points)
    }  # fmt: skip
    assert front == expected


def test_differences_below_a_floor_are_marked_with_the_lower_one():
    floor = Floor(same_seed=0.01, other_seeds=0.05, source="noise.json")
    assert floor.mark(0.01, 3, 3) == "below the noise of repeating the same seed"
    assert floor.mark(0.02, 3, 3) == "below the noise of other seeds"
    assert floor.mark(-0.0801, 3, 3) is None  # 1.96 · 0.05 · √(2/3) = 0.0800
    assert Floor(0.0, None, "").mark(0.0001, 1, 1) is None
