"""`python train.py -m hydra/sweeper=optuna`: from what was typed to the space, from a trial's values to its jobs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep
from omegaconf import DictConfig

from tunelab.audit import refuse_unread_keys
from tunelab.config import OF_THE_SWEEP, Pruner, RunConfig, mark_read, to_plain
from tunelab.errors import ConfigError
from tunelab.multirun import asked_overrides, by_key, compose_jobs, unswept
from tunelab.report.reading import flatten
from tunelab.run import RESUMABLE_KEYS
from tunelab.sweeping.conditions import parse_conditions
from tunelab.sweeping.folder import SweepFolder
from tunelab.sweeping.jobs import Job, is_of_all_jobs, key_of, make_jobs, sweep_name
from tunelab.sweeping.searching.conducting import Plan, plan_limits, run_search
from tunelab.sweeping.searching.objectives import choose_objectives
from tunelab.sweeping.searching.pruning import require_judging
from tunelab.sweeping.searching.samplers import check_settings
from tunelab.sweeping.searching.space import Choices, Integers, Parameter, Reals, Space, corners, require_space
from tunelab.sweeping.searching.trials import Rules


@dataclass(frozen=True, slots=True)
class Typed:
    """What was typed: the parameters, how the key of each is written in an override (`++peft.r`), and the rest."""

    parameters: tuple[Parameter, ...]
    names: Mapping[str, str]
    fixed: tuple[str, ...]


def search(loader: ConfigLoader, master: DictConfig, in_process: bool) -> None:
    """Check everything, compose every choice and every end of an interval once, then run the search.

    Raises:
        ConfigError: the search cannot be done as asked; nothing was started or written.
        TunelabError: trials did not finish.
        Interrupted: a signal came.
    """
    typed = read_overrides(without_seeds_of_a_file(asked_overrides(loader, master), len(master.hydra.overrides.task)))
    firsts = {each.key: each.values[0] for each in typed.parameters if isinstance(each, Choices)}  # may be required
    [base] = compose_jobs(loader, master, [_written(typed, firsts)])
    space = _space(typed, base)
    plan, rules = _plan(master, base, space, in_process)
    _require_use(base, typed)

    def jobs_of(values: Mapping[str, str]) -> Mapping[int, Job]:
        return _jobs_of(loader, master, typed, values, plan.settings.seeds)

    composed = [job.config for corner in corners(space) for job in jobs_of(corner).values()]
    require_judging(plan.settings, plan.objectives[0], composed)
    run_search(plan, rules, lambda asked: jobs_of(asked.values))


def _space(typed: Typed, base: RunConfig) -> Space:
    plain = to_plain(base)
    return Space(tuple(_whole(each, plain) for each in typed.parameters), tuple(parse_conditions(base.sweep.only)))


def _plan(master: DictConfig, base: RunConfig, space: Space, in_process: bool) -> tuple[Plan, Rules]:
    settings, sweep = base.search, base.sweep
    objectives = choose_objectives(settings.objectives, base)
    check_settings(settings, space, objectives)
    limits = plan_limits(sweep, settings, in_process)
    pruner = None if settings.pruner is Pruner.none else settings.pruner.value
    rules = Rules(objectives, pruner, settings.racing, settings.timeout, sweep.rerun)
    asked = [space.to_dict(), [each.name for each in objectives], list(settings.seeds)]
    name = sweep.name or sweep_name(base.name, space.keys, {**unswept(master), "search": asked})
    folder = SweepFolder(Path(base.output_dir) / "sweeps" / name)
    command = [str(each) for each in master.hydra.overrides.task]
    return Plan(space, objectives, settings, folder, _fixed(master, space), command, limits), rules


def _fixed(master: DictConfig, space: Space) -> dict[str, Any]:
    """What all trials share, by key; of memory knobs nothing depends."""
    rest = flatten(unswept(master))
    return {key: value for key, value in rest.items() if key not in ("name", *RESUMABLE_KEYS, *space.keys)}


def _require_use(base: RunConfig, typed: Typed) -> None:
    """Raise a ConfigError for a key that this search does not read, or a seed beside `search.seeds`."""
    if base.search.seeds and any(key_of(each) == "seed" for each in typed.fixed):
        raise ConfigError("seed: expected it in search.seeds alone, found both; remove seed.")
    mark_read(base.search, "num_trials")
    for section in OF_THE_SWEEP:
        refuse_unread_keys(base, typed.fixed, below=f"{section}.")


def without_seeds_of_a_file(asked: Sequence[Override], num_typed: int) -> list[Override]:
    """Where `search.seeds` is typed, it takes the place of the seeds that an experiment sweeps."""
    of_file, typed = asked[: len(asked) - num_typed], asked[len(asked) - num_typed :]
    replaced = any(key_of(each.input_line or "") == "search.seeds" for each in typed)
    return [*(each for each in of_file if not (replaced and key_of(each.input_line or "") == "seed")), *typed]


def read_overrides(overrides: Sequence[Override]) -> Typed:
    """Tell what is searched from what is fixed.

    Raises:
        ConfigError: nothing is searched, an interval is empty, or a key is searched that has one value in a search.
    """
    last = by_key(overrides)
    searched = {key: each for key, each in last.items() if each.is_sweep_override()}
    wrong = next((key for key in searched if key == "seed" or is_of_all_jobs(key)), None)
    if wrong is not None:
        remedy = "search.seeds=[1,2,3] runs each trial with all of them" if wrong == "seed" else "set one"
        raise ConfigError(f"{wrong}: expected one value for all trials of a search, found several; {remedy}.")
    parameters = tuple(map(_parameter, searched.values()))
    require_space(parameters)
    names = {key: each.get_key_element() for key, each in searched.items()}
    return Typed(parameters, names, tuple(each.input_line or "" for key, each in last.items() if key not in searched))


def _parameter(override: Override) -> Parameter:
    key, value = key_of(override.input_line or ""), override.value()
    if isinstance(value, IntervalSweep):
        return _interval(key, value)
    if isinstance(value, RangeSweep) and value.start is not None and value.stop is not None and not value.shuffle:
        numbers = sorted(float(each) for each in value.range())
        if len(numbers) > 1 and isinstance(value.start, int) and isinstance(value.step, int):
            return Integers(key, int(numbers[0]), int(numbers[-1]), abs(value.step), "log" in value.tags)
        if len(numbers) > 1:
            return Reals(key, numbers[0], numbers[-1], abs(float(value.step)), "log" in value.tags)
    if isinstance(value, ChoiceSweep) and "log" in value.tags:
        raise ConfigError(
            f"{key}: expected an interval for a logarithmic scale, found a list; set "
            f"'{key}=tag(log,interval(<low>,<high>))', or remove tag(log,…)."
        )
    return Choices(key, tuple(dict.fromkeys(override.sweep_string_iterator())))


def _interval(key: str, value: IntervalSweep) -> Parameter:
    low, high, log = value.start, value.end, "log" in value.tags
    assert low is not None
    assert high is not None
    if isinstance(low, int) and isinstance(high, int):
        return Integers(key, low, high, log=log)
    return Reals(key, float(low), float(high), log=log)


def _whole(parameter: Parameter, config: Mapping[str, Any]) -> Parameter:
    """An interval between whole numbers, of a key whose value is one, is of whole numbers: Hydra reads all as real."""
    value: Any = config
    for part in parameter.key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    if not isinstance(parameter, Reals) or parameter.step is not None or type(value) is not int:
        return parameter
    if not (parameter.low.is_integer() and parameter.high.is_integer()):
        return parameter
    return Integers(parameter.key, int(parameter.low), int(parameter.high), log=parameter.log)


def _written(typed: Typed, values: Mapping[str, str]) -> list[str]:
    """The overrides of a trial."""
    return [*typed.fixed, *(f"{typed.names[key]}={value}" for key, value in values.items())]


def _jobs_of(
    loader: ConfigLoader, master: DictConfig, typed: Typed, values: Mapping[str, str], seeds: Sequence[int]
) -> Mapping[int, Job]:
    """A job for each seed.

    Raises:
        ConfigError: these values break a rule of the schema.
    """
    own = _written(typed, values)
    overrides = [[*own, f"seed={seed}"] for seed in seeds] or [own]
    configs = compose_jobs(loader, master, overrides)
    jobs, _ = make_jobs(configs, overrides, [*values, *(["seed"] if seeds else [])])
    return {job.config.seed: job for job in jobs}
