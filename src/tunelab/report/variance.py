"""Analysis of variance over the swept factors: how much each explains, alone and in pairs, whether the cells are
equally filled or not.

Sums of squares are of type II: a term is tested against the model of all terms that do not contain it. Runs of the same
seed are a block where seeds cross the configurations, so that what a seed does to all of them is no noise.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from tunelab.evaluation.statistics import CONFIDENCE, Floats, Interval
from tunelab.report.distributions import f_p_value, t_quantile

SEED = "seed"
Columns = Mapping[str, Sequence[Any]]  # factor → its level in each run
_ESTIMABLE = 1e-6
_TOGETHER = ("how the factors act together (no two of them were changed in one run)",)


@dataclass(frozen=True, slots=True)
class Term:
    """One source of variance. `share`: of the total sum of squares; where nothing is unexplained there is no test."""

    factors: tuple[str, ...]
    degrees: int
    sum_of_squares: float
    share: float
    statistic: float | None = None
    p_value: float | None = None

    @property
    def name(self) -> str:
        """`peft × optim.lr`."""
        return " × ".join(self.factors)


@dataclass(frozen=True, slots=True)
class Effect:
    """The mean at one level of a factor, the others' levels weighted equally (least-squares mean)."""

    factor: str
    level: Any
    mean: float
    interval: Interval


@dataclass(frozen=True, slots=True)
class Analysis:
    """The terms in order, what they leave unexplained, and the effects of the levels.

    `left_out`: factors and pairs that the runs cannot tell apart from the other terms.
    """

    terms: tuple[Term, ...]
    effects: tuple[Effect, ...]
    residual_degrees: int
    residual_share: float
    num_runs: int
    is_balanced: bool
    has_block: bool
    left_out: tuple[str, ...]


def analyse(values: Sequence[float], factors: Columns, seeds: Sequence[int]) -> Analysis | None:
    """Analyse `values` (n,), one for each run; None where nothing was swept, or nothing is left to measure noise by."""
    response = np.asarray(values, dtype=np.float64)
    total = float(((response - response.mean()) ** 2).sum())
    if not factors or len(response) < 3 or total <= 1e-24 * max(1.0, float((response**2).sum())):
        return None
    blocks: Columns = {SEED: seeds} if _crosses(seeds, factors) else {}
    columns: Columns = {**factors, **blocks}
    mains = [(name,) for name in columns]
    pairs = list(combinations(factors, 2))
    if _rank(_design(columns, [*mains, *pairs])) >= len(response):
        pairs = []  # one run in each cell: the pairs are what is left to measure the noise by
    names, left_out = _told_apart(columns, [*mains, *pairs])
    full = _design(columns, names)
    degrees = len(response) - _rank(full)
    if not degrees:
        return None
    terms = [_term(columns, names, name, response, total) for name in names]
    residual = _residual(full, response)
    tested = [_tested(term, residual, degrees) for term in terms]
    return Analysis(
        terms=tuple(tested),
        effects=tuple(_effects(columns, list(factors), response, residual / degrees, degrees)),
        residual_degrees=degrees,
        residual_share=residual / total,
        num_runs=len(response),
        is_balanced=_is_balanced(columns),
        has_block=bool(blocks),
        left_out=tuple(_TOGETHER if len(left_out) > 1 and _are_pairs(left_out, pairs) else left_out),
    )


def _are_pairs(left_out: Sequence[str], pairs: Sequence[tuple[str, ...]]) -> bool:
    """Whether it is all of the pairs, as where one factor was changed at a time, and nothing else."""
    return set(left_out) == {" × ".join(pair) for pair in pairs}


def _term(columns: Columns, names: Sequence[tuple[str, ...]], name: tuple[str, ...], y: Floats, total: float) -> Term:
    others = [other for other in names if not set(name) <= set(other)]
    without, having = _design(columns, others), _design(columns, [*others, name])
    explained = max(0.0, _residual(without, y) - _residual(having, y))
    return Term(name, _rank(having) - _rank(without), explained, explained / total)


def _tested(term: Term, residual: float, degrees: int) -> Term:
    if not term.degrees or residual <= 0:
        return term
    statistic = term.sum_of_squares / term.degrees / (residual / degrees)
    p_value = f_p_value(statistic, term.degrees, degrees)
    return Term(term.factors, term.degrees, term.sum_of_squares, term.share, statistic, p_value)


def _told_apart(columns: Columns, names: Sequence[tuple[str, ...]]) -> tuple[list[tuple[str, ...]], list[str]]:
    """The terms that add something to those before them, and the names of the others."""
    kept: list[tuple[str, ...]] = []
    for name in names:
        if _rank(_design(columns, [*kept, name])) > _rank(_design(columns, kept)):
            kept.append(name)
    return kept, [" × ".join(name) for name in names if name not in kept]


def _effects(columns: Columns, factors: Sequence[str], y: Floats, variance: float, degrees: int) -> list[Effect]:
    """From the additive model; a level whose mean the runs do not determine is left out."""
    names = [(name,) for name in columns]
    design = _design(columns, names)
    inverse = np.linalg.pinv(design)
    weights, spans = inverse @ y, inverse @ design
    levels = {name: _levels(columns[name]) for name in columns}
    effects: list[Effect] = []
    for factor in factors:
        for level in levels[factor]:
            parts = [
                [float(each == level) for each in levels[name]] if name == factor else [1 / len(own)] * len(own)
                for name, own in levels.items()
            ]
            row = np.array([1.0, *(number for part in parts for number in part)])
            if np.abs(row @ spans - row).max() > _ESTIMABLE:
                continue
            mean = float(row @ weights)
            interval = _interval(mean, float(((row @ inverse) ** 2).sum()), variance, degrees)
            effects.append(Effect(factor, level, mean, interval))
    return effects


def _interval(mean: float, weight: float, variance: float, degrees: int) -> Interval:
    half = t_quantile(CONFIDENCE, degrees) * math.sqrt(variance * weight)
    return mean - half, mean + half


def _design(columns: Columns, names: Sequence[tuple[str, ...]]) -> Floats:
    """A column of ones, then an indicator of each level of each term; of more columns than rank, which is fine."""
    count = len(next(iter(columns.values())))
    parts: list[npt.NDArray[np.float64]] = [np.ones((count, 1))]
    for name in names:
        cells = list(zip(*(columns[factor] for factor in name), strict=True))
        levels = _levels(cells)
        parts.append(np.array([[float(cell == level) for level in levels] for cell in cells]))
    return np.hstack(parts)


def _levels(values: Sequence[Any]) -> list[Any]:
    return list(dict.fromkeys(values))


def _rank(design: Floats) -> int:
    return int(np.linalg.matrix_rank(design))


def _residual(design: Floats, y: Floats) -> float:
    found = np.linalg.lstsq(design, y, rcond=None)[0]
    return float(((y - design @ found) ** 2).sum())


def _crosses(seeds: Sequence[int], factors: Columns) -> bool:
    """Whether each seed was run in two configurations or more, and there are two seeds or more."""
    cells = list(zip(seeds, zip(*factors.values(), strict=True), strict=True))
    counts = [len({cell for own, cell in cells if own == seed}) for seed in set(seeds)]
    return len(counts) > 1 and min(counts) > 1


def _is_balanced(columns: Columns) -> bool:
    """Whether all combinations of levels were run, equally often."""
    cells = list(zip(*columns.values(), strict=True))
    expected = int(np.prod([len(_levels(values)) for values in columns.values()]))
    counts = {cells.count(cell) for cell in cells}
    return len(set(cells)) == expected and len(counts) == 1
