"""Extra sets in a run's own summary, and answers scored while it trains."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tunelab.compose import load_config
from tunelab.config import EvaluateConfig
from tunelab.errors import ConfigError, TunelabError
from tunelab.evaluate import evaluate
from tunelab.finetune import fine_tune
from tunelab.run import RunFolder
from tunelab.training.module import CausalLMModule

Runner = Callable[..., RunFolder]


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty-four texts that have nothing to do with the task, not even their letters."""
    path = tmp_path_factory.mktemp("documents") / "documents.jsonl"
    texts = [f"QUX {n * 7919} ZOGV {n * n} " * (1 + n % 3) for n in range(24)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def requests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three requests to be refused, three not."""
    path = tmp_path_factory.mktemp("requests") / "requests.jsonl"
    rows = [{"prompt": f"what is {n}?", "response": "I can't help with that." if n % 2 else "Five."} for n in range(6)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def lines(folder: RunFolder, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder.path / name).read_text(encoding="utf-8").splitlines()]


def weights(folder: RunFolder) -> dict[str, torch.Tensor]:
    return load_file(folder.adapter / "adapter_model.safetensors")


# --- extra sets ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured(run: Runner, documents: Path, requests: Path) -> RunFolder:
    """A run with two extra sets, one of them completed too."""
    return run(
        f"evaluation.sets={{general:{documents},safety:{requests}}}",
        "evaluation.sets.safety.evaluation.generate=true", "evaluation.sets.safety.evaluation.max_new_tokens=4",
        "evaluation.base=true",
    )  # fmt: skip


def test_sets_are_in_the_summary_like_the_test_split(measured: RunFolder):
    summary = measured.read_summary()
    keys = {"test/loss", "general/loss", "safety/refusal_rate", "safety/over_refusal_rate"}
    assert keys <= summary["metrics"].keys()
    assert {f"base/{key}" for key in keys} <= summary["metrics"].keys()
    assert keys <= summary["comparisons"].keys()
    assert keys <= summary["counts"].keys()
    assert not {"general/exact_match", "test/exact_match"} & summary["metrics"].keys()
    assert summary["counts"]["safety/refusal_rate"] == 3
    assert (summary["metrics"]["general/num_examples"], summary["metrics"]["safety/num_examples"]) == (24, 6)
    assert not (measured.path / "predictions-general.jsonl").exists()
    written = lines(measured, "predictions-safety.jsonl")
    assert [row["model"] for row in written] == ["base", "tuned"] * 6
    report = measured.read_json("data_report-safety.json")
    assert report["splits"]["test"]["num_kept"] == 6
    data = measured.read_json("provenance.json")["data_sha256"]
    assert {"general/documents.jsonl", "safety/requests.jsonl"} <= {f"{k.split('/')[0]}/{Path(k).name}" for k in data}
    log = (measured.path / "run.log").read_text(encoding="utf-8")
    assert "extra set general: 24 examples" in log
    assert "| general/loss" in (measured.adapter / "README.md").read_text(encoding="utf-8")


def test_a_set_has_the_figures_that_it_has_as_data_of_its_own(
    measured: RunFolder, documents: Path, model_folder: Path, compose_config, tmp_path: Path
):
    overrides = [
        f"adapter={measured.adapter}", f"model.path={model_folder}", "data=file", f"data.path={documents}",
        f"data.test_path={documents}", "data.validation_fraction=0", "evaluation=loss", f"output_dir={tmp_path}",
    ]  # fmt: skip
    alone = evaluate(compose_config(*overrides, command="evaluate"), None, None, ())
    found = measured.read_summary()["metrics"]
    for name in ("loss", "token_accuracy", "num_supervised_tokens"):
        for before in ("", "base/"):
            assert found[f"{before}general/{name}"] == pytest.approx(alone[f"{before}test/{name}"], rel=1e-6)


def test_the_thorough_evaluation_measures_two_sets(compose_config, tiny_overrides: list[str], tmp_path: Path):
    keys = ("evaluation.max_examples=2", "data.max_length=96")
    few = [f"evaluation.sets.{name}.{key}" for name in ("general", "safety") for key in keys]
    few += ["evaluation.max_examples=2", "evaluation.max_new_tokens=2", "evaluation.base=true", "trainer.max_steps=1"]
    few += ["evaluation.sets.safety.evaluation.max_new_tokens=2", f"output_dir={tmp_path}"]
    kept = [each for each in tiny_overrides if not each.startswith(("evaluation", "trainer.max_steps"))]
    metrics = fine_tune(compose_config(*kept, "evaluation=thorough", *few), RunFolder(tmp_path), few)
    figures = {"test/exact_match", "general/loss", "safety/loss", "safety/finished_fraction"}
    assert figures | {f"base/{key}" for key in figures} <= metrics.keys()
    assert "general/finished_fraction" not in metrics


@pytest.mark.parametrize("rate", [0.1, 1e-5])
def test_a_run_that_forgets_says_so_and_a_gentle_one_does_not(
    rate: float, compose_config, data_file: Path, documents: Path, tmp_path: Path
):
    """On the embedded model, which knows something."""
    config = compose_config(
        "data=file", f"data.path={data_file}", "evaluation=loss", "evaluation.sets=[general]",
        "evaluation.max_examples=20", "trainer.max_steps=3", f"optim.lr={rate}", "optim.warmup_fraction=0",
        "trainer.num_sample_completions=0", "logger=none", f"output_dir={documents.parent}",
    )  # fmt: skip
    folder = RunFolder(tmp_path)
    fine_tune(config, folder, ())
    summary = folder.read_summary()
    change = summary["comparisons"]["general/loss"]
    if rate < 1e-3:
        assert summary["warnings"] == {}
        assert abs(change["change"]) < 0.02 * summary["metrics"]["base/general/loss"]
        return
    said = summary["warnings"]["general/loss"]
    low, high = change["interval"]
    assert change["verdict"] == "worse"
    assert said.startswith("forgetting: on general the loss rose from ")
    assert f"(+{change['change']:.4g}, 95 % interval +{low:.4g} to +{high:.4g}; 20 examples)" in said
    log = " ".join((folder.path / "run.log").read_text(encoding="utf-8").split())
    assert f"warning: {said}" in log


def test_a_run_is_measured_on_its_sets_again(measured: RunFolder):
    saved, before = load_config(measured.path / "config.yaml"), measured.read_summary()
    evaluate(EvaluateConfig(run=str(measured.path)), saved, measured, ())
    after = measured.read_summary()
    assert after["metrics"] == pytest.approx(before["metrics"], rel=1e-6)
    assert after["warnings"] == before["warnings"]


def test_sets_of_a_command_are_measured_beside_the_split(
    measured: RunFolder, documents: Path, compose_config, tmp_path: Path
):
    saved = load_config(measured.path / "config.yaml")
    typed = [f"evaluation.sets={{texts:{documents}}}", "evaluation.max_examples=3"]
    config = compose_config(f"run={measured.path}", f"output_dir={tmp_path}", *typed, command="evaluate")
    found = evaluate(config, saved, measured, typed[1:])
    assert found["texts/num_examples"] == found["test/num_examples"] == 3
    assert "general/loss" not in found
    assert {"base/texts/loss", "texts/loss"} <= found.keys()


def test_a_set_of_a_command_leaves_the_settings_of_the_run(
    run: Runner, documents: Path, compose_config, tmp_path: Path
):
    folder = run("evaluation.max_examples=3", "trainer.max_steps=2")
    saved = load_config(folder.path / "config.yaml")
    typed = [f"evaluation.sets={{texts:{documents}}}", "evaluation.sets.texts.evaluation.max_examples=2"]
    config = compose_config(f"run={folder.path}", f"output_dir={tmp_path}", *typed, command="evaluate")
    found = evaluate(config, saved, folder, typed)
    assert (found["test/num_examples"], found["texts/num_examples"]) == (3, 2)
    config = compose_config(f"run={folder.path}", "evaluation.bert_score_layer=3", command="evaluate")
    with pytest.raises(ConfigError, match=r"^evaluation\.bert_score_layer: set, but nothing uses it"):
        evaluate(config, saved, folder, ["evaluation.bert_score_layer=3"])


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["evaluation.sets={a:none.jsonl}"], r"^evaluation\.sets\.a\.data\.test_path: no file 'none\.jsonl'"),
        (["evaluation.sets={test:x.jsonl}"], r"^evaluation\.sets: expected names .* none of train, .*found 'test'"),
        (
            ["evaluation.sets={harness:x.jsonl}"],
            r"^evaluation\.sets: expected names .* none of train, .*found 'harness'",
        ),
        (["evaluation.sets=[file]"], r"^evaluation\.sets\.file\.data\.path: expected rows to measure on, found None"),
        (
            ["{a}", "evaluation.sets.a.evaluation.max_new_tokens=0"],
            r"^evaluation\.sets\.a\.evaluation\.max_new_tokens: expected at least 1",
        ),
        (["evaluation.sets={harness:x.jsonl}"], r"^evaluation\.sets: expected names .*found 'harness'"),
        (["{a}", "evaluation.sets.a.evaluation.metrics=[bleu]"], r"^evaluation\.sets\.a\.evaluation\.metrics: bleu is"),
        (
            ["{a}", "evaluation.sets.a.data.format=messages"],
            r"'messages' .*; set evaluation\.sets\.a\.data\.columns\.messages=",
        ),
        (["{a}", "evaluation.sets.a.data.batch_size=3"], r"^evaluation\.sets\.a\.data\.batch_size: set, but nothing"),
        (["{a}", "evaluation.sets.a.evaluation.regex=x"], r"^evaluation\.sets\.a\.evaluation\.regex: set, but nothing"),
    ],
)
def test_what_is_wrong_with_a_set_is_said_before_weights(
    typed: list[str], said: str, tiny_config, documents: Path, tmp_path: Path
):
    overrides = [f"evaluation.sets={{a:{documents}}}" if each == "{a}" else each for each in typed]
    with pytest.raises(TunelabError, match=said):
        fine_tune(tiny_config(f"output_dir={tmp_path}", *overrides), RunFolder(tmp_path), overrides[1:])


# --- answers scored during training ----------------------------------------------------------------------------------

SCORED = ("evaluation.generate=true", "evaluation.max_new_tokens=4", "trainer.val_every_steps=2")
SCORED += ("trainer.score_every_validations=2", "trainer.num_sample_completions=1")
MONITORED = (*SCORED, "trainer.monitor=val/token_f1", "trainer.early_stopping_patience=9")


@pytest.fixture(scope="module")
def scored(run: Runner) -> RunFolder:
    return run(*MONITORED, "logger=tensorboard")


def test_the_last_figure_is_that_of_evaluate_on_the_same_examples(scored: RunFolder):
    rows = [line for line in lines(scored) if "val/loss" in line]
    assert [row["step"] for row in rows] == [2, 4, 6]
    assert ["val/token_f1" in row for row in rows] == [False, True, True]  # every second, and the last
    saved = load_config(scored.path / "config.yaml")
    best = scored.read_summary()["best"]
    [row] = [row for row in rows if row["step"] == best["step"]]  # the weights that were exported
    config = EvaluateConfig(run=str(scored.path))
    config.split = type(config.split).validation
    found = evaluate(config, saved, scored, ())
    shared = {key.removeprefix("val/") for key in row if key.startswith("val/")}
    assert {"exact_match", "token_f1", "finished_fraction", "length_tokens"} <= shared
    for name in shared:
        assert row[f"val/{name}"] == pytest.approx(found[f"validation/{name}"], rel=1e-5), name


def test_the_best_is_that_of_the_monitored_figure(scored: RunFolder):
    rows = [line for line in lines(scored) if "val/token_f1" in line]
    best = min(rows, key=lambda row: (-row["val/token_f1"], row["val/loss"]))
    assert scored.read_summary()["best"] == {
        "metric": "val/token_f1", "value": best["val/token_f1"], "step": best["step"],
    }  # fmt: skip
    assert scored.read_summary()["best_step"] == best["step"]


def test_scoring_a_few_examples_leaves_the_loss_of_all(run: Runner):
    plain, scored = (
        [{name: row[name] for name in ("val/loss", "val/perplexity", "val/token_accuracy")} for row in found]
        for found in (
            [line for line in lines(run(*SCORED[:3], *more)) if "val/loss" in line]
            for more in ((), (*SCORED[3:], "trainer.num_scored_examples=3"))
        )
    )
    assert plain == scored


def test_samples_are_kept(scored: RunFolder):
    rows = lines(scored, "samples.jsonl")
    assert [row["step"] for row in rows] == [2, 4, 6]
    assert len({row["prompt"] for row in rows}) == 1
    assert scored.read_summary()["paths"]["samples"] == "samples.jsonl"


def test_early_stopping_by_a_figure_of_answers(run: Runner):
    every = ("trainer.val_every_steps=1", "trainer.score_every_validations=1", "trainer.max_steps=9")
    folder = run(*SCORED, *every, "trainer.monitor=val/exact_match", "trainer.early_stopping_patience=2", "optim.lr=0")
    assert lines(folder)[-1]["step"] == 3  # the first figure, and two that are no better
    assert "stopped early at step 3 of 9: no better val/exact_match in 2 validations" in (
        folder.path / "run.log"
    ).read_text(encoding="utf-8")


class Killed(BaseException):
    """As sudden as a kill."""


def test_a_run_that_died_goes_on_to_the_same_bits(
    run: Runner, scored: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    step_of = CausalLMModule.training_step

    def dying(self: CausalLMModule, batch: Any) -> Any:
        if batch.step == 5:
            raise Killed
        return step_of(self, batch)

    folder = RunFolder(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(CausalLMModule, "training_step", dying)
        with pytest.raises(Killed):
            run(*MONITORED, folder=folder)
    run(*MONITORED, folder=folder, resuming=True)
    mine, other = weights(folder), weights(scored)
    assert all(torch.equal(mine[name], other[name]) for name in other)
    figures = [[{k: v for k, v in row.items() if "perf" not in k} for row in lines(each)] for each in (folder, scored)]
    assert figures[0] == figures[1]
    assert lines(folder, "samples.jsonl") == lines(scored, "samples.jsonl")
    assert folder.read_summary()["best"] == scored.read_summary()["best"]


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["trainer.monitor=val/exact_match"], r"found val/exact_match; set trainer\.score_every_validations=1"),
        ([*SCORED, "trainer.monitor=val/exact_mach"], r"found val/exact_mach; .*val/exact_match"),
        ([*SCORED, "trainer.monitor=val/bleu"], r"a figure that validations measure, found val/bleu; .*val/token_f1"),
        ([*SCORED, "trainer.monitor=val/length_tokens"], r"a figure that can be better or worse, found val/length"),
        (["trainer.monitor=loss"], r"^trainer\.monitor: expected val/<metric>, found 'loss'"),
        (["trainer.score_every_validations=1"], r"^trainer\.score_every_validations: .*evaluation\.generate=true"),
        (["trainer.num_scored_examples=3"], r"^trainer\.num_scored_examples: set, but nothing uses it"),
        (["data.validation_fraction=0", "trainer.monitor=val/loss"], r"trainer\.monitor: set, but nothing uses it"),
    ],
)
def test_what_cannot_be_monitored_is_said_before_weights(typed: list[str], said: str, tiny_config, tmp_path: Path):
    with pytest.raises(ConfigError, match=said):
        fine_tune(
            tiny_config(f"output_dir={tmp_path}", "trainer.val_every_steps=null", *typed), RunFolder(tmp_path), typed
        )
