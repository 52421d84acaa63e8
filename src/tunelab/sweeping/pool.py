"""Runs jobs in processes of their own, a bounded number at a time; whatever one does, the others go on.

Each process is forked from a server that has imported everything and done nothing: it starts in milliseconds, in the
state of a fresh `python train.py`, and leaves nothing behind.
"""

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext, ForkServerProcess, SpawnContext, SpawnProcess
from pathlib import Path
from types import FrameType

from tunelab.config import Accelerator
from tunelab.errors import Interrupted, TunelabError
from tunelab.locking import held
from tunelab.process import listen
from tunelab.run import LOCK_FILE, RunFolder, recorded
from tunelab.sweeping.folder import Outcome, Status, SweepFolder, is_claimed
from tunelab.sweeping.jobs import Job
from tunelab.sweeping.machine import Machine
from tunelab.sweeping.orders import ELSEWHERE, LOG, Order, main
from tunelab.sweeping.slots import Place, Slots
from tunelab.sweeping.source import Source, Stop

LOOK_EVERY = 0.5  # seconds: signals, time limits, jobs that run elsewhere
TO_DIE = 10  # seconds that a killed process may take to be gone
Watch = Callable[[Mapping[str, Outcome], Mapping[str, float]], None]  # outcomes, and seconds of the running, by id


@dataclass(frozen=True, slots=True)
class Limits:
    """What a pool keeps to. `job_timeout`: seconds without output; `anew`: run also what is finished."""

    machine: Machine
    job_timeout: float | None = None
    anew: bool = False


@dataclass(slots=True)
class Running:
    """A job under way."""

    job: Job
    process: ForkServerProcess | SpawnProcess
    place: Place
    before: Mapping[str, object]  # summary.json as an earlier attempt left it
    started: float = field(default_factory=time.monotonic)
    timed_out: bool = False
    is_told: bool = False  # to end in order
    stop: Stop | None = None  # what its source wants of it


class Pool:
    """The processes of one sweep. `watch` is called about twice a second."""

    def __init__(self, sweep: SweepFolder, limits: Limits, watch: Watch) -> None:
        self._sweep, self._limits, self._watch = sweep, limits, watch
        self._slots = Slots(limits.machine.workers, limits.machine.num_devices)
        self._context = process_context(limits.machine)
        self._again: list[Job] = []  # another sweep has left them half-way
        self._running: list[Running] = []
        self._elsewhere: list[Job] = []
        self._outcomes: dict[str, Outcome] = {}
        self._signals: list[int] = []
        self._is_over = False  # what runs is killed

    def run(self, source: Source) -> dict[str, Outcome]:
        """Run all jobs of `source`; what became of each, by its id.

        Raises:
            Interrupted: a signal came. After the first the jobs under way stop in order, after the second at once.
            TunelabError: of the source; the jobs under way are stopped at once.
        """
        before = listen(self._on_signal)
        try:
            self._start_what_fits(source)
            while self._running or (self._elsewhere and not self._signals):
                wait([each.process.sentinel for each in self._running], timeout=LOOK_EVERY)
                self._look(source)
                self._start_what_fits(source)
            self._look(source)
        finally:
            self._kill_all()
            for number, handler in before.items():
                signal.signal(number, handler)
        if self._signals:
            raise Interrupted(self._signals[0])
        return self._outcomes

    def _start_what_fits(self, source: Source) -> None:
        while not self._signals:
            job = next((each for each in self._again if self._fits(each)), None)
            if job is not None:
                self._again.remove(job)
            elif self._slots.has_room:
                job = source.next(self._fits)
            if job is None:
                return
            self._start(job)

    def _fits(self, job: Job) -> bool:
        place = self._place(job)
        if place is not None:
            self._slots.give_back(place)
        return place is not None

    def _place(self, job: Job) -> Place | None:
        trainer = job.config.trainer
        return self._slots.take(trainer.devices, trainer.accelerator is Accelerator.cpu)

    def _start(self, job: Job) -> None:
        place = self._place(job)
        assert place is not None
        folder = self._sweep.job(job)
        folder.path.mkdir(parents=True, exist_ok=True)
        before = folder.read_summary()
        order = Order(
            folder.path, job.config, job.overrides, self._limits.anew, self._sweep.path / "shared", place.devices
        )
        process = self._context.Process(target=main, args=(order,), name=job.id)
        process.start()
        self._running.append(Running(job, process, place, before))
        self._outcomes[job.id] = Outcome(Status.running)

    def _look(self, source: Source) -> None:
        self._stop_some(source)
        for each in list(self._running):
            if not each.process.is_alive():
                self._collect(each, source)
            elif self._is_silent(each):
                each.timed_out = True
                kill_group(each.process)
        for job in list(self._elsewhere):
            if not is_claimed(self._sweep.job(job)):
                self._elsewhere.remove(job)
                self._settle(job, source)
        now = time.monotonic()
        self._watch(self._outcomes, {each.job.id: now - each.started for each in self._running})

    def _stop_some(self, source: Source) -> None:
        """Let end in order what its source gives up, and what was being started when a signal came."""
        stops = source.to_stop()
        for each in self._running:
            each.stop = each.stop or stops.get(each.job.id)
            if each.stop or self._signals:
                _ask_to_end(each)

    def _settle(self, job: Job, source: Source) -> None:
        """What another sweep left: a result, or a job that was stopped and is ours now."""
        self._outcomes[job.id] = self._sweep.outcome(job)
        if self._outcomes[job.id].status in (Status.waiting, Status.interrupted):
            self._outcomes[job.id] = Outcome(Status.waiting)
            self._again.append(job)
        else:
            source.ended(job, self._outcomes[job.id])

    def _collect(self, ended: Running, source: Source) -> None:
        outcome = self._outcomes[ended.job.id] = self._end(ended)
        if outcome.status is not Status.elsewhere:
            source.ended(ended.job, outcome)

    def _end(self, ended: Running) -> Outcome:
        """Make room for the next, and see to it that the folder says how this job ended."""
        self._running.remove(ended)
        self._slots.give_back(ended.place)
        code = ended.process.exitcode
        folder = self._sweep.job(ended.job)
        if code == ELSEWHERE:
            self._elsewhere.append(ended.job)
            return Outcome(Status.elsewhere)
        if code and (code < 0 or folder.read_summary() == ended.before):
            kill_group(ended.process)  # what it has started, and itself where its server died and could not tell
            with held(folder.path / LOCK_FILE, timeout=TO_DIE):
                pass
            self._record(folder, ended)
        if ended.stop is not None and self._sweep.outcome(ended.job).status is Status.interrupted:
            record_stop(folder, ended.stop)  # else it has finished, or failed, by itself
        return self._sweep.outcome(ended.job)

    def _record(self, folder: RunFolder, ended: Running) -> None:
        """Write summary.json for a process that could not."""
        code = ended.process.exitcode or 0
        folder.summary.facts |= {"exit_code": code}
        with contextlib.suppress(TunelabError, Interrupted, OSError), recorded(folder, ended.job.config):
            as_told = ended.is_told and code in (-signal.SIGTERM, 128 + signal.SIGTERM)  # before the run could say so
            if (self._signals or self._is_over or as_told) and not ended.timed_out:
                raise Interrupted(self._signals[0] if self._signals else signal.SIGTERM)
            raise TunelabError(self._reason(code, ended.timed_out))

    def _reason(self, code: int, timed_out: bool) -> str:
        if timed_out:
            limit = self._limits.job_timeout
            return f"killed after {limit:g} seconds without output (sweep.job_timeout); {LOG} ends where it hung"
        if code == -signal.SIGKILL:
            return "killed by SIGKILL, as the system does where memory is short; lower sweep.workers, say"
        ended = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return f"the process {ended}; see {LOG}"

    def _is_silent(self, running: Running) -> bool:
        limit = self._limits.job_timeout
        if limit is None or time.monotonic() - running.started < limit:
            return False
        return time.time() - last_sign(self._sweep.job(running.job).path) > limit

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        del frame
        self._signals.append(number)
        if len(self._signals) > 1:
            raise Interrupted(number)
        for each in self._running:
            _ask_to_end(each)

    def _kill_all(self) -> None:
        """After a second signal, or an error of the source; that hears no more: the folders say what became of them."""
        self._is_over = True
        for each in self._running:
            kill_group(each.process)
        for each in list(self._running):
            each.process.join()
            self._outcomes[each.job.id] = self._end(each)


def process_context(machine: Machine) -> ForkServerContext | SpawnContext:
    """How processes start; the environment of their server decides their number of threads."""
    os.environ["OMP_NUM_THREADS"] = str(machine.num_threads)
    if machine.num_devices:  # importing bitsandbytes starts CUDA, which no child can start again
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tunelab.sweeping.fork_server"])
    return context


def last_sign(folder: Path) -> float:
    """When something was last written in a job's folder, in seconds of the clock."""
    times = [folder.stat().st_mtime]
    for parent, _, names in os.walk(folder):  # passes over what is renamed meanwhile, folders too
        for name in (".", *names):
            with contextlib.suppress(FileNotFoundError):
                times.append(Path(parent, name).stat().st_mtime)
    return max(times)


def record_stop(folder: RunFolder, stop: Stop) -> None:
    """Write into summary.json that a job was pruned: it has stopped in order, and nothing goes on with it by itself."""
    summary = folder.read_summary()
    pruned = {"status": Status.pruned.value, "reason": stop.reason, "pruned_at_step": stop.step}
    folder.write_json("summary.json", {**summary, **pruned})


def _ask_to_end(running: Running) -> None:
    """Once: a second signal could come while the job writes how it ended."""
    if not running.is_told:
        running.is_told = True
        with contextlib.suppress(ProcessLookupError):
            os.kill(running.process.pid or 0, signal.SIGTERM)


def kill_group(process: ForkServerProcess | SpawnProcess) -> None:
    """End a job's process, and those that it has started."""
    pid = process.pid
    if pid is None:
        return
    for kill in (os.killpg, os.kill):  # the group is there once the process has made it
        with contextlib.suppress(ProcessLookupError):
            kill(pid, signal.SIGKILL)
