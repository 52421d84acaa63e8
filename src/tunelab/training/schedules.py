"""The learning rate as a pure function of the step: warm-up, then one of six shapes."""

import math

from tunelab.config import DecayShape, OptimConfig, Schedule


def learning_rate(config: OptimConfig, peak: float, step: int, total_steps: int) -> float:
    """The learning rate of optimizer step `step` (from 0) of `total_steps`, `peak` being the highest.

    Linear warm-up over `warmup_fraction` of the steps, its first step above 0. Then, with `progress` from 0 at the
    first step after warm-up to 1 at the step after the last:

    - constant: the peak;
    - linear: 1 - progress;
    - cosine (Loshchilov & Hutter 2017): half a wave, (1 + cos(pi * progress)) / 2;
    - cosine_with_restarts (same paper): `num_cycles` such half waves, equally long;
    - wsd (Hu et al. 2024): the peak, and over the last `decay_fraction` of all steps down by `decay_shape`;
    - inverse_sqrt (Vaswani et al. 2017): sqrt(warm-up steps / step).

    All but constant and inverse_sqrt go down to `min_lr_fraction` of the peak instead of 0.
    """
    warmup_steps = _rounded_up(config.warmup_fraction, total_steps)
    if step < warmup_steps:
        return peak * (step + 1) / (warmup_steps + 1)
    if config.schedule is Schedule.constant:
        return peak
    if config.schedule is Schedule.inverse_sqrt:
        return peak * math.sqrt(warmup_steps / step)
    if config.schedule is Schedule.wsd:
        shape = _wsd(config, step, warmup_steps, total_steps)
    else:
        shape = _falling(config, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return peak * (config.min_lr_fraction + (1 - config.min_lr_fraction) * shape)


def _falling(config: OptimConfig, progress: float) -> float:
    """What linear and the cosines are of the peak."""
    if config.schedule is Schedule.linear:
        return 1 - progress
    if config.schedule is Schedule.cosine_with_restarts:
        progress = config.num_cycles * progress % 1
    return (1 + math.cos(math.pi * progress)) / 2


def _wsd(config: OptimConfig, step: int, warmup_steps: int, total_steps: int) -> float:
    """1 until the last `decay_fraction` of the steps, then down by `decay_shape`."""
    decay_steps = min(_rounded_up(config.decay_fraction, total_steps), total_steps - warmup_steps)
    progress = max(0.0, (step - (total_steps - decay_steps)) / max(1, decay_steps))
    if config.decay_shape is DecayShape.linear:
        return 1 - progress
    return (
        (1 + math.cos(math.pi * progress)) / 2 if config.decay_shape is DecayShape.cosine else 1 - math.sqrt(progress)
    )


def _rounded_up(fraction: float, total_steps: int) -> int:
    return math.ceil(round(fraction * total_steps, 6))  # 0.07 * 100 is above 7
