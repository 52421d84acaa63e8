"""Designs of sweeps: the jobs they make, against plain loops, and what is refused before any starts."""

import itertools
import json
from pathlib import Path

import pytest
import sweeping_runs
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from tunelab import multirun
from tunelab.config import Design, RunConfig, SweepConfig
from tunelab.errors import ConfigError
from tunelab.multirun import compose_jobs, plan_jobs
from tunelab.sweeping.designs import describe, lay_out
from tunelab.sweeping.folder import Outcome, Status, SweepFolder
from tunelab.sweeping.jobs import Job, make_jobs

sweep = sweeping_runs.sweep
SWEPT = {
    "peft": ("lora", "dora", "none"),
    "optim.lr": ("1e-4", "3e-4", "1e-3"),
    "peft.r": ("4", "8"),
    "seed": ("1", "2"),
}


def as_sets(jobs) -> list[frozenset]:
    return [frozenset(job.items()) for job in jobs]


def test_a_grid_is_every_combination_last_key_fastest():
    found = lay_out(SWEPT, {"name": ""}, SweepConfig())
    expected = [
        {"name": "", "peft": peft, "optim.lr": lr, "peft.r": r, "seed": seed}
        for peft in SWEPT["peft"] for lr in SWEPT["optim.lr"] for r in SWEPT["peft.r"] for seed in SWEPT["seed"]
    ]  # fmt: skip
    assert found == expected


def test_zipped_keys_move_together():
    together = dict(zip(SWEPT["peft"], SWEPT["optim.lr"], strict=True))
    found = lay_out(SWEPT, {}, SweepConfig(zip=["optim.lr", "peft"]))
    everything = lay_out(SWEPT, {}, SweepConfig())
    assert found == [job for job in everything if together[job["peft"]] == job["optim.lr"]]
    two = lay_out(SWEPT, {}, SweepConfig(zip=[["peft", "optim.lr"], ["peft.r", "seed"]]))
    pairs = dict(zip(SWEPT["peft.r"], SWEPT["seed"], strict=True))
    assert two == [job for job in found if pairs[job["peft.r"]] == job["seed"]]


def test_one_at_a_time_is_the_grid_within_one_change_of_the_base():
    base = {key: values[0] for key, values in SWEPT.items()}

    def distance(job) -> int:
        return sum(job[key] != base[key] for key in base if key != "seed")

    found = lay_out(SWEPT, {}, SweepConfig(design=Design.one_at_a_time))
    near = [job for job in lay_out(SWEPT, {}, SweepConfig()) if distance(job) <= 1]
    assert len(found) == len(near) == (1 + 2 + 2 + 1) * 2
    assert set(as_sets(found)) == set(as_sets(near))
    assert [distance(job) for job in found] == [0] * 2 + [1] * 10
    zipped = lay_out(SWEPT, {}, SweepConfig(design=Design.one_at_a_time, zip=["peft", "optim.lr"]))
    assert len(zipped) == (1 + 2 + 1) * 2
    assert {(job["peft"], job["optim.lr"]) for job in zipped} == set(zip(SWEPT["peft"], SWEPT["optim.lr"], strict=True))


def test_where_a_condition_does_not_hold_the_key_is_not_set():
    only = ["peft.r if peft=lora,dora", "data.max_length if peft.r=8 and seed=2"]
    found = lay_out(SWEPT, {"data.max_length": ""}, SweepConfig(only=only))
    expected = []
    for values in itertools.product(*SWEPT.values()):
        job = {**dict(zip(SWEPT, values, strict=True)), "data.max_length": ""}
        if job["peft"] == "none":
            del job["peft.r"]
        if not (job.get("peft.r") == "8" and job["seed"] == "2"):
            del job["data.max_length"]
        expected.append(job)
    assert found == expected


def test_a_design_is_said_in_a_line():
    grid = lay_out(SWEPT, {}, SweepConfig())
    assert describe(SWEPT, SweepConfig(), grid) == "grid of peft (3) × optim.lr (3) × peft.r (2) × seed (2): 36 jobs"
    one = SweepConfig(design=Design.one_at_a_time, zip=["peft", "optim.lr"])
    assert describe(SWEPT, one, lay_out(SWEPT, {}, one)) == (
        "one change at a time, base peft=lora optim.lr=1e-4 peft.r=4, changes peft & optim.lr (2) + peft.r (1) "
        "× seed (2): 8 jobs"
    )
    only = SweepConfig(only=["peft.r if peft=lora,dora"])
    assert describe(SWEPT, only, lay_out(SWEPT, {}, only)).endswith("× seed (2): 36 jobs, 6 of them like others")


@pytest.mark.parametrize("value", [["a"], ["a", "a"], [["a", "b"], ["b", "c"]], [["a", "b"], "cd"], ["a", ["b", "c"]]])
def test_a_zip_is_a_list_of_keys_or_of_such_lists(value):
    with pytest.raises(ConfigError, match=r"sweep\.zip: expected a list of swept keys, or several such lists"):
        SweepConfig(zip=value)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["peft=lora,dora", "seed=1,2,3", "sweep.zip=[peft,seed]"], "found peft with 2, seed with 3; give each"),
        (["peft=lora,dora", "sweep.zip=[peft,seed]"], "sweep.zip: expected keys with several values, found seed"),
        (["seed=1,2", "sweep.zip=[seed]"], "sweep.zip: expected a list of swept keys"),
        (["seed=1,2", "sweep.only=['optim.beta2 if seed=1']"], "a key of this sweep before 'if', found optim.beta2"),
        (["seed=1,2", "peft.r=4", "sweep.only=['peft.r if peft=lora']"], "a key with several values after 'if'"),
        (["peft=lora,dora", "seed=1,2", "sweep.only=['seed if peft=lorra']"], "(lora, dora), found 'lorra'"),
        (["peft=lora,dora", "seed=1,2", "peft.r=4,8", "sweep.design=one_at_a_time",
          "sweep.only=['seed if peft=dora and peft.r=8']"], "hold in some job, found 'seed if peft=dora"),
        (["peft=lora,none", "peft.r=4,8", "seed=1,2",
          "sweep.only=['peft if peft.r=8','seed if peft.r=4','peft.r if peft=lora']"],
         "without a circle, found one: peft waits for peft.r waits for peft; remove a condition"),
        (["seed=1,2", "sweep.only=[seed]"], "sweep.only: expected '<key> if <other key>=<value>,<value>'"),
        (["seed=1,2", "sweep.only=['seed if peft=a','seed if peft=b']"], "expected one condition for seed, found 2"),
        (["seed=1,2", "sweep.design=latin"], "sweep.design"),
        (["optim.lr=interval(0,1)", "seed=1,2"], "optim.lr: expected a list of values, found a range without steps"),
        (["seed=1,2", "sweep.match_target=4"], "sweep.match_target: set, but nothing uses it"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_what_does_not_fit_is_one_sentence_and_nothing_starts(sweep, tmp_path: Path, arguments: list[str], said: str):
    done = sweep(*arguments)
    assert done.returncode == 1
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "outputs" / "sweeps").exists()


def test_another_sweeper_has_no_designs(sweep):
    done = sweep("hydra/sweeper=basic", "seed=1,2", "sweep.design=grid")
    assert done.returncode == 1
    assert "sweep.design: set, but nothing uses it" in done.stderr


class Planned:
    """The jobs of what is typed after -m, and their configurations; `experiment`: the text of one of the user's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.configs: list[RunConfig] = []

    def __call__(self, *typed: str, experiment: str = "") -> list[list[str]]:
        (self.folder / "experiment").mkdir(exist_ok=True)
        (self.folder / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{experiment}")
        with initialize_config_dir(str(sweeping_runs.REPOSITORY / "conf"), version_base="1.3"):
            hydra = GlobalHydra.instance().hydra
            assert hydra is not None
            path = f"hydra.searchpath=[{self.folder}]"
            master = hydra.config_loader.load_configuration("train", [path, *typed], RunMode.MULTIRUN)
            jobs = plan_jobs(hydra.config_loader, master)
            self.configs = compose_jobs(hydra.config_loader, master, jobs)
        return jobs


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Planned:
    store = ConfigStore.instance()
    monkeypatch.setattr(store, "repo", dict(store.repo))
    store.store(name="run_schema", node=RunConfig)
    return Planned(tmp_path)


AXES = """
hydra:
  sweeper:
    params:
      peft: lora,none
      peft.use_rslora: false,true
      seed: 1,2
sweep:
  only: ['peft.use_rslora if peft=lora']
  design: one_at_a_time
"""


def test_an_experiment_may_hold_the_axes_and_the_design(planned: Planned):
    jobs = planned("experiment=mine", experiment=AXES)
    base = ["peft=lora", "++peft.use_rslora=False"]
    rest = [base, ["peft=none"], ["peft=lora", "++peft.use_rslora=True"]]
    assert jobs == [[*own, f"seed={seed}", "experiment=mine"] for own in rest for seed in (1, 2)]
    typed = planned("experiment=mine", "seed=3", "++peft.use_rslora=true,false", "sweep.design=grid", experiment=AXES)
    assert [job[:3] for job in typed] == [
        ["peft=lora", "++peft.use_rslora=True", "seed=3"],
        ["peft=lora", "++peft.use_rslora=False", "seed=3"],
        ["peft=none", "seed=3", "experiment=mine"],
        ["peft=none", "seed=3", "experiment=mine"],
    ]
    with pytest.raises(ConfigError, match=r"optim\.lrr: there is no such key; did you mean 'optim\.lr'"):
        planned("experiment=mine", experiment=AXES.replace("seed: 1,2", "optim.lrr: 1,2"))


@pytest.mark.parametrize("design", list(Design), ids=lambda design: design.value)
def test_the_jobs_of_the_base_are_written_down(sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, design: Design):
    monkeypatch.setattr(multirun, "run_jobs", lambda jobs, *_: {job.id: Outcome(Status.finished) for job in jobs})
    swept = ("peft=lora,none", "trainer.max_epochs=1,2", "seed=1,2")
    assert sweep(f"sweep.design={design.value}", *swept).returncode == 0
    [path] = (tmp_path / "outputs" / "sweeps").glob("*/sweep.json")
    index = json.loads(path.read_text())
    first = [
        job["id"] for job in index["jobs"] if (job["axes"]["peft"], job["axes"]["trainer.max_epochs"]) == ("lora", "1")
    ]
    assert len(first) == 2
    assert index.get("base") == (first if design is Design.one_at_a_time else None)


def test_the_data_and_the_sets_measured_besides_are_keys_of_their_own(sweep, monkeypatch: pytest.MonkeyPatch):
    found: list[Job] = []

    def run_jobs(jobs, *_):
        found.extend(jobs)
        return {job.id: Outcome(Status.finished) for job in jobs}

    monkeypatch.setattr(multirun, "run_jobs", run_jobs)
    assert sweep("data=general,tickets", "evaluation.sets=[safety,general]", "seed=1", tiny=False).returncode == 0
    assert [job.axes["data"] for job in found] == ["general", "tickets"]
    for job in found:
        assert job.axes["data"] in (job.config.data.path or "")
        assert set(job.config.evaluation.sets) == {"safety", "general"}


def test_of_equal_jobs_one_is_run(planned: Planned):
    swept = ("peft=lora,none", "optim.lr=1e-3,2e-3", "sweep.only=['optim.lr if peft=lora']")
    jobs = planned(*swept)
    assert jobs == [["peft=lora", "optim.lr=0.001", swept[2]], ["peft=lora", "optim.lr=0.002", swept[2]],
                    ["peft=none", swept[2]], ["peft=none", swept[2]]]  # fmt: skip
    kept, num_equal = make_jobs(planned.configs, jobs, ["peft", "optim.lr"])
    assert num_equal == 1
    assert [dict(job.axes) for job in kept] == [
        {"peft": "lora", "optim.lr": "0.001"}, {"peft": "lora", "optim.lr": "0.002"}, {"peft": "none"},
    ]  # fmt: skip
    sweep = SweepFolder(planned.folder / "x")
    sweep.record(kept, ["peft", "optim.lr"], swept)
    assert json.loads((sweep.path / "sweep.json").read_text())["axes"]["optim.lr"] == ["0.001", "0.002"]
