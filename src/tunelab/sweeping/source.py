"""Where the jobs of a sweep come from: a list, or something that makes them from the results so far."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from tunelab.sweeping.folder import Outcome
from tunelab.sweeping.jobs import Job


@dataclass(frozen=True, slots=True)
class Stop:
    """Why a job under way is to end before its time, and at which optimizer step that was seen."""

    reason: str
    step: int


class Source(Protocol):
    """What runs jobs asks for the next of them, tells what became of each, and asks which are to stop."""

    def next(self, fits: Callable[[Job], bool]) -> Job | None:
        """A job that `fits` the places that are free; None: none now. Where none is under way either, that is all."""
        ...

    def ended(self, job: Job, outcome: Outcome) -> None:
        """Hear how a job has ended."""
        ...

    def to_stop(self) -> Mapping[str, Stop]:
        """Of the jobs under way, by id, those that are to stop in order; asked about twice a second."""
        ...


class Listed:
    """Jobs that are known beforehand, in their order; a narrow one may pass a wide one that has to wait."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._waiting = list(jobs)

    def next(self, fits: Callable[[Job], bool]) -> Job | None:
        """The first that fits."""
        job = next((job for job in self._waiting if fits(job)), None)
        if job is not None:
            self._waiting.remove(job)
        return job

    def ended(self, job: Job, outcome: Outcome) -> None:
        """Nothing follows from it."""

    def to_stop(self) -> Mapping[str, Stop]:
        """None of them."""
        return {}
