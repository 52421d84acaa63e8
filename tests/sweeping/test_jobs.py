"""The parts of a sweep that start nothing: names of jobs, places, the index, the best job, what is kept of a model."""

import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from tunelab.config import Rerun, RunConfig, SweepConfig, TrainerConfig
from tunelab.errors import ConfigError
from tunelab.evaluation.metrics import Answer, Chosen
from tunelab.evaluation.observing import Observations
from tunelab.run import RunFolder
from tunelab.sweeping import machine
from tunelab.sweeping.folder import Outcome, Status, SweepFolder
from tunelab.sweeping.jobs import Job, make_jobs, sweep_name
from tunelab.sweeping.machine import plan_machine
from tunelab.sweeping.orders import visible
from tunelab.sweeping.ranking import Ranking
from tunelab.sweeping.screen import Screen, clock
from tunelab.sweeping.slots import Slots


def some_jobs(*seeds: int) -> list[Job]:
    configs = [RunConfig(seed=seed) for seed in seeds]
    return make_jobs(configs, [[f"seed={seed}", "sweep.name=x"] for seed in seeds], ["seed"])[0]


def test_a_job_is_named_by_what_differs_and_by_its_content():
    first, second = some_jobs(1, 2)
    assert (first.label, first.folder_name) == ("seed=1", f"seed-1_{first.id}")
    assert first.id != second.id
    assert first.overrides == ("seed=1",)
    elsewhere = RunConfig(seed=1, output_dir="o", name="n", sweep=SweepConfig(workers=3))
    [same] = make_jobs([elsewhere], [["seed=1"]], ["seed"])[0]
    assert same.id == first.id
    assert same.config.sweep == SweepConfig()
    knob = RunConfig(seed=1, trainer=TrainerConfig(micro_batch_tokens=64))
    assert make_jobs([knob], [["seed=1"]], ["seed"])[0][0].id == first.id  # it changes no result
    typed = [["trainer.micro_batch_tokens=64"], ["trainer.micro_batch_tokens=65"]]
    other = RunConfig(seed=1, trainer=TrainerConfig(micro_batch_tokens=65))
    assert len(make_jobs([knob, other], typed, ["trainer.micro_batch_tokens"])[0]) == 2  # but may be what is swept


def test_names_are_plain_and_short():
    odd = [["data.path=a b/ü.jsonl", "model.path=x", "peft.path=" + "z" * 300]]
    [job] = make_jobs([RunConfig()], odd, ["data.path", "model.path", "peft.path"])[0]
    assert job.label.startswith("data.path=a b/ü.jsonl model.path=x")
    assert len(job.folder_name) == 120
    assert job.folder_name.startswith("data.path-a_b-.jsonl_model.path-x")
    assert make_jobs([RunConfig(), RunConfig()], [["seed=0"]] * 2, ["seed"])[1] == 1


def test_a_sweep_is_found_again_by_its_keys_and_what_stays():
    name = sweep_name("run", ["peft", "optim.lr"], {"seed": 0})
    assert name.startswith("run_peft-lr_")
    assert name == sweep_name("run", ["peft", "optim.lr"], {"seed": 0})
    assert name != sweep_name("run", ["peft", "optim.lr"], {"seed": 1})


@pytest.mark.parametrize("axis", ["output_dir", "resume", "name", "sweep.rerun"])
def test_some_keys_have_one_value(axis: str):
    with pytest.raises(ConfigError, match=f"{axis}: expected one value for all jobs"):
        make_jobs([RunConfig()], [[f"{axis}=1"]], [axis])


def test_the_index_gathers_what_was_asked(tmp_path: Path):
    sweep = SweepFolder(tmp_path / "x")
    sweep.record(some_jobs(1, 2), ["seed"], ["seed=1,2"])
    sweep.record(some_jobs(2, 3), ["seed"], ["seed=2,3"])
    index = json.loads((sweep.path / "sweep.json").read_text())
    assert index["axes"] == {"seed": ["1", "2", "3"]}
    assert [entry["axes"]["seed"] for entry in index["jobs"]] == ["1", "2", "3"]
    assert index["commands"] == [["seed=1,2"], ["seed=2,3"]]
    for damaged in ("{", "[1]", '{"jobs": 3}', '{"jobs": [{}]}', '{"axes": {"seed": 1}}', '{"commands": [3]}'):
        (sweep.path / "sweep.json").write_text(damaged)
        with pytest.raises(ConfigError, match="found a damaged file"):
            sweep.record(some_jobs(1), ["seed"], [])
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        SweepFolder(tmp_path / "file").record(some_jobs(1), ["seed"], [])


@pytest.mark.parametrize(
    ("rerun", "wanted"),
    [(Rerun.failed, [1, 2, 3, 4]), (Rerun.none, [1, 2, 3]), (Rerun.all, [1, 2, 3, 4, 5])],
    ids=lambda value: value.value if isinstance(value, Rerun) else "",
)
def test_which_jobs_run_again(tmp_path: Path, rerun: Rerun, wanted: list[int]):
    sweep, jobs = SweepFolder(tmp_path), some_jobs(1, 2, 3, 4, 5)
    states = {2: None, 3: "interrupted", 4: "failed", 5: "finished"}
    for job in jobs[1:]:
        folder = sweep.job(job).path
        folder.mkdir()
        status = states[job.config.seed]
        if status:
            RunFolder(folder).write_json("summary.json", {"status": status, "reason": None, "metrics": {}})
    assert [job.config.seed for job in sweep.to_run(jobs, rerun)] == wanted


def test_a_folder_is_found_by_its_id(tmp_path: Path):
    [job] = some_jobs(1)
    (tmp_path / f"older-name_{job.id}").mkdir()
    assert SweepFolder(tmp_path).job(job).path.name == f"older-name_{job.id}"


def test_places_are_dealt_out():
    slots = Slots(workers=2, num_devices=0)
    first, second = slots.take(1, on_cpu=True), slots.take(1, on_cpu=False)
    assert first is not None
    assert second is not None
    assert slots.take(1, on_cpu=True) is None
    slots.give_back(first)
    assert slots.take(2, on_cpu=True) is None  # it needs both
    slots.give_back(second)
    assert slots.take(3, on_cpu=True) is not None  # all there is


def test_no_device_has_two_jobs():
    slots = Slots(workers=4, num_devices=3)
    places = [slots.take(2, on_cpu=False), slots.take(2, on_cpu=False), slots.take(1, on_cpu=False)]
    assert [place.devices if place else None for place in places] == [(0, 1), None, (2,)]
    on_cpu = slots.take(1, on_cpu=True)
    assert on_cpu is not None
    assert on_cpu.devices is None
    assert places[0] is not None
    slots.give_back(places[0])
    again = slots.take(1, on_cpu=False)
    assert again is not None
    assert again.devices == (0,)


def test_a_job_sees_its_own_of_the_devices_that_the_sweep_sees(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible((0, 2)) == "0,2"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,GPU-6")
    assert visible((0, 2)) == "4,GPU-6"


@pytest.mark.parametrize(
    ("typed", "workers", "num_jobs", "num_devices", "found"),
    [
        (None, None, 100, 0, (8, 1)),
        (None, None, 3, 0, (3, 2)),
        (None, 2, 100, 0, (2, 4)),
        ("4", None, 100, 0, (2, 4)),
        ("many", None, 100, 0, (8, 1)),
        (None, None, 100, 2, (2, 4)),
        (None, 1, 100, 2, (1, 8)),
    ],
)
def test_the_machine_is_shared_out(monkeypatch, typed, workers, num_jobs, num_devices, found):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if typed:
        monkeypatch.setenv("OMP_NUM_THREADS", typed)
    monkeypatch.setattr(machine, "num_cores", lambda: 8)
    monkeypatch.setattr(machine, "count_devices", lambda: num_devices)
    planned = plan_machine(workers, num_jobs)
    assert (planned.workers, planned.num_threads) == found


def jobs_over(**axes: list) -> dict[str, Job]:
    """A grid over `peft` and seeds, by id."""
    typed = [[f"peft={peft}", f"seed={seed}"] for peft in axes["peft"] for seed in axes["seed"]]
    configs = [RunConfig(seed=seed, peft={"name": peft}) for peft in axes["peft"] for seed in axes["seed"]]
    return {job.id: job for job in make_jobs(configs, typed, ["peft", "seed"])[0]}


def finished(jobs: dict[str, Job], **values: list[float | None]) -> dict[str, Outcome]:
    """An outcome for each job: `peft` → its figure of each seed; None: it failed."""
    left = {peft: list(found) for peft, found in values.items()}
    outcomes: dict[str, Outcome] = {}
    for name, job in jobs.items():
        value = left[job.axes["peft"]].pop(0)
        metrics = {"val/loss": value, "test/loss": -value} if value is not None else {}
        outcomes[name] = Outcome(Status.finished if metrics else Status.failed, None, metrics)
    return outcomes


def test_the_best_configuration_is_that_of_the_best_mean_over_seeds_in_validations():
    jobs = jobs_over(peft=["lora", "dora", "ia3"], seed=[1, 2])
    outcomes = finished(jobs, lora=[1.0, 9.0], dora=[4.0, 5.0], ia3=[6.0, 7.0])  # one seed of lora is the luckiest
    assert Ranking().best(jobs, outcomes) == "best val/loss 4.5, mean of 2 seeds: peft=dora"
    assert Ranking("test/loss").best(jobs, outcomes) == "best test/loss -6.5, mean of 2 seeds: peft=ia3"  # as asked for
    assert Ranking(names_best=False).best(jobs, outcomes) is None
    for metric in ("val/nothing", "test/num_tokens", "test/length_tokens"):
        assert Ranking(metric).best(jobs, outcomes) is None
    for job in jobs.values():
        job.config.trainer.monitor = "val/exact_match"  # not measured: nothing is chosen by the test split instead
    assert Ranking().best(jobs, outcomes) is None
    assert Ranking().shown(jobs, outcomes) == "test/loss"


def test_a_configuration_counts_with_all_its_seeds():
    jobs = jobs_over(peft=["lora", "dora", "ia3"], seed=[1, 2])
    assert Ranking().best(jobs, {}) is None
    diverged = finished(jobs, lora=[1.0, None], dora=[4.0, math.inf], ia3=[6.0, 7.0])
    assert Ranking().best(jobs, diverged) is None  # of one configuration none is the best
    one_left = finished(jobs, lora=[1.0, None], dora=[4.0, 5.0], ia3=[6.0, 7.0])
    assert Ranking().best(jobs, one_left) == "best val/loss 4.5, mean of 2 seeds: peft=dora"
    equal = finished(jobs, lora=[5.0, 4.0], dora=[4.0, 5.0], ia3=[6.0, 7.0])
    assert Ranking().best(jobs, equal) == "best val/loss 4.5, mean of 2 seeds: peft=lora (1 other equal)"
    seeds = jobs_over(peft=["lora"], seed=[1, 2, 3])
    assert Ranking().best(seeds, finished(seeds, lora=[1.0, 2.0, 3.0])) is None  # the luckiest seed is no result
    single = jobs_over(peft=["lora", "dora"], seed=[1])
    assert Ranking().best(single, finished(single, lora=[1.0], dora=[2.0])) == "best val/loss 1, one seed: peft=lora"


def test_the_screen_has_a_line_for_each_job_that_ends(capsys: pytest.CaptureFixture[str]):
    jobs = list(jobs_over(peft=["lora", "dora", "ia3"], seed=[2]).values())
    first, second, third = jobs
    ended = {first.id: Outcome(Status.finished, None, {"val/loss": 1.5}, 10)}
    with Screen(jobs, ended, 1, Ranking()) as screen:
        running = {second.id: Outcome(Status.running), third.id: Outcome(Status.waiting)}
        screen(running, {second.id: 4.0})
        screen(running | {second.id: Outcome(Status.finished, None, {"val/loss": 0.5}, 61)}, {})
        assert "1 waiting" in screen.headline()
        assert "best val/loss 0.5, one seed: peft=dora · 01:01 left" in screen.headline()
        screen({third.id: Outcome(Status.failed, "it broke", {}, 1)}, {})
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "[2/3] finished: peft=dora seed=2 (01:01) val/loss 0.5",
        "[3/3] failed: peft=ia3 seed=2 (00:01) it broke",
        "2 finished · 1 failed · best val/loss 0.5, one seed: peft=dora",
    ]
    assert clock(3661) == "01:01:01"


def test_the_screen_is_a_table_in_a_terminal():
    first, second = jobs = some_jobs(1, 2)
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, color_system=None, width=100)
    with Screen(jobs, {}, 1, Ranking("test/loss"), console) as screen:
        done = Outcome(Status.finished, None, {"test/loss": 0.25, "test/exact_match": 1.0}, 12)
        screen({first.id: done, second.id: Outcome(Status.running)}, {second.id: 5.0})
    last = [line.split() for line in shown.getvalue().split("status")[-1].splitlines()]
    assert ["finished", "seed=1", "00:12", "test/loss", "0.25"] in last
    assert ["running", "seed=2", "00:05"] in last
    assert "1 running · 1 finished · 00:07 left" in shown.getvalue()


def test_what_a_model_showed_survives_the_disk_to_the_last_bit():
    sums = np.random.default_rng(0).normal(size=(3, 3)) / 3
    seen = Observations(
        sums,
        [None, Chosen(("a", "b"), (-0.1, -1 / 3), 1), None],
        [[Answer("x\ud800", "y", 2, False, -1 / 7)], None, [Answer("", "z"), Answer("é", "z")]],
    )
    again = Observations.from_dict(json.loads(json.dumps(seen.to_dict())))
    assert np.array_equal(again.sums, sums)
    assert (again.choices, again.samples) == (seen.choices, seen.samples)
    nothing = Observations.from_dict(json.loads(json.dumps(Observations(np.zeros((0, 3)), [], []).to_dict())))
    assert nothing.sums.shape == (0, 3)
