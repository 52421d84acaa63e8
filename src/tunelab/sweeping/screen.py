"""What a person sees of a sweep under way: a table that lives, or a line for each job that ends."""

import time
from collections.abc import Mapping, Sequence
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tunelab.sweeping.folder import Outcome, Status
from tunelab.sweeping.jobs import Job
from tunelab.sweeping.ranking import Ranking

ENDED = (Status.finished, Status.pruned, Status.failed, Status.interrupted)
NUM_ENDED = 8  # rows of jobs that have ended


class Screen:
    """Shows the jobs of a sweep. `earlier`: outcomes of those that need not run; `ranking`: what is shown of each."""

    def __init__(
        self,
        jobs: Sequence[Job],
        earlier: Mapping[str, Outcome],
        workers: int,
        ranking: Ranking,
        console: Console | None = None,
    ) -> None:
        self._jobs = {job.id: job for job in jobs}
        self._outcomes = {job.id: Outcome(Status.waiting) for job in jobs} | dict(earlier)
        self._num_earlier, self._workers, self._ranking = len(earlier), workers, ranking
        self._ended: list[str] = []
        self._seconds: Mapping[str, float] = {}
        self._console = console or Console(highlight=False, markup=False, soft_wrap=True)
        self._live = Live(console=self._console, auto_refresh=False) if self._console.is_terminal else None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()
        else:
            self._console.print(self.headline())

    def __call__(self, outcomes: Mapping[str, Outcome], seconds: Mapping[str, float]) -> None:
        """Show `outcomes`; `seconds` are those that the running jobs have taken so far."""
        self._outcomes |= outcomes
        self._seconds = seconds
        for name, outcome in outcomes.items():
            if outcome.status in ENDED and name not in self._ended:
                self._ended.append(name)
                if not self._live:
                    self._console.print(f"[{self.progress(name)}] {self._line(name)}")
        if self._live:
            self._live.update(Group(self._table(), Text(self.headline())), refresh=True)

    def headline(self) -> str:
        """Counts, the best so far, and the time that is left."""
        statuses = [self._outcomes[name].status for name in self._jobs if name in self._outcomes]
        counts = [f"{statuses.count(status)} {status.value}" for status in Status if status in statuses]
        counts += [best] if (best := self.best()) else []
        left = self._time_left()
        return " · ".join([*counts, f"{clock(left)} left"] if left else counts)

    def progress(self, name: str) -> str:
        """Which of all the jobs has just ended."""
        del name
        return f"{self._num_earlier + len(self._ended)}/{len(self._jobs)}"

    def best(self) -> str | None:
        """The best configuration so far; None before there is one."""
        return self._ranking.best(self._jobs, self._outcomes)

    def num_waiting(self) -> int:
        """Jobs that have not begun."""
        return sum(outcome.status is Status.waiting for outcome in self._outcomes.values())

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False)
        for column in ("status", "job", "time", "result"):
            table.add_column(column)
        running = [name for name, outcome in self._outcomes.items() if outcome.status is Status.running]
        for name in [*self._ended[-NUM_ENDED:], *running]:
            seconds = self._seconds.get(name, self._outcomes[name].seconds)
            table.add_row(
                self._outcomes[name].status.value,
                self._jobs[name].label,
                clock(seconds) if seconds is not None else "",
                self._result(name),
            )
        return table

    def _line(self, name: str) -> str:
        outcome = self._outcomes[name]
        taken = f" ({clock(outcome.seconds)})" if outcome.seconds is not None else ""
        return f"{outcome.status.value}: {self._jobs[name].label}{taken} {self._result(name)}".rstrip()

    def _result(self, name: str) -> str:
        outcome = self._outcomes[name]
        if outcome.status in (Status.pruned, Status.failed, Status.interrupted):
            return outcome.reason or ""
        metric = self._ranking.shown(self._jobs, self._outcomes)
        value = (outcome.metrics or {}).get(metric) if metric else None
        return "" if value is None else f"{metric} {value:.4g}"

    def _time_left(self) -> float | None:
        """From the jobs that have ended here; None before the first."""
        taken = [self._outcomes[name].seconds for name in self._ended if self._outcomes[name].status is Status.finished]
        known = [seconds for seconds in taken if seconds is not None]
        if not known:
            return None
        each = sum(known) / len(known)
        rest = sum(max(0.0, each - seconds) for seconds in self._seconds.values())
        return (self.num_waiting() * each + rest) / self._workers


def clock(seconds: float) -> str:
    """Minutes and seconds, with hours where there are some."""
    return time.strftime("%H:%M:%S" if seconds >= 3600 else "%M:%S", time.gmtime(seconds))
