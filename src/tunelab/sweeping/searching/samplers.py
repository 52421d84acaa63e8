"""Optuna's samplers as the configuration names them, and the choices that do not go together."""

import itertools
from collections.abc import Sequence

from optuna.samplers import BaseSampler, CmaEsSampler, NSGAIISampler, RandomSampler, TPESampler

from tunelab.config import Sampler, SearchConfig
from tunelab.errors import ConfigError
from tunelab.sweeping.searching.objectives import Objective
from tunelab.sweeping.searching.pruning import check_pruner
from tunelab.sweeping.searching.space import Choices, Integers, Reals, Space

POPULATION = 10  # of NSGA-II, where none is given; Optuna's own 50 is more trials than most searches here have


def make_sampler(settings: SearchConfig, number: int) -> BaseSampler:
    """The sampler of one trial: anew for each, so that a search that was killed goes on as if it had not been."""
    if settings.sampler is Sampler.grid:
        return RandomSampler()  # nothing is drawn
    seed = settings.seed + number
    if settings.sampler is Sampler.tpe:
        startup = settings.num_startup_trials
        return TPESampler(seed=seed) if startup is None else TPESampler(seed=seed, n_startup_trials=startup)
    if settings.sampler is Sampler.cmaes:
        return CmaEsSampler(seed=seed, popsize=settings.population_size)
    if settings.sampler is Sampler.nsgaii:
        return NSGAIISampler(seed=seed, population_size=settings.population_size or POPULATION)
    return RandomSampler(seed=seed)


def check_settings(settings: SearchConfig, space: Space, objectives: Sequence[Objective]) -> None:
    """Raise a ConfigError where the sampler cannot search this space, or the pruner cannot judge these objectives."""
    _check_sampler(settings, space, objectives)
    make_sampler(settings, 0)
    if settings.racing and len(objectives) > 1:
        raise ConfigError(
            f"search.racing: expected one objective, found {len(objectives)}, of which none alone says what is worse; "
            "set search.racing=false, or one of search.objectives."
        )
    check_pruner(settings, objectives)


def _check_sampler(settings: SearchConfig, space: Space, objectives: Sequence[Objective]) -> None:
    sampler = settings.sampler
    interval = next((each for each in space.parameters if isinstance(each, Reals) and each.step is None), None)
    if sampler is Sampler.grid and interval is not None:
        raise ConfigError(
            f"search.sampler: expected values that can be counted for a grid, found an interval for {interval.key}; "
            f"set {interval.key}=a,b,c or range(<start>,<stop>,<step>), or search.sampler=random."
        )
    if sampler is Sampler.cmaes:
        choices = next((each.key for each in space.parameters if isinstance(each, Choices)), None)
        if choices is not None or space.conditions:
            raise ConfigError(
                f"search.sampler: expected intervals of numbers for cmaes, found {choices or 'conditions'}; set "
                f"{choices or '<key>'}=interval(<low>,<high>), or search.sampler=tpe."
            )
        if len(objectives) > 1:
            raise ConfigError(
                f"search.sampler: expected one objective for cmaes, found {len(objectives)}; set "
                "search.sampler=nsgaii or tpe."
            )
    if sampler is Sampler.nsgaii:
        size = settings.population_size or POPULATION
        if settings.num_trials <= size:
            raise ConfigError(
                f"search.num_trials: expected more than the {size} trials of the first population, which nsgaii draws "
                f"at random, found {settings.num_trials}; raise it, or lower search.population_size."
            )


def grid_points(space: Space) -> list[dict[str, str | int | float]]:
    """All combinations in the order typed, the last key fastest; one whose conditions leave a key out occurs once."""
    points: list[dict[str, str | int | float]] = []
    for values in itertools.product(*(_values(each) for each in space.parameters)):
        texts = {each.key: str(value) for each, value in zip(space.parameters, values, strict=True)}
        point = {key: value for key, value in zip(texts, values, strict=True) if space.is_searched(key, texts)}
        if point not in points:
            points.append(point)
    return points


def _values(parameter: Choices | Reals | Integers) -> list[str] | list[int] | list[float]:
    if isinstance(parameter, Choices):
        return list(parameter.values)
    if isinstance(parameter, Integers):
        return list(range(parameter.low, parameter.high + 1, parameter.step))
    return parameter.steps()
