"""What is typed after -m: which jobs it makes, what is refused before any starts, and jobs that share a process."""

import json
import runpy
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import sweeping_runs
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from sweeping_runs import jobs_of, once, signal_self, steps_done, summary_of

from tunelab import cli, sharing
from tunelab.compose import dump_config, to_config
from tunelab.config import RunConfig, mark_read, to_plain
from tunelab.finetune import fine_tune
from tunelab.multirun import compose_jobs
from tunelab.run import RunFolder

sweep = sweeping_runs.sweep
EQUAL = ("sweep.match=tokens",)  # reads the data, and keeps them in the cache


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["seeed=1,2"], "seeed: there is no such key; did you mean 'seed'?"),
        (["seed=1,-2"], "seed: expected an integer in [0, 2**32), found -2; set seed=<value>. (of the job "),
        (["optim.lr=1e-4,fast"], "optim.lr: expected a number, found 'fast'"),
        (["peft=lora,lorra"], "lorra"),
        ([], "-m: expected a key with several values"),
        (["seed=1"], "found none; set one, or leave -m out"),
        (["seed=range(3,3)"], "found an empty list of values"),
        (["optim.lr=choice()"], "optim.lr=range(1,9,2), found choice() (empty choice is not legal); set optim.lr=<val"),
        (["+seed=range()"], "seed: expected values, as in seed=a,b or seed=range(1,9,2), found range() (missing a "),
        (["sweep.workers=1,2"], "sweep.workers: expected one value for all jobs of a sweep"),
        (["output_dir=a,b"], "output_dir: expected one value"),
        (["resume=outputs/runs/x", "seed=1,2"], "resume: expected a single run, found a sweep (-m)"),
        (["sweep.workers=0", "seed=1,2"], "sweep.workers: expected null or at least 1, found 0"),
        (["sweep.name=../x", "seed=1,2"], "sweep.name: expected a folder name"),
        (["sweep.job_timeout=0", "seed=1,2"], "sweep.job_timeout: expected null or seconds above 0"),
        (["sweep.rerun=some", "seed=1,2"], "sweep.rerun"),
        (["sweep.worker=2", "seed=1,2"], "did you mean 'sweep.workers'?"),
        (["hydra/launcher=in_process", "sweep.workers=2", "seed=1,2"], "sweep.workers: set, but nothing uses it"),
        (["hydra/launcher=in_process", "sweep.job_timeout=2", "seed=1,2"], "sweep.job_timeout: set, but nothing uses"),
        ([*EQUAL, "search.num_trials=3", "data.batch_size=4,8"], "search.num_trials: set, but nothing uses it"),
        ([*EQUAL, "output_dir=a,b"], "output_dir: expected one value"),
        ([*EQUAL, "resume=outputs/runs/x", "seed=1,2"], "resume: expected a single run"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_sentence_and_nothing_starts(sweep, tmp_path: Path, arguments: list[str], said: str):
    done = sweep(*arguments)
    assert done.returncode == 1
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_single_run_has_no_use_for_a_key_of_sweeps(sweep, monkeypatch: pytest.MonkeyPatch, tiny_overrides, capfd):
    sweep_script = Path(__file__).resolve().parents[2] / "train.py"
    monkeypatch.setattr(sys, "argv", [str(sweep_script), *tiny_overrides, "sweep.workers=2"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(sweep_script), run_name="__main__")
    assert ended.value.code == 1
    assert "sweep.workers: expected in a sweep (-m), found in a single run; add -m" in capfd.readouterr().err


def test_other_commands_are_refused(monkeypatch: pytest.MonkeyPatch, sweep, capfd):
    monkeypatch.setattr(sys, "argv", ["tunelab", "inspect", "-m", "hydra/launcher=in_process", "seed=1,2"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert "are for python train.py" in capfd.readouterr().err


def test_a_saved_configuration_is_swept_the_same_way(sweep, compose_config, tmp_path: Path):
    (tmp_path / "config.yaml").write_text(dump_config(compose_config()), encoding="utf-8")
    done = sweep("--config-path", str(tmp_path), "--config-name", "config", "seed=1,-2", tiny=False)
    assert done.returncode == 1
    assert "(of the job seed=-2)" in done.stderr


BASE = ("evaluation.base=true",)
HERE = ("hydra/launcher=in_process",)


def test_one_process_gives_the_bits_of_several_and_loads_the_base_once(
    sweep, compose_config, tiny_overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    loaded = []
    load = sharing.load_base_model
    monkeypatch.setattr(sharing, "load_base_model", lambda *args: loaded.append(args) or load(*args))
    usual = [each for each in tiny_overrides if not each.startswith("peft.")] + ["trainer.max_steps=2"]
    done = sweep(*HERE, *usual, "peft=none,pissa,lora", tiny=False)  # the first two change the base
    assert done.returncode == 0, done.stderr
    assert len(loaded) == 1
    for name, folder in jobs_of(tmp_path).items():
        alone = RunFolder(tmp_path / name)
        alone.path.mkdir()
        config = compose_config(*usual, f"peft={name}")
        mark_read(config, "output_dir", "resume", "name")
        fine_tune(config, alone, [])
        assert files(folder / "adapter") == files(alone.adapter)


def test_a_signal_stops_the_sweep_of_one_process_too(sweep, tmp_path: Path):
    mine = tmp_path / "outputs" / "sweeps" / "mine"
    once(lambda: any(steps_done(each) > 3 for each in mine.glob("*-30_*")), lambda: signal_self(signal.SIGTERM))
    arguments = ("sweep.name=mine", "trainer.max_steps=30,2", "trainer.val_every_steps=30")
    done = sweep(*HERE, *arguments)
    assert done.returncode == 128 + signal.SIGTERM
    assert "the same command goes on" in done.stderr
    assert [summary_of(folder)["status"] for folder in mine.glob("max_steps-*")] == ["interrupted"]
    assert sweep(*HERE, *arguments).returncode == 0
    assert {summary_of(folder)["status"] for folder in jobs_of(tmp_path).values()} == {"finished"}


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}


def test_the_base_is_measured_once_and_the_summary_says_by_whom(sweep, tmp_path: Path):
    done = sweep(*HERE, *BASE, "trainer.max_steps=1", "seed=1,2", "evaluation.max_examples=4")
    assert done.returncode == 0, done.stderr
    first, second = jobs_of(tmp_path).values()
    assert "base_measured_by" not in summary_of(first)
    assert summary_of(second)["base_measured_by"] == first.name
    of_base = [
        {key: value for key, value in summary_of(each)["metrics"].items() if key.startswith("base/")}
        for each in (first, second)
    ]
    assert of_base[0] == of_base[1] != {}
    assert "the base model was measured by" in (second / "run.log").read_text()
    [kept] = (first.parent / "shared").glob("base_*.json")
    content = json.loads(kept.read_text())
    content["observations"]["sums"][0][0] += 1  # a byte of it is not as it was written
    kept.write_text(json.dumps(content))
    again = sweep(*HERE, *BASE, "trainer.max_steps=1", "seed=1,2,3", "evaluation.max_examples=4")
    assert again.returncode == 0
    assert "base_measured_by" not in summary_of(jobs_of(tmp_path)["3"])
    assert summary_of(jobs_of(tmp_path)["3"])["metrics"].items() >= of_base[0].items()


def test_another_evaluation_is_another_measurement(sweep, tmp_path: Path):
    done = sweep(*HERE, *BASE, "trainer.max_steps=1", "evaluation.max_examples=3,4")
    assert done.returncode == 0, done.stderr
    for folder in jobs_of(tmp_path).values():
        assert "base_measured_by" not in summary_of(folder)


def test_jobs_are_composed_as_hydra_does_and_groups_only_once(monkeypatch: pytest.MonkeyPatch):
    store = ConfigStore.instance()
    monkeypatch.setattr(store, "repo", dict(store.repo))
    store.store(name="run_schema", node=RunConfig)
    fixed = ["++optim.optimizer={_target_: torch.optim.SGD, lr: 1}", "++peft.use_rslora=true", "experiment=gsm8k"]
    swept = [["data.path=a.jsonl", f"peft={p}", f"optim.lr={lr}", f"seed={s}", *fixed]
             for p in ("lora", "dora") for lr in ("1e-4", "3e-4") for s in range(1)]  # fmt: skip
    swept += [[*swept[0], "~peft.lora_alpha"], [*swept[0], "trainer=debug", "++optim.optimizer.momentum=0.5"]]
    with initialize_config_dir(str(sweeping_runs.REPOSITORY / "conf"), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        loader = hydra.config_loader
        master = loader.load_configuration("train", ["seed=1,2"], RunMode.MULTIRUN)
        expected = [to_plain(to_config(compose("train", overrides=job), RunConfig)) for job in swept]
        composed: list[Any] = []
        load = loader.load_sweep_config
        monkeypatch.setattr(loader, "load_sweep_config", lambda *args: composed.append(args) or load(*args))
        found = [to_plain(config) for config in compose_jobs(loader, master, swept)]
    assert found == expected
    assert len(composed) == 3  # lora, dora, lora with trainer=debug
