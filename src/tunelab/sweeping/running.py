"""One sweep from its jobs to their outcomes: what is left to run, the processes, the last word."""

import sys
from collections.abc import Sequence

from rich.console import Console

from tunelab.config import Rerun, SweepConfig
from tunelab.errors import Interrupted
from tunelab.report.formatting import plural
from tunelab.sweeping.folder import Outcome, SweepFolder
from tunelab.sweeping.jobs import Job
from tunelab.sweeping.machine import plan_machine
from tunelab.sweeping.pool import Limits, Pool
from tunelab.sweeping.ranking import Ranking
from tunelab.sweeping.screen import Screen
from tunelab.sweeping.source import Listed, Source


def run_jobs(
    jobs: Sequence[Job], folder: SweepFolder, settings: SweepConfig, in_process: bool, *, names_best: bool = True
) -> dict[str, Outcome]:
    """Run what is left to run of `jobs`, which `folder` has recorded; what became of each of them, by id.

    `names_best`: whether one of them is to be the best; repeats of one run do not compete.

    Raises:
        Interrupted: a signal came; the same command goes on.
    """
    rerun, ranking = settings.rerun, Ranking(settings.metric, names_best)
    limits = None
    if not in_process:
        machine = plan_machine(settings.workers, len(jobs))
        limits = Limits(machine, settings.job_timeout, rerun is Rerun.all)
    left = folder.to_run(jobs, rerun)
    earlier = {job.id: folder.outcome(job) for job in jobs if job not in left}
    workers = limits.machine.workers if limits else 1
    print(f"sweep {folder.path}: {plural(len(jobs), 'job')}, {len(left)} to run, {workers} at a time", flush=True)
    try:
        with Screen(jobs, earlier, workers, ranking, console_beside(limits)) as screen:
            outcomes = run_source(Listed(left), folder, limits, screen, anew=rerun is Rerun.all)
    except Interrupted:
        print("the sweep was stopped; the same command goes on with what is left", file=sys.stderr)
        raise
    print(f"compare      python -m tunelab report {folder.path}")
    return {**earlier, **outcomes}


def run_source(
    source: Source, folder: SweepFolder, limits: Limits | None, screen: Screen, anew: bool = False
) -> dict[str, Outcome]:
    """Run the jobs of `source` in a pool of processes, or, without `limits`, in this one; the outcomes, by id."""
    if limits is not None:
        return Pool(folder, limits, screen).run(source)
    from tunelab.sweeping.in_process import run_here  # imports torch

    return run_here(folder, source, anew, screen)


def console_beside(limits: Limits | None) -> Console | None:
    """The console of a screen: the usual one, or plain lines where jobs in this process print to the terminal too."""
    return None if limits else Console(force_terminal=False, highlight=False, markup=False, soft_wrap=True)
