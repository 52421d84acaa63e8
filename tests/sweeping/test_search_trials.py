"""The jobs of a search without processes: which begin when, what their ends decide, what is stopped."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tunelab.config import Pruner, Rerun, RunConfig, Sampler, SearchConfig
from tunelab.errors import ConfigError, TunelabError
from tunelab.run import RunFolder
from tunelab.sweeping.folder import SweepFolder
from tunelab.sweeping.job_process import _forget_pruning
from tunelab.sweeping.jobs import Job, make_jobs
from tunelab.sweeping.pool import record_stop
from tunelab.sweeping.searching.conducting import require_success
from tunelab.sweeping.searching.objectives import Objective
from tunelab.sweeping.searching.space import Choices, Space
from tunelab.sweeping.searching.study import Asked, Study
from tunelab.sweeping.searching.telling import to_dict
from tunelab.sweeping.searching.trials import Rules, Trials
from tunelab.sweeping.source import Stop

LOSS = Objective("val/loss", higher_is_better=False)


@dataclass
class Bench:
    """A search over `a` in a grid whose jobs are ended by hand."""

    path: Path
    values: tuple[str, ...] = ("1", "2", "3")
    seeds: tuple[int, ...] = ()
    rules: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    broken: str = ""

    def __post_init__(self) -> None:
        settings = SearchConfig(sampler=Sampler.grid, num_trials=99, seeds=list(self.seeds), **self.settings)
        self.study = Study(self.path / "optuna.db", Space((Choices("a", self.values),)), [LOSS], settings)
        self.folder = SweepFolder(self.path)
        rules = Rules([LOSS], **self.rules)
        self.trials = Trials(self.study, self.folder, rules, self.jobs_of, self.entered)

    def jobs_of(self, asked: Asked) -> Mapping[int, Job]:
        a = asked.values["a"].strip("'")
        if a == self.broken:
            raise ConfigError("a: refused")
        seeds = self.seeds or (0,)
        typed = [[f"optim.lr=0.{int(a)}", f"seed={seed}"] for seed in seeds]
        configs = [RunConfig(seed=seed) for seed in seeds]
        for config in configs:
            config.optim.lr = float(f"0.{int(a)}")
        return {job.config.seed: job for job in make_jobs(configs, typed, ["optim.lr", "seed"])[0]}

    def entered(self, asked: Asked, jobs: Sequence[Job]) -> None:
        pass

    def next(self) -> Job | None:
        return self.trials.next(lambda _: True)

    def labels(self, count: int) -> list[str | None]:
        jobs = [self.next() for _ in range(count)]
        self.jobs = [job for job in jobs if job]
        return [job and f"{job.axes['optim.lr']} {job.axes['seed']}" for job in jobs]

    def validated(self, job: Job, *values: float) -> None:
        folder = self.folder.job(job).path
        folder.mkdir(exist_ok=True)
        lines = [{"step": 10 * index + 10, "val/loss": value} for index, value in enumerate(values)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def end(self, job: Job, status: str = "finished", value: float | None = None, reason: str | None = None) -> None:
        folder = self.folder.job(job)
        folder.path.mkdir(exist_ok=True)
        best = {"metric": "val/loss", "value": value, "step": 10}
        RunFolder(folder.path).write_json("summary.json", {"status": status, "reason": reason, "best": best})
        self.trials.ended(job, self.folder.outcome(job))

    def states(self) -> list[str]:
        return [record.state for record in self.study.records()]


def test_trials_without_pruning_run_all_their_seeds_at_once(tmp_path: Path):
    bench = Bench(tmp_path, ("1", "2"), seeds=(1, 2))
    assert bench.labels(5) == ["0.1 1", "0.1 2", "0.2 1", "0.2 2", None]
    for job, value in zip(bench.jobs, (1.0, 3.0, 5.0, 6.0), strict=True):
        bench.end(job, value=value)
    first, second = bench.study.records()
    assert (first.values, first.seeds) == ((2.0,), {1: (1.0,), 2: (3.0,)})
    assert second.values == (5.5,)
    assert first.jobs == tuple(job.id for job in bench.jobs[:2])
    [written, _] = to_dict(bench.study, [LOSS])["trials"]
    assert (written["values"], written["jobs"], written["state"]) == ({"a": "1"}, first.jobs, "finished")


def test_nothing_is_asked_for_without_a_place(tmp_path: Path):
    bench = Bench(tmp_path)
    assert bench.trials.next(lambda _: False) is None
    assert bench.trials.next(lambda _: False) is None
    assert len(bench.study.records()) == 1


def test_a_pruner_judges_the_first_seed_and_the_others_follow(tmp_path: Path):
    settings = {"pruner": Pruner.median, "prune_after_trials": 1}
    bench = Bench(tmp_path, seeds=(1, 2), rules={"pruner": "median"}, settings=settings)
    assert bench.labels(1) == ["0.1 1"]
    [good] = bench.jobs
    bench.validated(good, 2.0, 1.0)
    assert bench.trials.to_stop() == {}
    bench.end(good, value=1.0)
    assert bench.labels(2) == ["0.1 2", "0.2 1"]
    same, bad = bench.jobs
    bench.end(same, value=2.0)
    bench.validated(bad, 2.5)
    assert bench.trials.to_stop() == {bad.id: Stop("median pruner: val/loss 2.5 at step 10", 10)}
    bench.end(bad, "pruned", reason="median pruner: …")
    assert bench.states() == ["finished", "pruned"]
    assert bench.labels(2) == ["0.3 1", None]
    again = Bench(tmp_path, seeds=(1, 2), rules={"pruner": "median"}, settings=settings)
    assert again.labels(2) == ["0.3 1", None]  # the one under way; what was pruned is not run again
    again.end(again.jobs[0], "interrupted")
    assert again.states() == ["finished", "pruned", "running"]


def test_a_trial_that_was_given_up_is_stopped_at_once_where_the_search_was_killed(tmp_path: Path):
    rules, settings = {"pruner": "median"}, {"pruner": Pruner.median, "prune_after_trials": 1}
    bench = Bench(tmp_path, ("1", "2"), rules=rules, settings=settings)
    assert bench.labels(1) == ["0.1 0"]
    bench.validated(bench.jobs[0], 1.0)
    bench.end(bench.jobs[0], value=1.0)
    assert bench.labels(1) == ["0.2 0"]
    [bad] = bench.jobs
    bench.validated(bad, 2.5)
    stop = Stop("median pruner: val/loss 2.5 at step 10", 10)
    assert bench.trials.to_stop() == {bad.id: stop}  # and then kill -9
    (tmp_path / bad.folder_name / "metrics.jsonl").unlink()  # it goes on from a checkpoint before that step
    again = Bench(tmp_path, ("1", "2"), rules=rules, settings=settings)
    assert again.trials.to_stop() == {}
    assert again.labels(1) == ["0.2 0"]
    assert again.trials.to_stop() == {bad.id: stop}


def test_validations_that_come_too_late_for_the_pruner_are_said_once(tmp_path: Path, capsys):
    bench = Bench(tmp_path, rules={"pruner": "median"}, settings={"pruner": Pruner.median})
    for value in (1.0, 2.0):
        job = bench.next()
        assert job is not None
        bench.validated(job, value)
        bench.end(job, value=value)
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("search.pruner=median: trial 0 was validated at its end only, so that it could not")


def test_a_trial_that_finishes_before_it_hears_is_finished(tmp_path: Path):
    bench = Bench(tmp_path, rules={"pruner": "median"}, settings={"pruner": Pruner.median, "prune_after_trials": 1})
    for value in (1.0, 2.0):
        job = bench.next()
        assert job is not None
        bench.validated(job, value)
        bench.trials.to_stop()
        bench.end(job, value=value)
    assert bench.states() == ["finished", "finished"]


def test_racing_spares_the_seeds_of_a_trial_that_is_worse(tmp_path: Path):
    bench = Bench(tmp_path, ("1", "2"), seeds=(1, 2, 3, 4), rules={"racing": True})
    results = {"0.1": (1.0, 2.0, 1.5, 1.0), "0.2": (5.0, 6.1, 0.0, 0.0)}
    run = []
    while (job := bench.next()) is not None:
        run.append((job.axes["optim.lr"], job.config.seed))
        bench.end(job, value=results[job.axes["optim.lr"]][job.config.seed - 1])
    assert run == [("0.1", 1), ("0.1", 2), ("0.1", 3), ("0.1", 4), ("0.2", 1), ("0.2", 2)]
    best, worse = bench.study.records()
    assert (best.raced, worse.raced) == (False, True)
    assert worse.values == (pytest.approx(5.55),)


def test_equal_trials_have_one_job(tmp_path: Path):
    bench = Bench(tmp_path, ("1", "'1'", "1 "))  # differently typed
    assert bench.labels(2) == ["0.1 0", None]
    bench.end(bench.jobs[0], value=1.5)
    assert bench.next() is None
    assert [record.values for record in bench.study.records()] == [(1.5,)] * 3


def test_what_fails_is_recorded_and_tried_again_by_the_next_command(tmp_path: Path):
    bench = Bench(tmp_path, seeds=(1, 2), broken="2")
    assert bench.labels(2) == ["0.1 1", "0.1 2"]
    bench.end(bench.jobs[1], value=1.0)
    bench.end(bench.jobs[0], "failed", reason="no memory")
    assert bench.labels(2) == ["0.3 1", "0.3 2"]
    bench.end(bench.jobs[0], value=None)
    bench.end(bench.jobs[1], value=2.0)
    reasons = [record.reason for record in bench.study.records()]
    assert reasons[:2] == ["no memory", "a: refused"]
    assert reasons[2].endswith("has no number for val/loss")
    again = Bench(tmp_path, seeds=(1, 2))
    again.study.retry_failed()
    assert again.labels(3) == ["0.1 1", "0.2 1", "0.2 2"]  # seed 2 of the first has finished
    kept = Bench(tmp_path, seeds=(1, 2), rules={"rerun": Rerun.none})
    assert kept.next() is not None
    assert "failed" in kept.states()


def test_no_trial_begins_after_the_time_is_up(tmp_path: Path):
    bench = Bench(tmp_path, rules={"timeout": 1e-9})
    assert bench.next() is None
    assert bench.states() == []


def test_a_trial_whose_job_was_stopped_from_outside_is_no_success(tmp_path: Path):
    bench = Bench(tmp_path, ("1", "2"))
    for status, value in (("interrupted", None), ("finished", 1.0)):
        job = bench.next()
        assert job is not None
        bench.end(job, status, value)
    assert bench.next() is None
    with pytest.raises(TunelabError, match=r"^1 of 2 trials did not finish: trial 0: stopped; the same command tries"):
        require_success(bench.study)


def test_a_stop_is_written_into_the_summary(tmp_path: Path):
    folder = RunFolder(tmp_path)
    folder.write_json("summary.json", {"status": "interrupted", "reason": "stopped by SIGTERM", "seed": 3})
    record_stop(folder, Stop("median pruner: …", 40))
    assert folder.read_summary() == {
        "status": "pruned", "reason": "median pruner: …", "seed": 3, "pruned_at_step": 40,
    }  # fmt: skip


def test_a_grid_goes_on_with_what_a_search_gave_up(tmp_path: Path):
    [job] = make_jobs([RunConfig(seed=1)], [["seed=1"]], ["seed"])[0]
    sweep = SweepFolder(tmp_path)
    folder = sweep.job(job)
    folder.path.mkdir()
    pruned = {"status": "pruned", "reason": "median pruner: …", "pruned_at_step": 40, "metrics": {}}
    folder.write_json("summary.json", pruned)
    assert sweep.to_run([job], Rerun.none) == [job]
    _forget_pruning(folder)
    assert folder.read_summary() == {"status": "interrupted", "reason": "median pruner: …", "metrics": {}}
