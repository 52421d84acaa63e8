"""What a person sees of a search under way: the table of its jobs, counted by trials, with the best trial so far."""

from collections.abc import Sequence

from rich.console import Console

from tunelab.report.formatting import plural
from tunelab.sweeping.jobs import Job
from tunelab.sweeping.ranking import Ranking, best_said
from tunelab.sweeping.screen import Screen
from tunelab.sweeping.searching.objectives import Objective
from tunelab.sweeping.searching.study import Study, best_of


class SearchScreen(Screen):
    """The screen of a search; jobs are added as they are made."""

    def __init__(
        self, study: Study, objectives: Sequence[Objective], workers: int, num_seeds: int, console: Console | None
    ) -> None:
        super().__init__([], {}, workers, Ranking(objectives[0].name), console)
        self._study, self._objectives, self._num_seeds = study, objectives, num_seeds
        self._trials: dict[str, int] = {}

    def add(self, number: int, jobs: Sequence[Job]) -> None:
        """Show the jobs of a trial, those of an equal one under the number of that."""
        for job in jobs:
            self._jobs.setdefault(job.id, job)
            self._trials.setdefault(job.id, number)

    def progress(self, name: str) -> str:
        """The trial of a job, and how many of all have ended."""
        ended = sum(record.state not in ("running", "waiting") for record in self._study.records())
        return f"trial {self._trials[name]} · {ended}/{self._study.limit}"

    def best(self) -> str | None:
        """The best trial, or how many are on the Pareto front."""
        if len(self._objectives) > 1:
            return f"{plural(len(self._study.front()), 'trial')} on the Pareto front"
        objective = self._objectives[0]
        best = best_of(self._study.records(), objective.higher_is_better)
        if best is None or best.values is None:
            return None
        settings = " ".join(f"{key.rpartition('.')[2]}={value}" for key, value in best.params.items())
        return f"{best_said(objective.name, best.values[0], len(best.seeds))}: trial {best.number}, {settings}"

    def num_waiting(self) -> int:
        """At most: every trial that is left, with all its seeds."""
        begun = [record for record in self._study.records() if record.state != "waiting"]
        to_come = sum(job not in self._outcomes for each in begun if each.state == "running" for job in each.jobs)
        return max(0, self._study.limit - len(begun)) * self._num_seeds + to_come
