"""Whether a figure that was measured again agrees: to the bit, within the noise, or not."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from statistics import NormalDist, fmean

from tunelab.evaluation.statistics import LEVEL
from tunelab.report.distributions import t_quantile
from tunelab.report.noise import Floor, pooled


class Verdict(Enum):
    """What became of a run or a figure, the best first."""

    identical = "bit-identical"  # the same weights and the same figures
    equal = "equal"  # the same figures
    within_noise = "within noise"
    differs = "differs"
    missing = "not measured"  # the run did not finish, or has no such figure

    @property
    def agrees(self) -> bool:
        """Whether it was reproduced."""
        return self in (Verdict.identical, Verdict.equal, Verdict.within_noise)


ORDER = tuple(Verdict)


@dataclass(frozen=True, slots=True)
class Scale:
    """The standard deviation that a figure is judged by; `degrees` of freedom, None where it is taken as known."""

    deviation: float
    degrees: int | None
    source: str


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure before and now (None: there is none), and what is allowed to lie between them (None: not known)."""

    before: float
    now: float | None
    tolerance: float | None
    verdict: Verdict

    @property
    def change(self) -> float | None:
        """Now less before."""
        return None if self.now is None else self.now - self.before


def scales(
    metrics: Sequence[str], floors: Mapping[str, Floor], rows: Iterable[Mapping[str, Mapping[int, float]]]
) -> dict[str, Scale]:
    """Of each metric the noise of its study, else the pooled deviation over seeds of `rows` (metric → seed → value).

    Of a study the wider deviation holds: on another machine the same seed may go another way.
    """
    tables = list(rows)
    found: dict[str, Scale] = {}
    for name in metrics:
        floor = floors.get(name)
        known = [each for each in (floor.same_seed, floor.other_seeds) if each is not None] if floor else []
        deviation, degrees = pooled([list(row.get(name, {}).values()) for row in tables])
        if floor and known:
            found[name] = Scale(max(known), None, floor.source)
        elif deviation is not None:
            found[name] = Scale(deviation, degrees, "the seeds of the table")
    return found


def tolerance(scale: Scale | None, count: int, num_compared: int) -> float | None:
    """The largest difference of two means over `count` runs each that is noise: q · deviation · √(2/n).

    q is the two-sided 95 % quantile of the normal distribution, or of Student's t where the deviation is estimated from
    few runs, with Bonferroni's adjustment for `num_compared` figures: one table in twenty has one above by luck.
    """
    if scale is None:
        return None
    level = LEVEL / max(1, num_compared)
    degrees = scale.degrees
    quantile = NormalDist().inv_cdf(1 - level / 2) if degrees is None else t_quantile(1 - level, degrees)
    return quantile * scale.deviation * math.sqrt(2 / count)


def judge(before: Sequence[float], now: Sequence[float | None], scale: Scale | None, num_compared: int) -> Figure:
    """The means of a figure over runs, before and now, pair by pair; `missing` where one run has none now."""
    found = [value for value in now if value is not None]
    mean = fmean(before)
    if len(found) < len(before):
        return Figure(mean, None, None, Verdict.missing)
    allowed, again = tolerance(scale, len(before), num_compared), fmean(found)
    if list(before) == found:
        verdict = Verdict.equal
    elif allowed is not None and abs(again - mean) <= allowed:
        verdict = Verdict.within_noise
    else:
        verdict = Verdict.differs
    return Figure(mean, again, allowed, verdict)


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The one of them that says least good."""
    return max(verdicts, key=ORDER.index)
