"""`tunelab noise`: which runs it makes, what it says of them, and that a report reads what it writes."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from tunelab.config import NoiseConfig
from tunelab.errors import ConfigError
from tunelab.noise import comparable, origins, record, repeats
from tunelab.repeating import Original, with_threads_of
from tunelab.report.distributions import chi_square_quantile
from tunelab.report.noise import read_floors
from tunelab.report.reading import Run
from tunelab.report.repeats import deviation_of, noise_of


@pytest.fixture
def typed(command):
    return command


@pytest.mark.slow
def test_a_study_end_to_end(typed, tmp_path: Path, tiny_overrides: list[str]):
    done = typed("train.py", *tiny_overrides, "trainer.max_steps=3", "seed=7")
    assert done.returncode == 0, done.stderr
    [run] = (tmp_path / "outputs" / "runs" / "run").iterdir()
    done = typed("noise", f"run={run}", "same_seed=1", "other_seeds=2", "sweep.workers=2")
    assert done.returncode == 0, done.stderr
    assert "seed 7, 2 runs: bit-identical, adapter and figures; the floor of the same seed is 0" in done.stdout
    assert "left out" not in done.stdout
    assert "best" not in done.stdout  # repeats of one run do not compete
    folder = tmp_path / "outputs" / "sweeps" / f"noise_{run.name}"
    study = json.loads((folder / "noise.json").read_text())
    assert study["same_seed_is_bit_identical"] is True
    assert sorted(each["seed"] for each in study["runs"]) == [7, 7, 8, 9]
    folders = [run, *(path.parent for path in sorted(folder.glob("*/summary.json")))]
    losses = {Path(f): json.loads((f / "summary.json").read_text())["metrics"]["test/loss"] for f in folders}
    others = [loss for path, loss in losses.items() if "seed-7" not in path.name]
    loss = study["test/loss"]
    assert len(others) == 3
    assert loss["same_seed"] == 0
    assert loss["other_seeds"] == pytest.approx(np.std(others, ddof=1), rel=1e-12) != 0
    assert (loss["same_seed_n"], loss["other_seeds_n"], loss["mean"]) == (2, 3, pytest.approx(np.mean(others)))
    floor = read_floors(str(folder), [])["test/loss"]  # as a report reads it
    assert floor.mark(loss["other_seeds"] * 0.9, 1, 1) == "below the noise of other seeds"
    made = {path: path.stat().st_mtime_ns for path in folder.glob("*/summary.json")}
    again = typed("noise", f"run={run}", "same_seed=1", "other_seeds=2")  # everything is there
    assert again.returncode == 0, again.stderr
    assert "3 jobs, 0 to run" in again.stdout
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*/summary.json")} == made
    assert (folder / study["runs"][0]["folder"]).resolve() == run.resolve()
    report = typed("report", str(run.parent), str(folder), "to=report", "figures=false")
    assert report.returncode == 0, report.stderr
    kept = (folder / "noise.json").read_text()
    for file in run.parents[3].glob("outputs/**/provenance.json"):  # all of them by another code each
        content = json.loads(file.read_text())
        content["git"] = {"commit": f"{file.stat().st_ino:040}", "diff": ""}
        file.write_text(json.dumps(content))
    alone = typed("noise", f"run={run}", "same_seed=1", "other_seeds=2")
    assert alone.returncode == 1
    assert "expected two runs or more that were made alike, found one; others differ (" in alone.stderr
    data = json.loads((run / "provenance.json").read_text())
    data["data_sha256"] = {name: {"x": "other"} for name in data["data_sha256"]}
    (run / "provenance.json").write_text(json.dumps(data))
    changed = typed("noise", f"run={run}", "same_seed=2", "other_seeds=2")
    assert changed.returncode == 1
    assert changed.stderr.startswith(f"error: data: expected what {run.name} was trained on, found ")
    assert (folder / "noise.json").read_text() == kept  # neither took away what was found


def test_a_run_that_failed_is_not_repeated(typed, tmp_path: Path, tiny_config):
    from tunelab.compose import dump_config

    (tmp_path / "config.yaml").write_text(dump_config(tiny_config("seed=5")), encoding="utf-8")
    (tmp_path / "summary.json").write_text(json.dumps({"status": "failed", "reason": "no memory"}))
    done = typed("noise", "run=.")
    assert done.returncode == 1
    assert "run: expected a finished run, found one that is failed (no memory)" in done.stderr
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run=nowhere"], "run, resume: expected a run folder with config.yaml, found none in 'nowhere'"),
        ([], "run: expected a value, found none"),
        (["run=.", "same_seed=-1"], "same_seed: expected 0 or more repeats"),
        (["run=.", "same_seed=0", "other_seeds=0"], "same_seed: expected at least one repeat"),
        (["run=.", "seeds=[3,3]"], "seeds: expected integers in [0, 2**32), each once"),
        (["run=.", "seeds=[5]"], "seeds: expected seeds other than the run's own, found 5"),
        (["run=.", "sweep.name=x"], "sweep.name: set, but nothing uses it"),
        (["run=.", "sweep.metric=test/loss"], "sweep.metric: set, but nothing uses it"),
        (["run=.", "to=sweep"], "to: expected a new folder, or one with an earlier study, found 'sweep'"),
        (["run=.", "to=taken"], "to: expected a new folder, or one with an earlier study, found 'taken'"),
    ],
)
def test_a_mistake_is_one_sentence(typed, tmp_path: Path, tiny_config, arguments: list[str], said: str):
    from tunelab.compose import dump_config

    (tmp_path / "config.yaml").write_text(dump_config(tiny_config("seed=5")), encoding="utf-8")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "notes.txt").write_text("mine")
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "sweep.json").write_text('{"axes": {"peft.r": ["2", "4"]}}')
    done = typed("noise", *arguments)
    assert done.returncode == 1
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_repeats_have_folders_of_their_own_and_the_configuration_of_the_run(tiny_config, tmp_path: Path):
    config = tiny_config("seed=5")
    original = Original(tmp_path, config, ("peft=lora", "seed=5", "optim.lr=1e-2"))
    jobs = repeats(NoiseConfig(run="x", same_seed=2, other_seeds=2), original)
    assert [job.label for job in jobs] == [
        "seed=5 repeat=1", "seed=5 repeat=2", "seed=6 repeat=1", "seed=7 repeat=1"
    ]  # fmt: skip
    assert len({job.id for job in jobs}) == 4
    assert [job.config.seed for job in jobs] == [5, 5, 6, 7]
    assert jobs[2].overrides == ("peft=lora", "optim.lr=1e-2", "seed=6")
    more = repeats(NoiseConfig(run="x", same_seed=3, seeds=[6, 11]), original)
    assert [job.id for job in more[:2]] == [job.id for job in jobs[:2]]  # what was run is found again
    assert more[3].id == jobs[2].id
    with pytest.raises(ConfigError, match=r"^seeds: expected seeds other than the run's own, found 5"):
        repeats(NoiseConfig(run="x", seeds=[5]), original)


def test_a_report_marks_what_lies_below_the_floor_of_a_study(typed, tmp_path: Path):
    for lr, loss in ((1e-3, 1.0), (2e-3, 1.001)):
        for seed in (1, 2):
            folder = tmp_path / "runs" / f"{lr}-{seed}"
            folder.mkdir(parents=True)
            (folder / "config.yaml").write_text(f"seed: {seed}\noptim: {{lr: {lr}}}\n")
            metrics = {"test/loss": loss + seed * 0.1 * lr, "test/num_examples": 9}
            (folder / "summary.json").write_text(json.dumps({"status": "finished", "metrics": metrics}))
    study = {"test/loss": noise_of({1: [1.0, 1.0], 2: [1.03], 3: [0.98]}, own_seed=1)}
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "noise.json").write_text(json.dumps(record(study, True)))
    for named, marked in (((), False), (("noise=study",), True)):
        done = typed("report", "runs", "figures=false", *named)
        assert done.returncode == 0, done.stderr
        page = (tmp_path / "runs" / "report" / "report.md").read_text()
        assert ("†" in page) is ("below the noise of other seeds" in page) is marked


def made(name: str, status: str = "finished", **provenance: object) -> Run:
    record = {
        "started": name,
        "git": {"commit": "a" * 40, "diff": ""},
        "hardware": {"num_threads": 1},
        "data_sha256": {"a.jsonl": "2"},
        **provenance,
    }
    return Run(Path(name), status, None, 0, {}, {}, {"test/loss": 1.0}, {}, {}, record)


def test_only_runs_of_one_code_data_and_environment_are_compared():
    repeat = made("2")
    git = {"commit": "b" * 40, "diff": ""}
    assert comparable(made("1"), [repeat]) == ([made("1"), repeat], {})
    for change, said in (
        ({"git": {"commit": "b" * 40, "diff": "+x"}}, "code bbbbbbbb with uncommitted changes "),
        ({"hardware": {"num_threads": 2}}, "num_threads 2, of the others 1"),
        ({"packages": {"torch": "1.0"}}, "torch 1.0, of the others not recorded"),
        ({"data_sha256": {"a.jsonl": "1"}}, "data a.jsonl as recorded, of the others another content"),
    ):
        kept, left_out = comparable(made("1", **change), [repeat])
        assert kept == [repeat]
        assert said in left_out[Path("1")]
    kept, left_out = comparable(made("1"), [repeat, made("3", git=git)])  # one that is newer takes nothing away
    assert kept == [made("1"), repeat]
    assert left_out == {Path("3"): "code bbbbbbbb, of the others aaaaaaaa"}


def test_the_runs_of_a_study_are_found_from_its_folder(tmp_path: Path):
    said = origins([made(str(tmp_path / "runs" / "a"))], {tmp_path / "study" / "b": "why"}, tmp_path / "study")
    assert [each["folder"] for each in said["runs"]] == ["../runs/a"]
    assert said["left_out"] == [{"folder": "b", "reason": "why"}]


def test_repeats_have_the_threads_of_the_run(monkeypatch: pytest.MonkeyPatch):
    two, three = ({"hardware": {"num_threads": count}} for count in (2, 3))
    for typed_count, records, expected in (
        (None, [three, three], "3"),
        (None, [two, three], None),
        ("1", [three], "1"),
    ):
        monkeypatch.setenv("OMP_NUM_THREADS", typed_count or "")
        with_threads_of(records)
        assert (os.environ["OMP_NUM_THREADS"] or None) == expected


def test_deviations_and_intervals_are_those_of_the_textbook():
    values = [0.3, 0.5, 0.45, 0.61]
    found = deviation_of(values)
    assert found is not None
    assert found.value == pytest.approx(np.std(values, ddof=1), rel=1e-12)
    bounds = [math.sqrt(3 * np.var(values, ddof=1) / stats.chi2.ppf(p, 3)) for p in (0.975, 0.025)]
    assert found.interval == pytest.approx(bounds, rel=1e-9)
    assert deviation_of([1.0]) is None
    equal = deviation_of([2.0, 2.0])
    assert equal is not None
    assert (equal.value, equal.interval) == (0, None)
    noise = noise_of({1: [1.0, 3.0], 2: [4.0]}, own_seed=1)  # a seed that was run twice counts once, with its mean
    assert noise.same_seed is not None
    assert noise.other_seeds is not None
    assert noise.same_seed.value == pytest.approx(math.sqrt(2))
    assert noise.other_seeds.value == pytest.approx(np.std([2.0, 4.0], ddof=1))
    assert noise.to_dict()["n"] == 3  # runs


@pytest.mark.parametrize("degrees", [1, 2, 3, 7, 30, 200])
@pytest.mark.parametrize("probability", [0.001, 0.025, 0.5, 0.975, 0.9999])
def test_the_quantiles_of_chi_square(probability: float, degrees: int):
    expected = stats.chi2.ppf(probability, degrees)
    assert chi_square_quantile(probability, degrees) == pytest.approx(expected, rel=1e-9)
