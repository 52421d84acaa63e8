"""What repeated runs of one configuration say of its noise: standard deviations with their intervals."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from tunelab.evaluation.statistics import CONFIDENCE, Interval
from tunelab.report.distributions import chi_square_quantile


@dataclass(frozen=True, slots=True)
class Deviation:
    """The standard deviation (n - 1) of `count` values, and its 95 % interval; None where there is no spread."""

    value: float
    count: int
    interval: Interval | None


@dataclass(frozen=True, slots=True)
class Noise:
    """The noise of one figure: between runs of the same seed, and between seeds; None of fewer than two values."""

    mean: float
    num_runs: int
    same_seed: Deviation | None
    other_seeds: Deviation | None

    def to_dict(self) -> dict[str, Any]:
        """As noise.json has it: `same_seed` and `other_seeds` are what a report reads."""
        both = {"same_seed": self.same_seed, "other_seeds": self.other_seeds}
        return {
            **{name: each.value if each else None for name, each in both.items()},
            "n": self.num_runs,
            **{f"{name}_n": each.count for name, each in both.items() if each},
            **{f"{name}_interval": list(each.interval) for name, each in both.items() if each and each.interval},
            "mean": self.mean,
        }


def noise_of(by_seed: Mapping[int, Sequence[float]], own_seed: int) -> Noise:
    """The noise of a figure, seed → values of its runs. A seed that was run several times is one value, their mean."""
    means = [fmean(values) for values in by_seed.values()]
    num_runs = sum(map(len, by_seed.values()))
    return Noise(fmean(means), num_runs, deviation_of(by_seed.get(own_seed, [])), deviation_of(means))


def deviation_of(values: Sequence[float]) -> Deviation | None:
    """The standard deviation of values that are normally distributed, with s·√((n - 1) / χ²) as its interval."""
    if len(values) < 2:
        return None
    found, degrees = stdev(values), len(values) - 1
    if not found:
        return Deviation(found, len(values), None)
    tail = (1 - CONFIDENCE) / 2
    low, high = (found * math.sqrt(degrees / chi_square_quantile(p, degrees)) for p in (1 - tail, tail))
    return Deviation(found, len(values), (low, high))
