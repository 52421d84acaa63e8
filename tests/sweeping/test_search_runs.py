"""`python train.py -m hydra/sweeper=optuna`: tiny runs that are pruned, stopped and gone on with; what is refused."""

import json
import signal
from pathlib import Path

import pytest
import sweeping_runs
from sweeping_runs import once, signal_self, steps_done, summary_of

import hydra_plugins.tunelab as plugins
from tunelab import cli

sweep = sweeping_runs.sweep

SEARCH = ("hydra/sweeper=optuna", "sweep.name=mine", "sweep.workers=1")
LONG = "trainer.max_steps=100000"  # would not end in time by itself


def mine(folder: Path) -> Path:
    return folder / "outputs" / "sweeps" / "mine"


def trials_of(folder: Path) -> list[dict]:
    return json.loads((mine(folder) / "sweep.json").read_text())["search"]["trials"]


def test_a_bad_trial_is_pruned_and_not_run_again(sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd):
    grid = (*SEARCH, "search.sampler=grid", "search.pruner=median", "search.prune_after_trials=1", "optim.lr=1e-2,1e-7",
            f"trainer.max_steps=choice({LONG.partition('=')[2]})", "sweep.only=['trainer.max_steps if optim.lr=1e-7']",
            "search.num_trials=2")  # fmt: skip
    done = sweep(*grid)
    assert done.returncode == 0, done.stderr
    assert "search outputs/sweeps/mine: 2 trials, 0 begun before, 1 at a time" in done.stdout
    assert "[trial 0 · 1/2] finished: lr=0.01" in done.stdout
    assert "[trial 1 · 2/2] pruned: max_steps=100000 lr=1e-07 (" in done.stdout
    good, bad = trials_of(tmp_path)
    assert (good["state"], bad["state"]) == ("finished", "pruned")
    folders = [next(mine(tmp_path).glob(f"*_{trial['jobs'][0]}")) for trial in (good, bad)]
    assert good["objectives"] == [summary_of(folders[0])["best"]["value"]]
    summary = summary_of(folders[1])
    assert summary["status"] == "pruned"
    assert summary["pruned_at_step"] == 3
    assert summary["reason"].startswith("median pruner: val/loss ")
    assert f"best         trial 0: val/loss {good['objectives'][0]:.5g}" in done.stdout
    assert str(folders[0].relative_to(tmp_path)) in done.stdout
    again = sweep(*grid)
    assert again.returncode == 0, again.stderr
    assert "2 trials, 2 begun before" in again.stdout
    assert trials_of(tmp_path) == [good, bad]
    assert summary_of(folders[1]) == summary
    monkeypatch.setattr("sys.argv", ["tunelab", "report", str(mine(tmp_path)), "figures=false"])
    cli.main()
    assert "1 pruned" in capfd.readouterr().out


@pytest.mark.slow
def test_a_search_that_was_stopped_goes_on_with_the_trial_under_way(sweep, tmp_path: Path):
    space = (*SEARCH, "search.sampler=random", "optim.lr=tag(log,interval(1e-4,1e-2))", "search.num_trials=1",
             "trainer.max_steps=100", "trainer.val_every_steps=50", "trainer.checkpoint_every_steps=5")  # fmt: skip
    once(lambda: any(steps_done(each) > 3 for each in mine(tmp_path).glob("lr-*")), lambda: signal_self(signal.SIGTERM))
    stopped = sweep(*space)
    assert stopped.returncode == 128 + signal.SIGTERM
    assert "the same command goes on" in stopped.stderr
    [before] = trials_of(tmp_path)
    assert before["state"] == "running"
    [folder] = mine(tmp_path).glob("lr-*")
    assert summary_of(folder)["status"] == "interrupted"
    done = sweep(*space, "search.num_trials=2")
    assert done.returncode == 0, done.stderr
    first, second = trials_of(tmp_path)
    assert (first["number"], first["values"], first["jobs"]) == (0, before["values"], before["jobs"])
    assert {first["state"], second["state"]} == {"finished"}
    assert "resuming from" in (folder / "run.log").read_text()


SPACE = ("optim.lr=interval(1e-4,1e-2)", "peft.r=2,4")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "-m: expected keys with several values or an interval"),
        (("seed=1,2",), "seed: expected one value for all trials of a search"),
        (("optim.lr=interval(2,1)",), "optim.lr: expected an interval from a lower to a higher number"),
        ((*SPACE, "search.num_trials=0"), "search.num_trials: expected at least 1, found 0"),
        ((*SPACE, "search.objectives=[validation/loss]"), "did you mean 'val/loss'?"),
        ((*SPACE, "search.objectives=[test/loss]"), "has no test left"),
        ((*SPACE, "search.sampler=grid"), "found an interval for optim.lr"),
        ((*SPACE, "search.sampler=cmaes"), "expected intervals of numbers for cmaes, found peft.r"),
        (
            (*SPACE, "data.validation_fraction=0", "search.pruner=median"),
            "data.validation_fraction: expected validation",
        ),
        ((*SPACE, "sweep.rerun=all"), "sweep.rerun: expected failed or none for a search"),
        ((*SPACE, "seed=1", "search.seeds=[1,2]"), "seed: expected it in search.seeds alone"),
        ((*SPACE, "search.prune_after_trials=2"), "search.prune_after_trials: set, but nothing uses it"),
        ((*SPACE, "sweep.metric=test/loss"), "sweep.metric: set, but nothing uses it"),
        (
            (*SPACE, "search.pruner=median", "hydra/launcher=in_process"),
            "hydra/launcher=in_process, where nobody watch",
        ),
        ((*SPACE, "trainer.max_steps=5,-5"), "trainer.max_steps: expected null or at least 1, found -5"),
        ((*SPACE, "hydra/sweeper=grid", "search.num_trials=3"), "search.num_trials: set, but nothing uses it"),
        ((*SPACE, "search.number_of_trials=3"), "search.num_trials"),
        (
            (*SPACE, "search.pruner=median", "trainer.val_every_steps=6"),
            "search.pruner=median ends it, found the first at its end, step 6; set trainer.val_every_steps=1, or",
        ),
    ],
    ids=lambda value: value[-1] if isinstance(value, tuple) and value else "",
)
def test_a_mistake_is_one_sentence_and_nothing_starts(sweep, tmp_path: Path, arguments: tuple[str, ...], said: str):
    if "hydra/sweeper=grid" in arguments:
        arguments = ("peft.r=2,4", *arguments[2:])
        done = sweep(*arguments)
    else:
        done = sweep("hydra/sweeper=optuna", *arguments)
    assert done.returncode == 1
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_without_optuna_the_extra_is_named(sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(plugins, "find_spec", lambda name: None)
    done = sweep("hydra/sweeper=optuna", *SPACE)
    assert done.returncode == 1
    assert "pip install 'tunelab[search]'" in done.stderr


def test_one_process_searches_one_trial_after_another(sweep, tmp_path: Path):
    done = sweep("hydra/sweeper=optuna", "hydra/launcher=in_process", "sweep.name=mine", "trainer.max_steps=1",
                 "peft.r=interval(2,4)", "search.num_trials=2", "search.seeds=[1,2]",
                 "search.objectives=[val/loss,num_trainable_parameters]")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Pareto front" in done.stdout
    for trial in trials_of(tmp_path):
        assert trial["state"] == "finished"
        assert len(trial["jobs"]) == 2
        assert int(trial["values"]["peft.r"]) in (2, 3, 4)  # whole, as the value in conf/peft/lora.yaml is
        loss = [values[0] for values in trial["objectives_of_seeds"].values()]
        assert trial["objectives"][0] == pytest.approx(sum(loss) / 2)
