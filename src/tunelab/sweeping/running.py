"""One sweep from its jobs to their outcomes: the index, what is left to run, the processes, the last word."""

import sys
from collections.abc import Sequence

from rich.console import Console

from tunelab.audit import refuse_unread_keys
from tunelab.config import OF_THE_SWEEP, Design, Rerun, RunConfig, SweepConfig, forget_reads
from tunelab.errors import Interrupted
from tunelab.sweeping.folder import Outcome, SweepFolder
from tunelab.sweeping.jobs import Job, base_jobs
from tunelab.sweeping.machine import plan_machine
from tunelab.sweeping.pool import Limits, Pool
from tunelab.sweeping.screen import Screen
from tunelab.sweeping.source import Listed, Source


def run_jobs(
    jobs: Sequence[Job],
    folder: SweepFolder,
    *,
    axes: Sequence[str],
    typed: Sequence[str],
    settings: SweepConfig,
    in_process: bool,
) -> dict[str, Outcome]:
    """Run what is left to run of `jobs`; what became of each of them, by id.

    Raises:
        ConfigError: a key was typed that this kind of sweep has no use for, or the folder cannot be written.
        Interrupted: a signal came; the same command goes on.
    """
    rerun, metric = settings.rerun, settings.metric
    limits = None
    if not in_process:
        machine = plan_machine(settings.workers, len(jobs))
        limits = Limits(machine, settings.job_timeout, rerun is Rerun.all)
    _ = settings.name  # the folder's
    _refuse_unread(settings, typed)
    folder.record(jobs, axes, typed)
    if settings.design is Design.one_at_a_time:
        folder.note("base", base_jobs(jobs))  # which a report compares the others with
    left = folder.to_run(jobs, rerun)
    earlier = {job.id: folder.outcome(job) for job in jobs if job not in left}
    workers = limits.machine.workers if limits else 1
    print(f"sweep {folder.path}: {len(jobs)} jobs, {len(left)} to run, {workers} at a time", flush=True)
    try:
        with Screen(jobs, earlier, workers, metric, console_beside(limits)) as screen:
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


def _refuse_unread(settings: SweepConfig, typed: Sequence[str]) -> None:
    """Of the sections of sweeps, a grid reads its own; that of searches it does not."""
    config = RunConfig(sweep=settings)
    forget_reads(config.search)
    for section in OF_THE_SWEEP:
        refuse_unread_keys(config, typed, below=f"{section}.")
