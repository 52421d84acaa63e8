"""Runs jobs one after another in this process, which keeps the base model for the next of them."""

from collections.abc import Callable, Mapping

from tunelab.sharing import Shared
from tunelab.sweeping.folder import Outcome, Status, SweepFolder
from tunelab.sweeping.job_process import perform
from tunelab.sweeping.orders import ELSEWHERE, Order
from tunelab.sweeping.source import Source


def run_here(
    sweep: SweepFolder,
    source: Source,
    anew: bool,
    watch: Callable[[Mapping[str, Outcome], Mapping[str, float]], None],
) -> dict[str, Outcome]:
    """Run all jobs of `source`; what became of each, by its id. What another sweep runs is left to it.

    Raises:
        Interrupted: a signal came; the job under way stopped in order.
    """
    shared = Shared(sweep.path / "shared", {})
    outcomes: dict[str, Outcome] = {}
    while (job := source.next(lambda _: True)) is not None:
        folder = sweep.job(job)
        folder.path.mkdir(parents=True, exist_ok=True)
        code = perform(Order(folder.path, job.config, job.overrides, anew), shared)
        elsewhere = Outcome(Status.elsewhere, "another sweep is running it")
        outcomes[job.id] = elsewhere if code == ELSEWHERE else sweep.outcome(job)
        source.ended(job, outcomes[job.id])
        watch(outcomes, {})
    return outcomes
