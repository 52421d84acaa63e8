"""Student's t, Fisher's F and the chi-square distribution: what small samples need, without scipy."""

import math
from collections.abc import Callable
from functools import cache

_TINY = 1e-300
_SMALL_F = 1e-3


def t_p_value(statistic: float, degrees: float) -> float:
    """Two-sided: the probability of a |t| as large, with so many degrees of freedom."""
    return f_p_value(statistic**2, 1, degrees)


@cache
def t_quantile(confidence: float, degrees: float) -> float:
    """The |t| that is not exceeded with probability `confidence`, two-sided."""
    return _first_beyond(lambda value: t_p_value(value, degrees) > 1 - confidence)


def f_p_value(statistic: float, degrees: float, residual_degrees: float) -> float:
    """The probability of an F as large."""
    if math.isinf(statistic):
        return 0.0
    total = residual_degrees + degrees * statistic
    if statistic < _SMALL_F:  # from the other end: 1 - x would lose its digits
        return 1 - incomplete_beta(degrees * statistic / total, degrees / 2, residual_degrees / 2)
    ratio = residual_degrees / total
    return incomplete_beta(ratio, residual_degrees / 2, degrees / 2)


@cache
def chi_square_quantile(probability: float, degrees: float) -> float:
    """The value that a chi-square with so many degrees of freedom stays below with `probability`."""
    return _first_beyond(lambda value: incomplete_gamma(degrees / 2, value / 2) < probability)


def _first_beyond(is_short: Callable[[float], bool]) -> float:
    """The least value above 0 that is not short, of those above which none is; by bisection."""
    low, high = 0.0, 1.0
    while is_short(high):
        high *= 2
    while high - low > 1e-13 * high:
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if is_short(middle) else (low, middle)
    return high


def incomplete_gamma(a: float, x: float) -> float:
    """The regularised lower incomplete gamma function P(a, x), by its series (Abramowitz and Stegun 1964, 6.5.29)."""
    if x <= 0:
        return 0.0
    term = total = 1 / a
    step = a
    while term > 1e-17 * total:
        step += 1
        term *= x / step
        total += term
    return min(1.0, total * math.exp(a * math.log(x) - x - math.lgamma(a)))


def incomplete_beta(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b), of x in [0, 1] (Abramowitz and Stegun 1964, 26.5.8)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # the fraction converges fast on the other side
        return 1 - incomplete_beta(1 - x, b, a)
    logarithm = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(logarithm) / a / _fraction(x, a, b)


def _fraction(x: float, a: float, b: float) -> float:
    """1 + d1/(1 + d2/(1 + …)), evaluated from the front (modified Lentz method; Thompson and Barnett 1986)."""
    value, numerator, denominator = 1.0, 1.0, 0.0
    for step in range(1, 10_000):
        half, odd = divmod(step, 2)
        if odd:
            term = -(a + half) * (a + b + half) * x / ((a + 2 * half) * (a + 2 * half + 1))
        else:
            term = half * (b - half) * x / ((a + 2 * half - 1) * (a + 2 * half))
        denominator = 1 / ((1 + term * denominator) or _TINY)
        numerator = (1 + term / numerator) or _TINY
        value *= numerator * denominator
        if abs(numerator * denominator - 1) < 1e-15:
            break
    return value
