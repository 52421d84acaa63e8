"""`python train.py -m`: from what was typed to composed and checked jobs, and from their results to the exit code."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from tunelab.audit import refuse_unread_keys
from tunelab.compose import explain_hydra_error, prepare_arguments, to_config
from tunelab.config import OF_THE_SWEEP, Design, RunConfig, SweepConfig, forget_reads, mark_read
from tunelab.errors import ConfigError, TunelabError
from tunelab.report.formatting import plural
from tunelab.sweeping.budgets import match_jobs, read_matching, record_matching
from tunelab.sweeping.designs import describe, lay_out
from tunelab.sweeping.folder import Outcome, Status, SweepFolder
from tunelab.sweeping.jobs import Job, base_jobs, content_hash, key_of, make_jobs, require_sweepable, sweep_name
from tunelab.sweeping.running import run_jobs

Composed = dict[tuple[str, ...], DictConfig]  # choices of groups → configuration
EXAMPLE = "python train.py -m peft=lora,dora seed=1,2,3"


def plan_jobs(loader: ConfigLoader, master: DictConfig) -> list[list[str]]:
    """The overrides of each job, by the design that `sweep` names; the design is printed.

    Raises:
        ConfigError: there is nothing to sweep over, or the design does not fit what is swept.
    """
    typed = by_key(asked_overrides(loader, master))
    swept = {key: each for key, each in typed.items() if each.is_sweep_override()}
    continuous = next((key for key, each in swept.items() if not each.is_discrete_sweep()), None)
    if continuous is not None:
        raise ConfigError(f"{continuous}: expected a list of values, found a range without steps; set {EXAMPLE}.")
    values = {key: tuple(value for value in each.sweep_string_iterator()) for key, each in swept.items()}
    if not values or not all(values.values()):
        found = "an empty list of values" if values else "none"
        raise ConfigError(
            f"-m: expected a key with several values ({EXAMPLE}), found {found}; set one, or leave -m out."
        )
    fixed = {key: "" for key in typed if key not in swept}
    settings = _settings(master)
    jobs = lay_out(values, fixed, settings)
    print(f"design       {describe(values, settings, jobs)}")
    return [[_written(each, job[key]) for key, each in typed.items() if key in job] for job in jobs]


def asked_overrides(loader: ConfigLoader | None, master: DictConfig) -> list[Override]:
    """What the sweeper was given by a file, then what was typed, which wins."""
    params = [f"{key}={value}" for key, value in (master.hydra.sweeper.get("params") or {}).items()]
    overrides = [*prepare_arguments(params, RunConfig), *master.hydra.overrides.task]
    return OverridesParser.create(config_loader=loader).parse_overrides(overrides)


def by_key(overrides: Sequence[Override]) -> dict[str, Override]:
    """What is set of each key, of several the last: what is typed wins over a file. `~key` is not `key`."""
    return {("~" if each.is_delete() else "") + key_of(each.input_line or ""): each for each in overrides}


def _settings(master: DictConfig) -> SweepConfig:
    """Of another command's configuration, which has none: the defaults."""
    found = OmegaConf.to_object(master.sweep) if "sweep" in master else SweepConfig()
    assert isinstance(found, SweepConfig)
    return found


def _written(override: Override, value: str) -> str:
    return f"{override.get_key_element()}={value}" if override.is_sweep_override() else override.input_line or ""


def run_sweep(
    loader: ConfigLoader, master: DictConfig, overrides: Sequence[Sequence[str]], in_process: bool
) -> list[JobReturn]:
    """Compose and check all jobs, then run those that have to run; a result for each, in order.

    Raises:
        ConfigError: a job cannot be composed, or the sweep cannot be done as asked; nothing was started or written.
        Interrupted: a signal came.
    """
    composed: Composed = {}
    configs = compose_jobs(loader, master, overrides, composed)
    axes, typed = swept_keys(loader, master), [str(each) for each in master.hydra.overrides.task]
    settings = configs[0].sweep
    require_sweepable(configs, axes)
    _require_use(settings, master, typed, in_process)
    solved = match_jobs(configs, settings, axes)  # after all that is refused: it may read the data
    if solved:
        overrides = [[*job, *each.overrides] for job, each in zip(overrides, solved, strict=True)]
        configs = compose_jobs(loader, master, overrides, composed)
    jobs, num_equal = make_jobs(configs, overrides, axes)
    name = settings.name or sweep_name(configs[0].name, axes, unswept(master))
    folder = SweepFolder(Path(configs[0].output_dir) / "sweeps" / name)
    earlier = read_matching(folder) if solved else {}
    folder.record(jobs, axes, typed)
    if settings.design is Design.one_at_a_time:
        folder.note("base", base_jobs(jobs))  # which a report compares the others with
    if num_equal:
        are = "is the same as another" if num_equal == 1 else "are the same as others"
        print(f"{num_equal} of {plural(len(configs), 'job')} {are} of them: run once")
    if settings.match is not None:
        by_id = {content_hash(config, axes): each for config, each in zip(configs, solved, strict=True)}
        record_matching(folder, jobs, by_id, settings.match.value, earlier)
    outcomes = run_jobs(jobs, folder, settings, in_process)
    return [_as_return(job, outcomes[job.id]) for job in jobs]


def _require_use(settings: SweepConfig, master: DictConfig, typed: Sequence[str], in_process: bool) -> None:
    """Raise a ConfigError for a key of a sweep, or of a search, that this grid does not read."""
    mark_read(settings, "name", "rerun", "metric", "match")
    if not in_process:
        mark_read(settings, "workers", "job_timeout")
    if settings.match is not None:
        mark_read(settings, "match_target")
    if str(master.hydra.sweeper.get("_target_")).endswith("GridSweeper"):
        mark_read(settings, "design", "zip", "only")  # by plan_jobs
    config = RunConfig(sweep=settings)
    forget_reads(config.search)
    for section in OF_THE_SWEEP:
        refuse_unread_keys(config, typed, below=f"{section}.")


def finish(returns: Sequence[JobReturn]) -> Sequence[JobReturn]:
    """The results.

    Raises:
        TunelabError: jobs have failed; it names them.
    """
    failed = [" ".join(each.overrides or ()) for each in returns if each.status is JobStatus.FAILED]
    if failed:
        raise TunelabError(
            f"{len(failed)} of {len(returns)} jobs did not finish: {', '.join(failed)}; why is in their summary.json."
        )
    return returns


def compose_jobs(
    loader: ConfigLoader, master: DictConfig, overrides: Sequence[Sequence[str]], composed: Composed | None = None
) -> list[RunConfig]:
    """The configuration of each job. Hydra composes each choice of groups once; values are set on copies, as it would.

    `composed` is what it has composed before, and gets what is composed now.

    Raises:
        ConfigError: a job cannot be composed, or breaks a rule of the schema; the message names the job.
    """
    assert isinstance(loader, ConfigLoaderImpl)
    parser = OverridesParser.create(config_loader=loader)
    composed = {} if composed is None else composed
    configs: list[RunConfig] = []
    for job in overrides:
        try:
            parsed = parser.parse_overrides(list(job))
            groups = tuple(each.input_line or "" for each in parsed if _is_group(loader, each))
            if groups not in composed:
                composed[groups] = _without_hydra(loader.load_sweep_config(master, list(groups)))
                _require_training(composed[groups])
            node = copy.deepcopy(composed[groups])
            values = [each for each in parsed if not _is_group(loader, each)]
            ConfigLoaderImpl._apply_overrides_to_config(values, node)  # pyright: ignore[reportPrivateUsage]
            configs.append(to_config(node, RunConfig))
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigError(_of_job(job, explain_hydra_error(error, RunConfig))) from error
        except ConfigError as error:
            raise ConfigError(_of_job(job, str(error))) from error
    return configs


def swept_keys(loader: ConfigLoader, master: DictConfig) -> list[str]:
    """The keys that were given several values, in the order typed."""
    return [key for key, each in by_key(asked_overrides(loader, master)).items() if each.is_sweep_override()]


def unswept(master: DictConfig) -> dict[str, Any]:
    """The configuration as it is without what is swept, in plain data; where results go is left out."""
    plain = OmegaConf.to_container(_without_hydra(master), resolve=False, enum_to_str=True)
    assert isinstance(plain, dict)
    matched: Any = {
        key: value for key, value in plain["sweep"].items() if key.startswith("match") and value is not None
    }
    rest = {str(key): value for key, value in plain.items() if key not in ("output_dir", "resume", *OF_THE_SWEEP)}
    return {**rest, "sweep": matched} if matched else rest


def _is_group(loader: ConfigLoaderImpl, override: Override) -> bool:
    """As Hydra decides it."""
    return loader.repository.group_exists(override.key_or_group) and not isinstance(override.value(), dict)


def _without_hydra(node: DictConfig) -> DictConfig:
    own = copy.deepcopy(node)
    with read_write(own), open_dict(own):
        del own["hydra"]
    return own


def _require_training(node: DictConfig) -> None:
    """Another command's configuration may be a run's too, with more."""
    if OmegaConf.get_type(node) is not RunConfig:
        raise ConfigError(
            "hydra/launcher: pool and in_process are for python train.py, found another command; remove it."
        )


def _of_job(overrides: Sequence[str], problem: str) -> str:
    return f"{problem} (of the job {' '.join(overrides)})"


def _as_return(job: Job, outcome: Outcome) -> JobReturn:
    done = outcome.status is Status.finished
    swept = [f"{key}={value}" for key, value in job.axes.items()]
    result = JobReturn(overrides=swept, status=JobStatus.COMPLETED if done else JobStatus.FAILED)
    result.return_value = outcome.metrics if done else TunelabError(f"{job.label}: {outcome.reason}")
    return result
