"""One search from its space to its best trial: the study, the jobs as they are asked for, the last word."""

import contextlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from tunelab.config import Pruner, Rerun, SearchConfig, SweepConfig
from tunelab.errors import ConfigError, Interrupted, TunelabError
from tunelab.locking import held
from tunelab.report.formatting import plural
from tunelab.sweeping.folder import INDEX, SweepFolder
from tunelab.sweeping.jobs import Job
from tunelab.sweeping.machine import plan_machine
from tunelab.sweeping.pool import Limits
from tunelab.sweeping.running import console_beside, run_source
from tunelab.sweeping.searching.objectives import Objective
from tunelab.sweeping.searching.opening import DATABASE
from tunelab.sweeping.searching.screen import SearchScreen
from tunelab.sweeping.searching.space import Space
from tunelab.sweeping.searching.study import Asked, Study
from tunelab.sweeping.searching.telling import tell, to_dict
from tunelab.sweeping.searching.trials import Rules, Trials

LOCK = ".search.lock"  # in the folder: one search at a time works on it
NUM_NAMED = 3  # trials that did not finish whose reason is printed
MANY = 10**6  # jobs, as far as the machine is shared out


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be searched, by what, and where.

    `fixed`: key → value of what all trials share; `typed`: the command; `limits`: None for this process alone.
    """

    space: Space
    objectives: Sequence[Objective]
    settings: SearchConfig
    folder: SweepFolder
    fixed: Mapping[str, Any]
    typed: Sequence[str]
    limits: Limits | None


def plan_limits(sweep: SweepConfig, search: SearchConfig, in_process: bool) -> Limits | None:
    """The places for the jobs; None where they run in this process.

    Raises:
        ConfigError: jobs in this process cannot be pruned, or a search cannot do what `sweep.rerun` asks.
    """
    if sweep.rerun is Rerun.all:
        raise ConfigError(
            "sweep.rerun: expected failed or none for a search, whose finished trials it builds on, found all; set "
            "sweep.name=<another> to search anew."
        )
    if not in_process:
        return Limits(plan_machine(sweep.workers, MANY), sweep.job_timeout)
    if search.pruner is not Pruner.none:
        raise ConfigError(
            f"search.pruner: expected none with hydra/launcher=in_process, where nobody watches a job, found "
            f"{search.pruner.value}; set search.pruner=none, or remove hydra/launcher."
        )
    return None


def run_search(plan: Plan, rules: Rules, jobs_of: Callable[[Asked], Mapping[int, Job]]) -> None:
    """Run the trials that are left, and say which is the best.

    Raises:
        ConfigError: another search lies in the folder or works in it, or the folder cannot be written.
        TunelabError: trials did not finish; it names them.
        Interrupted: a signal came; the same command goes on.
    """
    plan.folder.make()
    with held(plan.folder.path / LOCK) as mine:
        if not mine:
            raise ConfigError(
                f"sweep.name: expected a folder in which no search is under way, found one in {plan.folder.path}; wait "
                "for its end, or set sweep.name=<another>."
            )
        study = Study(plan.folder.path / DATABASE, plan.space, plan.objectives, plan.settings, plan.fixed)
        plan.folder.record([], plan.space.keys, plan.typed)  # now: what is refused leaves nothing
        if rules.rerun is Rerun.failed:
            study.retry_failed()
        try:
            _run(plan, rules, study, jobs_of)
        except Interrupted:
            print("the search was stopped; the same command goes on with what is left", file=sys.stderr)
            raise
    require_success(study)


def _run(plan: Plan, rules: Rules, study: Study, jobs_of: Callable[[Asked], Mapping[int, Job]]) -> None:
    limits, begun = plan.limits, len(study.records())
    workers = limits.machine.workers if limits else 1
    trials = plural(study.limit, "trial")
    print(f"search {plan.folder.path}: {trials}, {begun} begun before, {workers} at a time", flush=True)
    num_seeds = max(1, len(plan.settings.seeds))

    def entered(asked: Asked, jobs: Sequence[Job]) -> None:
        screen.add(asked.number, jobs)
        plan.folder.record(jobs, plan.space.keys, plan.typed)
        _note(plan, study)

    try:
        with SearchScreen(study, plan.objectives, workers, num_seeds, console_beside(limits)) as screen:
            run_source(Trials(study, plan.folder, rules, jobs_of, entered), plan.folder, limits, screen)
    except BaseException:
        with contextlib.suppress(OSError, TunelabError):  # what has ended the search is what is said
            _note(plan, study)
        raise
    _conclude(plan, study)


def _conclude(plan: Plan, study: Study) -> None:
    """Write the trials, and print the last word, which is known where they cannot be written too.

    Raises:
        TunelabError: they cannot; the disk is full, say.
    """
    problem = None
    try:
        _note(plan, study)
    except OSError as error:
        problem = error
    tell(study, plan.objectives, plan.folder, Console(highlight=False, markup=False, soft_wrap=True))
    print(f"compare      python -m tunelab report {plan.folder.path}", flush=True)
    if problem is not None:
        raise TunelabError(
            f"{plan.folder.path / INDEX}: expected room for the trials of this search, found: "
            f"{problem.strerror or problem}; {DATABASE} has all of them: make room, and the same command writes them."
        ) from problem


def _note(plan: Plan, study: Study) -> None:
    """Write the trials into sweep.json."""
    plan.folder.note("search", to_dict(study, plan.objectives))


def require_success(study: Study) -> None:
    """Raise a TunelabError where trials did not finish; it names them."""
    records = study.records()
    without = [record for record in records if record.state in ("failed", "running")]  # a job was stopped from outside
    if without:
        named = "; ".join(f"trial {each.number}: {each.reason or 'stopped'}" for each in without[:NUM_NAMED])
        more = f"; and {len(without) - NUM_NAMED} more" if len(without) > NUM_NAMED else ""
        raise TunelabError(
            f"{len(without)} of {len(records)} trials did not finish: {named}{more}; the same command tries them again."
        )
