"""Optuna's pruners as the configuration names them, and when a run has a validation that one of them can judge."""

from collections.abc import Sequence

from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner

from tunelab.config import Pruner, RunConfig, SearchConfig
from tunelab.errors import ConfigError
from tunelab.sweeping.searching.objectives import VALIDATED, Objective


def make_pruner(settings: SearchConfig, first_step: int | None) -> BasePruner:
    """The pruner; `first_step`: the first that a trial has reported, None before that."""
    if settings.pruner is Pruner.median:
        trials, steps = settings.prune_after_trials, settings.prune_after_steps
        return MedianPruner(5 if trials is None else trials, n_warmup_steps=steps or 0)
    if settings.pruner is Pruner.none or (settings.min_steps or first_step) is None:
        return NopPruner()
    least, factor = settings.min_steps or first_step or 1, settings.reduction_factor
    if settings.pruner is Pruner.hyperband:
        return HyperbandPruner(min_resource=least, reduction_factor=factor or 3)
    return SuccessiveHalvingPruner(min_resource=least, reduction_factor=factor or 4)


def check_pruner(settings: SearchConfig, objectives: Sequence[Objective]) -> None:
    """Raise a ConfigError where the pruner cannot judge these objectives."""
    make_pruner(settings, 1)
    if settings.pruner is Pruner.none:
        return
    if len(objectives) > 1:
        raise ConfigError(
            f"search.pruner: expected one objective, found {len(objectives)}, for which Optuna does not prune; set "
            "search.pruner=none, or one of search.objectives."
        )
    if not objectives[0].is_validated:
        raise ConfigError(
            f"search.pruner: expected a figure of validations as the objective, found {objectives[0].name}, which is "
            "known at the end of a run only; set search.pruner=none, or search.objectives=[val/<metric>]."
        )


def require_judging(settings: SearchConfig, objective: Objective, configs: Sequence[RunConfig]) -> None:
    """Raise a ConfigError where none of these runs is validated in time, so that nothing would ever be pruned.

    A run that counts epochs is taken as one that is: how many steps it has, its data decide.
    """
    if settings.pruner is Pruner.none:
        return
    last = [_last_judged(config, objective) for config in configs]
    if any(step is None or step >= (_first_asked(settings) or 1) for step in last):
        return
    if not any(last):
        steps = configs[0].trainer.max_steps or 1
        validations = _every(configs[0], objective) // _every(configs[0])  # from one that counts to the next
        fewer = max(1, steps // 5 // validations)
        remedy = f"set trainer.val_every_steps={fewer}" if steps > fewer * validations else "raise trainer.max_steps"
        raise ConfigError(
            f"trainer.val_every_steps: expected validations of {objective.name} before the end of a run, by which "
            f"search.pruner={settings.pruner.value} ends it, found the first at its end, step {steps}; {remedy}, or "
            "search.pruner=none."
        )
    key = "prune_after_steps" if settings.pruner is Pruner.median else "min_steps"
    raise ConfigError(
        f"search.{key}: expected a step that is validated before the end of a run, the last of which is at step "
        f"{max(step for step in last if step)}, found {_first_asked(settings)}; lower it, or raise trainer.max_steps."
    )


def _first_asked(settings: SearchConfig) -> int | None:
    """The first step at which the pruner ends a trial, as far as it is given."""
    return settings.prune_after_steps if settings.pruner is Pruner.median else settings.min_steps


def _last_judged(config: RunConfig, objective: Objective) -> int | None:
    """The last step before the end at which the objective is measured; 0 for none, None where the data decide."""
    steps = config.trainer.max_steps
    return None if steps is None else (steps - 1) // _every(config, objective) * _every(config, objective)


def _every(config: RunConfig, objective: Objective | None = None) -> int:
    """Steps from one validation to the next, or to the next that measures `objective`."""
    trainer = config.trainer
    every = trainer.val_every_steps or max(1, (trainer.max_steps or 1) // 5)
    is_scored = objective is not None and objective.name.partition("/")[2] not in VALIDATED
    return every * (trainer.score_every_validations or 1) if is_scored else every
