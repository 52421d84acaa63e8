"""Racing: when the seeds that a trial has so far show that it is worse than the best, no more of them are run."""

import math
from collections.abc import Mapping
from statistics import fmean, stdev

from tunelab.report.distributions import t_quantile

LEVEL = 0.05  # one-sided; each look at the seeds so far takes it anew


def is_decided(trial: Mapping[int, float], best: Mapping[int, float], higher_is_better: bool) -> bool:
    """Whether a trial is worse than the best, by its values over the seeds that both have.

    The paired differences (positive: the trial is worse) have a lower one-sided 95 % limit, mean − t · sd / √n with
    n − 1 degrees of freedom; it is decided where that is above 0. Two seeds are needed. Where all differences are
    equal, there is no spread, and their sign decides. Racing with paired t tests is that of irace (López-Ibáñez et al.
    2016), there over instances.
    """
    sign = 1 if higher_is_better else -1
    differences = [sign * (best[seed] - value) for seed, value in trial.items() if seed in best]
    if len(differences) < 2:
        return False
    spread = stdev(differences) / math.sqrt(len(differences))
    return fmean(differences) - t_quantile(1 - 2 * LEVEL, len(differences) - 1) * spread > 0
