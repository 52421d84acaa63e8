"""`tunelab reproduce`, and a run's own configuration typed again: what is done again, and what is said of it."""

import json
import math
import shutil
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
from scipy import stats

from tunelab.errors import ConfigError, DataError, ModelError
from tunelab.provenance import diff_name, require_same_inputs
from tunelab.report.agreement import Scale, Verdict, judge, scales, tolerance
from tunelab.report.noise import Floor
from tunelab.report.published import Published, PublishedRow, chosen_runs, read_published
from tunelab.report.reading import Run
from tunelab.report.reproduction import Again, compare, reproduction_json, reproduction_markdown


@pytest.fixture
def typed(command):
    return command


CONFIG = ("--config-name", "config")


def weights(run: Path) -> bytes:
    return (run / "adapter" / "adapter_model.safetensors").read_bytes()


@pytest.fixture
def swept(typed, tmp_path: Path, tiny_overrides: list[str]) -> dict[str, Path]:
    """Two seeds of one configuration, by seed."""
    usual = [*tiny_overrides, "trainer.max_steps=2", "trainer.val_every_steps=2", "hydra/launcher=in_process"]
    done = typed("train.py", "-m", *usual, "seed=1,2", "sweep.name=mine")
    assert done.returncode == 0, done.stderr
    folders = (tmp_path / "outputs" / "sweeps" / "mine").glob("seed-*")
    return {path.name[5]: path for path in folders}


@pytest.mark.slow
def test_a_table_is_done_again_and_a_changed_figure_is_found(typed, swept, tmp_path: Path):
    sweep = swept["1"].parent
    assert typed("report", str(sweep), "figures=false").returncode == 0
    done = typed("reproduce", str(sweep / "report"))
    assert done.returncode == 0, done.stderr
    assert "code, versions, hardware, data and base model are as they were" in done.stdout
    assert "2 of 2 runs bit-identical" in done.stdout
    folder = sweep.with_name("mine_reproduction")
    record = json.loads((folder / "reproduction.json").read_text())
    assert record["agrees"] is True
    assert [each["verdict"] for each in record["runs"]] == ["bit-identical"] * 2
    for each in record["runs"]:
        before, now = (Path(folder / each[key]).resolve() for key in ("before", "now"))
        assert before == swept[str(each["seed"])]
        assert weights(before) == weights(now)
    summary = json.loads((swept["2"] / "summary.json").read_text())
    summary["metrics"]["test/loss"] += 1.0  # somebody else's figure
    (swept["2"] / "summary.json").write_text(json.dumps(summary))
    provenance = json.loads((swept["2"] / "provenance.json").read_text())
    provenance["git"] = {"commit": "c" * 40, "diff": "--- a\n+++ b\n"}
    (swept["2"] / "provenance.json").write_text(json.dumps(provenance))
    study = tmp_path / "noise.json"
    study.write_text('{"test/loss": {"same_seed": 0, "other_seeds": 0.01, "n": 5}}')
    again = typed("reproduce", str(sweep), f"noise={study}", "metrics=[test/loss]")  # what was done again is there
    assert again.returncode == 1
    assert "2 jobs, 0 to run" in again.stdout
    assert "found others: test/loss of row 1 differs (1 of 1); see" in again.stderr
    assert "bit-identical: all runs, seed 1" in again.stdout
    assert "differs: all runs, seed 2" in again.stdout
    patch = folder / f"code-{diff_name(provenance['git'])}.patch"
    assert f"that code: git checkout {'c' * 40} && git apply {patch}" in again.stdout
    assert patch.read_text() == "--- a\n+++ b\n"
    page = (folder / "reproduction.md").read_text()
    assert "| differs |" in page
    assert "not as it was: code cccccccc with uncommitted changes" in page


@pytest.mark.slow
def test_the_saved_configuration_gives_the_same_bits_from_any_folder(typed, swept, tmp_path: Path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    done = typed("train.py", "--config-path", str(swept["2"]), *CONFIG)  # a job of a sweep
    assert done.returncode == 0, done.stderr
    [again] = (elsewhere / "outputs" / "runs" / "run").iterdir()
    assert weights(again) == weights(swept["2"]) != weights(swept["1"])
    monkeypatch.chdir(tmp_path)
    done = typed("train.py", "--config-path", f"elsewhere/{again.relative_to(elsewhere)}", *CONFIG)  # a single run
    assert done.returncode == 0, done.stderr
    [third] = (tmp_path / "outputs" / "runs" / "run").iterdir()
    assert weights(third) == weights(again)
    metrics = [json.loads((run / "summary.json").read_text())["metrics"] for run in (swept["2"], again, third)]
    assert metrics[0] == metrics[1] == metrics[2]


@pytest.mark.slow
def test_other_data_and_missing_data_are_refused_before_anything_runs(typed, tmp_path: Path, tiny_overrides, data_file):
    own = tmp_path / "rows.jsonl"
    shutil.copy(data_file, own)
    usual = [each for each in tiny_overrides if not each.startswith("data.path=")]
    done = typed("train.py", *usual, "data.path=rows.jsonl", "trainer.max_steps=1", "trainer.val_every_steps=1")
    assert done.returncode == 0, done.stderr
    [run] = (tmp_path / "outputs" / "runs" / "run").iterdir()
    own.write_text(own.read_text() + '{"prompt": "one more", "response": "row"}\n')
    refused = typed("reproduce", str(run))
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: data: expected what ")
    assert "found 'rows.jsonl' changed; put it back" in refused.stderr
    own.unlink()
    refused = typed("reproduce", str(run))
    assert refused.returncode == 1
    assert f"{run.name} cannot be done again: data.path: no file 'rows.jsonl'" in refused.stderr
    assert not run.with_name(f"{run.name}_reproduction").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "runs: expected a report, a sweep or run folders, found none"),
        (["nowhere"], "found no 'nowhere'"),
        (["made", "rows=[3]"], "rows: expected numbers of the table's rows ([1]), found 3"),
        (["made", "max_runs=0"], "max_runs: expected null or at least 1"),
        (["made", "metrics=[test/los]"], "expected metrics of the runs, found 'test/los'"),
        (["made", "made/b"], "to: expected a folder for what is done again of 2 places"),
        (["damaged"], "expected what tunelab report writes, found another content"),
    ],
)
def test_a_mistake_is_one_sentence(typed, tmp_path: Path, arguments: list[str], said: str):
    for name in ("a", "b"):
        folder = tmp_path / "made" / name
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(f"seed: {len(name)}\n")
        (folder / "summary.json").write_text('{"status": "finished", "metrics": {"test/loss": 1.0}}')
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "report.json").write_text("[]")
    done = typed("reproduce", *arguments)
    assert done.returncode == 1
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def run_of(name: str, seed: int, loss: float | None) -> Run:
    metrics = {} if loss is None else {"test/loss": loss}
    return Run(Path(name), "finished" if metrics else "failed", None, seed, {}, {}, metrics, {}, {}, {})


def table_of(*rows: tuple[float, ...]) -> Published:
    """A row a configuration, with a loss a seed."""
    numbered = [
        PublishedRow(number, f"lr {number}", tuple(run_of(f"{number}-{seed}", seed, x) for seed, x in enumerate(row)))
        for number, row in enumerate(rows, start=1)
    ]
    return Published(Path("t"), tuple(numbered), ("test/loss",))


def test_runs_are_taken_in_turns_over_the_rows():
    table = table_of((1.0, 2.0), (3.0,), (4.0, 5.0, 6.0))
    assert [run.metrics["test/loss"] for _, run in chosen_runs(table, [], None)] == [1, 3, 4, 2, 5, 6]
    assert [run.metrics["test/loss"] for _, run in chosen_runs(table, [3, 1], 3)] == [1, 4, 2]
    with pytest.raises(ConfigError, match=r"^rows: expected numbers of the table's rows \(\[1, 2, 3\]\), found 9"):
        chosen_runs(table, [9], None)


def test_figures_are_judged_by_the_pooled_noise_of_the_table():
    table = table_of((1.0, 1.2, 1.1), (2.0, 2.4, 2.2))
    pooled = math.sqrt((np.var([1.0, 1.2, 1.1], ddof=1) + np.var([2.0, 2.4, 2.2], ddof=1)) / 2)
    allowed = stats.t.ppf(1 - 0.05 / 2 / 2, 4) * pooled * math.sqrt(2 / 3)  # two cells, four degrees of freedom
    rows = [[1.0, 1.2, 1.1], [2.0 + 1.01 * allowed, 2.4 + 1.01 * allowed, 2.2 + 1.01 * allowed]]
    again = [
        Again(row, before, run_of("x", before.seed, value), {"test/loss": value}, same_weights=row.number == 1)
        for row, values in zip(table.rows, rows, strict=True)
        for before, value in zip(row.runs, values, strict=True)
    ]
    found = compare(table, again, {})
    assert [cell.figure.verdict for cell in found.cells] == [Verdict.equal, Verdict.differs]
    assert found.cells[1].figure.tolerance == pytest.approx(allowed, rel=1e-9)
    assert [run.verdict for run in found.runs[:3]] == [Verdict.identical] * 3
    wide = compare(table, again, {"test/loss": Floor(0.0, 10.0, "a study")})
    assert [cell.figure.verdict for cell in wide.cells] == [Verdict.equal, Verdict.within_noise]
    known = NormalDist().inv_cdf(1 - 0.05 / 2 / 2) * 10 * math.sqrt(2 / 3)
    assert wide.cells[1].figure.tolerance == pytest.approx(known)
    assert reproduction_json(found, Path())["agrees"] is False
    assert reproduction_json(wide, Path())["agrees"] is True
    page = reproduction_markdown(wide, ["torch 1, now 2"])
    assert "- torch 1, now 2" in page
    assert "judged by a standard deviation of 10 (a study)" in page


def test_a_run_that_did_not_finish_is_no_agreement():
    table = table_of((1.0,))
    row = table.rows[0]
    found = compare(table, [Again(row, row.runs[0], run_of("x", 0, None), {}, None)], {})
    assert found.cells[0].figure.verdict is Verdict.missing
    assert not found.cells[0].figure.verdict.agrees
    assert reproduction_json(found, Path())["figures"][0]["now"] is None


def test_without_any_noise_known_only_equal_is_agreement():
    assert scales(["test/loss"], {}, [{"test/loss": {1: 0.5}}]) == {}
    assert tolerance(None, 1, 1) is None
    assert judge([1.0], [1.0], None, 1).verdict is Verdict.equal
    assert judge([1.0], [1.0 + 1e-9], None, 1).verdict is Verdict.differs
    assert judge([1.0], [1.1], Scale(0.1, None, ""), 1).verdict is Verdict.within_noise


def test_other_inputs_are_named():
    then = {"data_sha256": {"a": {"x": "1"}}, "base_model": {"path": "m", "sha256": {"model.safetensors": "1"}}}
    require_same_inputs(then, then, "r")
    with pytest.raises(DataError, match=r"^data: expected what r was trained on, found 'a' changed"):
        require_same_inputs(then, {**then, "data_sha256": {"a": {"x": "2"}}}, "r")
    with pytest.raises(ModelError, match=r"^model: .* 'model\.safetensors' changed"):
        require_same_inputs(then, {**then, "base_model": {"path": "m", "sha256": {"model.safetensors": "2"}}}, "r")


def test_a_report_that_its_runs_no_longer_say_is_refused(tmp_path: Path):
    for seed, loss in ((1, 0.5), (2, 0.7)):
        folder = tmp_path / f"run{seed}"
        folder.mkdir()
        (folder / "config.yaml").write_text(f"seed: {seed}\n")
        (folder / "summary.json").write_text(json.dumps({"status": "finished", "metrics": {"test/loss": loss}}))
    runs = [{"folder": f"../run{seed}", "seed": seed} for seed in (1, 2)]
    entry = {"number": 1, "levels": {"peft.r": 8}, "runs": runs, "values": {"test/loss": {"1": 0.5, "2": 0.7}}}
    (tmp_path / "report").mkdir()
    record = tmp_path / "report" / "report.json"
    record.write_text(json.dumps({"metrics": [{"name": "test/loss"}], "configurations": [entry]}))
    table = read_published([str(tmp_path / "report")], [])
    assert [(row.label, len(row.runs)) for row in table.rows] == [("peft.r=8", 2)]
    record.write_text(record.read_text().replace("0.7", "0.6"))
    with pytest.raises(
        DataError,
        match=r"^runs: expected test/loss 0\.6 of seed 2 as the report in '.*report' has it, found 0\.7 in '.*run2'",
    ):
        read_published([str(tmp_path / "report")], [])


def test_a_report_whose_runs_are_gone_is_refused(tmp_path: Path):
    entry = {"number": 1, "levels": {}, "runs": [{"folder": "../gone", "seed": 1}]}
    content = {"metrics": [{"name": "test/loss"}], "configurations": [entry]}
    (tmp_path / "report.json").write_text(json.dumps(content))
    with pytest.raises(
        DataError, match=r"expected the runs of the report where it says, found none finished in '.*gone'"
    ):
        read_published([str(tmp_path)], [])
