"""The jobs of a search: asks for trials as places get free, follows their validations, and tells the study the ends."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from tunelab.config import Rerun
from tunelab.errors import ConfigError
from tunelab.sweeping.folder import Outcome, Status, SweepFolder
from tunelab.sweeping.jobs import Job
from tunelab.sweeping.searching.following import Follower
from tunelab.sweeping.searching.objectives import Objective, value_of
from tunelab.sweeping.searching.racing import is_decided
from tunelab.sweeping.searching.study import Asked, Study, best_of
from tunelab.sweeping.source import Stop


@dataclass(frozen=True, slots=True)
class Rules:
    """How the trials of a search are run. `pruner`: its name, or None; `timeout`: seconds."""

    objectives: Sequence[Objective]
    pruner: str | None = None
    racing: bool = False
    timeout: float | None = None
    rerun: Rerun = Rerun.failed


@dataclass(slots=True)
class Entrant:
    """A trial under way: a job for each seed, those that were begun, and the values of those that have finished."""

    asked: Asked
    jobs: Mapping[int, Job]
    follower: Follower
    stop: Stop | None = None  # of the first seed
    begun: set[int] = field(default_factory=set[int])
    values: dict[int, tuple[float, ...]] = field(default_factory=dict[int, tuple[float, ...]])

    @property
    def first(self) -> int:
        """The seed whose validations are judged."""
        return next(iter(self.jobs))

    @property
    def pending(self) -> set[int]:
        """Seeds that run."""
        return self.begun - self.values.keys()


class Trials:
    """The source of a search's jobs. `jobs_of`: a trial → its jobs, by seed; `entered` hears of each trial.

    What is reported of a trial to the pruner is its first seed, which is the same for all trials; the others begin when
    it has finished. With racing they begin one by one. Without either, all seeds of a trial may run at once.
    """

    def __init__(
        self,
        study: Study,
        folder: SweepFolder,
        rules: Rules,
        jobs_of: Callable[[Asked], Mapping[int, Job]],
        entered: Callable[[Asked, Sequence[Job]], None],
    ) -> None:
        self._study, self._folder, self._rules = study, folder, rules
        self._jobs_of, self._entered = jobs_of, entered
        self._entrants: list[Entrant] = []
        self._under_way: set[str] = set()  # ids of jobs
        self._failed: set[str] = set()  # the same, of those that have failed under this command
        self._has_warned = False
        self._start = time.monotonic()
        for asked in study.unfinished():
            self._enter(asked)
        for entrant in self._entrants if rules.pruner else ():
            found = study.given_up(entrant.asked.number)
            entrant.stop = self._stop(*found) if found else None

    def next(self, fits: Callable[[Job], bool]) -> Job | None:
        """A job of a trial under way, else the first of a new trial."""
        while True:
            step = self._next_step()
            if step is None:
                if not self._may_ask():
                    return None
                self._enter(self._study.ask())
                continue
            entrant, seed = step
            job, outcome = entrant.jobs[seed], self._folder.outcome(entrant.jobs[seed])
            if self._is_known(job, outcome):
                entrant.begun.add(seed)
                self._settle(entrant, seed, outcome)
            elif job.id in self._under_way:  # of an equal trial: both are told
                entrant.begun.add(seed)
            elif fits(job):
                entrant.begun.add(seed)
                self._under_way.add(job.id)
                return job
            else:
                return None

    def ended(self, job: Job, outcome: Outcome) -> None:
        """Tell the study, where the trials that have this job are decided by it."""
        self._under_way.discard(job.id)
        if outcome.status is Status.failed:
            self._failed.add(job.id)
        for entrant in list(self._entrants):
            for seed in [seed for seed in entrant.pending if entrant.jobs[seed].id == job.id]:
                self._settle(entrant, seed, outcome)

    def to_stop(self) -> Mapping[str, Stop]:
        """The jobs whose last validation is one that the pruner does not let pass."""
        stops: dict[str, Stop] = {}
        for entrant in self._entrants if self._rules.pruner else ():
            if entrant.first in entrant.pending:
                entrant.stop = entrant.stop or self._follow(entrant)
            if entrant.first in entrant.pending and entrant.stop is not None:
                stops[entrant.jobs[entrant.first].id] = entrant.stop
        return stops

    def _next_step(self) -> tuple[Entrant, int] | None:
        for entrant in self._entrants:
            left = [seed for seed in entrant.jobs if seed not in entrant.begun]
            waits = bool(entrant.pending) and (
                self._rules.racing or (self._rules.pruner is not None and entrant.first not in entrant.values)
            )
            if left and not waits:
                return entrant, left[0]
        return None

    def _may_ask(self) -> bool:
        limit = self._rules.timeout
        return (limit is None or time.monotonic() - self._start < limit) and self._study.may_ask()

    def _enter(self, asked: Asked) -> None:
        try:
            jobs = self._jobs_of(asked)
        except ConfigError as error:
            self._study.fail(asked.number, str(error))
            return
        self._study.note_jobs(asked.number, [job.id for job in jobs.values()])
        self._entered(asked, list(jobs.values()))
        path = self._folder.job(next(iter(jobs.values()))).path / "metrics.jsonl"
        self._entrants.append(Entrant(asked, jobs, Follower(path, self._rules.objectives[0].name)))

    def _is_known(self, job: Job, outcome: Outcome) -> bool:
        """Whether the job need not run: an equal one has, or an earlier command has come to its end."""
        if outcome.status is Status.failed:
            return self._rules.rerun is Rerun.none or job.id in self._failed
        return outcome.status in (Status.finished, Status.pruned)

    def _follow(self, entrant: Entrant) -> Stop | None:
        """Report what is new; why the trial should stop, if it should."""
        for step, value in entrant.follower.news():
            if self._study.report(entrant.asked.number, step, value):
                return self._stop(step, value)
        return None

    def _stop(self, step: int, value: float) -> Stop:
        return Stop(f"{self._rules.pruner} pruner: {self._rules.objectives[0].name} {value:.4g} at step {step}", step)

    def _settle(self, entrant: Entrant, seed: int, outcome: Outcome) -> None:
        """Count a job that has ended, for one of the trials that have it."""
        if self._rules.pruner and seed == entrant.first:
            self._follow(entrant)
        if outcome.status is Status.finished:
            self._count(entrant, seed)
            return
        if entrant not in self._entrants:
            return  # another of its seeds has ended it
        self._entrants.remove(entrant)
        if outcome.status is Status.pruned:
            self._study.prune(entrant.asked.number, outcome.reason)
        elif outcome.status is not Status.interrupted:  # that one is under way still: the same command goes on with it
            self._study.fail(entrant.asked.number, outcome.reason)

    def _count(self, entrant: Entrant, seed: int) -> None:
        folder = self._folder.job(entrant.jobs[seed])
        found = [value_of(objective, folder) for objective in self._rules.objectives]
        missing = [each.name for each, value in zip(self._rules.objectives, found, strict=True) if value is None]
        entrant.values[seed] = tuple(value for value in found if value is not None)
        if self._rules.pruner and seed == entrant.first:
            self._warn_of_no_judging(entrant)
        if entrant not in self._entrants:
            return
        if missing:
            self._entrants.remove(entrant)
            self._study.fail(entrant.asked.number, f"{folder.path.name} has no number for {', '.join(missing)}")
        elif len(entrant.values) == len(entrant.jobs) or self._is_out(entrant):
            self._complete(entrant)

    def _warn_of_no_judging(self, entrant: Entrant) -> None:
        """Once: where steps follow from the data, only a run shows that nothing is validated in time."""
        if self._study.num_reported(entrant.asked.number) < 2 and not self._has_warned:
            self._has_warned = True
            print(
                f"search.pruner={self._rules.pruner}: trial {entrant.asked.number} was validated at its end only, so "
                "that it could not be pruned; set trainer.val_every_steps=<fewer steps> in another search, or "
                "search.pruner=none",
                file=sys.stderr,
            )

    def _is_out(self, entrant: Entrant) -> bool:
        """Whether racing spares the seeds that are left."""
        if not self._rules.racing or entrant.pending:
            return False
        values = {seed: value for seed, [value] in entrant.values.items()}
        higher_is_better = self._rules.objectives[0].higher_is_better
        best = best_of(self._study.records(), higher_is_better)
        of_seeds = {seed: found[0] for seed, found in best.seeds.items()} if best else {}
        return is_decided(values, of_seeds, higher_is_better)

    def _complete(self, entrant: Entrant) -> None:
        self._entrants.remove(entrant)
        means = [fmean(column) for column in zip(*entrant.values.values(), strict=True)]
        seeds = {seed: entrant.values[seed] for seed in entrant.jobs if seed in entrant.values}
        raced = len(seeds) < len(entrant.jobs)
        self._study.complete(entrant.asked.number, means, seeds, raced)
