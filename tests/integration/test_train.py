"""Whole runs, on the smallest model: what they leave, how they stop, and what does not change their result."""

import csv
import json
import math
import os
import runpy
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from forked_processes import Forked, script
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tunelab import worker
from tunelab.audit import refuse_unread_keys
from tunelab.compose import dump_config, load_config
from tunelab.config import EvaluateConfig, RunConfig
from tunelab.errors import ConfigError, ModelError, TunelabError
from tunelab.evaluate import evaluate
from tunelab.finetune import fine_tune
from tunelab.run import RunFolder, open_run_folder
from tunelab.training.figures import MetricsWriter
from tunelab.training.objective import SftObjective

REPOSITORY = Path(__file__).resolve().parents[2]
Runner = Callable[..., RunFolder]


@pytest.fixture(scope="session")
def reference(run: Runner) -> RunFolder:
    """An uninterrupted run, which the others are compared with."""
    return run()


def weights(folder: RunFolder) -> dict[str, torch.Tensor]:
    [path] = folder.adapter.glob("*.safetensors")
    return load_file(path)


def same_weights(first: RunFolder, second: RunFolder) -> bool:
    mine, other = weights(first), weights(second)
    return mine.keys() == other.keys() and all(torch.equal(mine[name], other[name]) for name in mine)


def assert_close(first: RunFolder, second: RunFolder, tolerance: float = 1e-4) -> None:
    """Equal but for the order of sums."""
    mine, other = weights(first), weights(second)
    assert mine.keys() == other.keys()
    for name in mine:
        torch.testing.assert_close(mine[name], other[name], rtol=tolerance, atol=tolerance)


def lines(folder: RunFolder) -> list[dict[str, Any]]:
    text = (folder.path / "metrics.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def losses(folder: RunFolder) -> list[tuple[int, float]]:
    return [(line["step"], line["train/loss"]) for line in lines(folder) if "train/loss" in line]


# --- what a run leaves -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def complete(run: Runner) -> RunFolder:
    """A run that does all there is: base, completions, samples, TensorBoard."""
    return run(
        "evaluation=default", "evaluation.base=true", "evaluation.max_new_tokens=6", "trainer.num_sample_completions=1",
        "logger=[tensorboard,csv]", "peft.lora_alpha=8",
    )  # fmt: skip


def test_the_export_has_a_card_with_base_beside_tuned_and_its_end_tokens(complete: RunFolder):
    card = (complete.adapter / "README.md").read_text(encoding="utf-8")
    metrics = complete.read_summary()["metrics"]
    assert f"| test/loss (nats/token) | {metrics['base/test/loss']:.4f} | {metrics['test/loss']:.4f} |" in card
    assert "LoRA, rank 4, alpha 8" in card
    settings = json.loads((complete.adapter / "generation_config.json").read_text(encoding="utf-8"))
    assert settings["eos_token_id"] == [1]


def test_the_run_folder_holds_what_it_promises(complete: RunFolder):
    present = {str(path.relative_to(complete.path)) for path in complete.path.rglob("*") if path.is_file()}
    assert present >= {
        "config.yaml", "provenance.json", "data_report.json", "metrics.jsonl", "checkpoints/last.ckpt",
        "checkpoints/best.ckpt", "adapter/adapter_config.json", "adapter/adapter_model.safetensors",
        "adapter/tokenizer.json", "adapter/chat_template.jinja", "adapter/README.md", "predictions.jsonl",
        "doctor.json", "summary.json", "run.log", "csv/metrics.csv",
    }  # fmt: skip
    assert [name for name in present if ".tmp" in name] == []
    assert list((complete.path / "tensorboard").glob("events.*"))
    for name in present:
        if name.endswith(".json"):
            json.loads((complete.path / name).read_text(encoding="utf-8"))
    assert yaml.safe_load((complete.path / "config.yaml").read_text(encoding="utf-8"))["peft"]["lora_alpha"] == 8


def test_metrics_have_every_key_at_every_step(complete: RunFolder):
    training = {f"train/{name}" for name in ("loss", "grad_norm", "lr")}
    training |= {f"perf/{name}tokens_per_second" for name in ("", "supervised_")}
    training |= {"perf/padding_fraction", "perf/peak_memory_gib"}
    validation = {"val/loss", "val/perplexity", "val/token_accuracy"}
    rows = lines(complete)
    assert [row["step"] for row in rows if "train/loss" in row] == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in rows if "val/loss" in row] == [3, 6]
    for row in rows:
        assert row.keys() >= (training if "train/loss" in row else validation)
        assert all(math.isfinite(value) for value in row.values())
    assert rows[-1]["val/loss"] < rows[0]["train/loss"]
    assert rows[-1]["val/perplexity"] == pytest.approx(math.exp(rows[-1]["val/loss"]))


def test_the_summary_is_what_reports_read(complete: RunFolder):
    summary = complete.read_summary()
    assert (summary["schema_version"], summary["status"], summary["reason"]) == (1, "finished", None)
    assert (summary["name"], summary["seed"], summary["best_step"]) == ("run", 0, 6)
    assert summary["num_trainable_parameters"] == 4096
    assert {f"{base}test/{name}" for base in ("", "base/") for name in ("loss", "perplexity", "exact_match")} <= set(
        summary["metrics"]
    )
    assert summary["metrics"]["test/loss"] < summary["metrics"]["base/test/loss"]
    low, high = summary["intervals"]["base/test/loss"]
    assert low < summary["metrics"]["base/test/loss"] < high
    assert summary["counts"]["test/loss"] == summary["metrics"]["test/num_examples"]
    change = summary["metrics"]["test/loss"] - summary["metrics"]["base/test/loss"]
    assert summary["comparisons"]["test/loss"]["change"] == pytest.approx(change)
    stages = {"prepare", "load", "evaluate_base", "train", "export", "evaluate_tuned", "total"}
    assert set(summary["times_seconds"]) >= stages
    paths = {"config", "adapter", "metrics", "predictions", "last_checkpoint", "best_checkpoint"}
    assert set(summary["paths"]) >= paths
    for path in summary["paths"].values():
        assert (complete.path / path).exists()
        assert not Path(path).is_absolute()


def test_predictions_are_those_of_base_and_tuned(complete: RunFolder):
    text = (complete.path / "predictions.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    assert len(rows) >= complete.read_summary()["metrics"]["test/num_examples"]
    assert all({"id", "prompt", "reference"} <= row.keys() for row in rows)


def test_the_same_configuration_gives_the_same_adapter(run: Runner, reference: RunFolder):
    again = run()
    assert same_weights(again, reference)
    assert losses(again) == losses(reference)
    assert not same_weights(run("seed=1"), reference)


def test_evaluating_the_run_again_gives_its_metrics(complete: RunFolder):
    before = complete.read_summary()
    predicted = (complete.path / "predictions.jsonl").read_bytes()
    config = EvaluateConfig(run=str(complete.path))
    config.evaluation.max_new_tokens = 6
    folder = open_run_folder(str(complete.path))
    evaluate(config, load_config(folder.path / "config.yaml"), folder, ())
    after = complete.read_summary()
    assert after["metrics"] == pytest.approx(before["metrics"], rel=1e-6)
    assert (complete.path / "predictions.jsonl").read_bytes() == predicted
    assert {**after, "metrics": None} == {**before, "metrics": None}


def test_pages_show_what_both_wrote(complete: RunFolder, tmp_path: Path):
    saved = load_config(complete.path / "config.yaml")
    settings = ["evaluation.max_new_tokens=5", "evaluation.max_examples=2"]
    config = EvaluateConfig(run=str(complete.path), pages=True, output_dir=str(tmp_path))
    config.evaluation.max_new_tokens, config.evaluation.max_examples = 5, 2
    evaluate(config, saved, complete, settings)
    [folder] = (tmp_path / "evaluations").iterdir()
    assert (folder / "review" / "comparison.html").read_text(encoding="utf-8").count("<article") == 2
    with pytest.raises(ConfigError, match=r"^pages: expected completions of base and tuned"):
        evaluate(replace(config, evaluation=replace(config.evaluation, base=False)), saved, complete, settings)


# --- other ways to train ---------------------------------------------------------------------------------------------


def test_without_validation_the_last_weights_count(run: Runner):
    folder = run("data.validation_fraction=0", "trainer.val_every_steps=null")
    assert not [line for line in lines(folder) if "val/loss" in line]
    assert folder.read_summary()["best_step"] is None
    assert not (folder.checkpoints / "best.ckpt").exists()
    assert (folder.checkpoints / "last.ckpt").is_file()


def test_a_key_that_nothing_uses_stops_the_run(tiny_config, tmp_path: Path):
    overrides = ["data.validation_fraction=0", "trainer.val_every_steps=2"]
    config = tiny_config(*overrides)
    with pytest.raises(ConfigError, match=r"^trainer\.val_every_steps: set, but nothing uses it"):
        fine_tune(config, RunFolder(tmp_path), overrides)
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert summary["status"] == "failed"
    assert "trainer.val_every_steps" in summary["reason"]


def test_early_stopping_stops_and_keeps_the_best(run: Runner):
    # So high a rate that the loss rises from the first validation on.
    folder = run("optim.lr=3", "trainer.early_stopping_patience=1", "trainer.val_every_steps=1", "trainer.max_steps=30")
    summary, rows = folder.read_summary(), lines(folder)
    measured = [(row["val/loss"], row["step"]) for row in rows if "val/loss" in row]
    assert summary["status"] == "finished"
    assert rows[-1]["step"] < 30
    assert summary["best_step"] == min(measured)[1] == measured[-2][1]
    assert summary["overfitting"]["last_val_loss"] == measured[-1][0]
    assert "overfitting after step" in (folder.path / "run.log").read_text(encoding="utf-8")
    assert measured[-1][0] >= measured[-2][0]
    text = (folder.path / "run.log").read_text(encoding="utf-8")
    assert f"stopped early at step {rows[-1]['step']} of 30" in text


def test_full_fine_tuning_exports_a_model(run: Runner):
    folder = run("peft=none", "~peft.r", "optim.lr=1e-3")
    assert (folder.adapter / "model.safetensors").is_file()
    assert not (folder.adapter / "adapter_config.json").exists()
    summary = folder.read_summary()
    assert summary["num_trainable_parameters"] == summary["num_parameters"]
    assert lines(folder)[-1]["val/loss"] < lines(folder)[0]["train/loss"]


def test_qlora_trains_on_the_cpu(run: Runner, reference: RunFolder):
    folder = run("peft=qlora")
    summary = folder.read_summary()
    assert summary["num_parameters"] == reference.read_summary()["num_parameters"]
    assert lines(folder)[-1]["val/loss"] < lines(folder)[0]["train/loss"]
    assert not same_weights(folder, reference)


def test_gradient_checkpointing_changes_nothing(run: Runner, reference: RunFolder):
    assert_close(run("trainer.gradient_checkpointing=true"), reference, 1e-6)


@pytest.mark.parametrize(
    "change", ["trainer.micro_batch_tokens=1", "trainer.micro_batch_tokens=4096", "model.attention=padded"]
)
def test_memory_knobs_change_nothing(change: str, run: Runner, reference: RunFolder):
    assert_close(run(change), reference)


def test_bf16_is_near_full_precision(run: Runner, reference: RunFolder):
    folder = run("trainer.precision=bf16")
    assert {tensor.dtype for tensor in weights(folder).values()} == {torch.float32}
    assert not same_weights(folder, reference)
    for (_, found), (_, expected) in zip(losses(folder), losses(reference), strict=True):
        assert found == pytest.approx(expected, rel=0.05)


def test_fp16_trains_though_its_scale_is_found_by_overflowing(run: Runner):
    folder = run("trainer.precision=fp16", "trainer.max_steps=9", "trainer.val_every_steps=9")
    assert {tensor.dtype for tensor in weights(folder).values()} == {torch.float32}
    assert losses(folder)[-1][1] < 0.8 * losses(folder)[0][1]
    norms = [line["train/grad_norm"] for line in lines(folder) if "train/loss" in line]
    assert norms[-1] is not None
    assert 0 < norms[-1] < 100  # of gradients that were scaled back


# --- out of memory, and a loss that is no number ---------------------------------------------------------------------


def limited_memory(monkeypatch: pytest.MonkeyPatch, max_tokens: int, error: Callable[[], BaseException]) -> list[int]:
    """Let a training pass over more than `max_tokens` positions fail, after it has used the random generator."""
    refused: list[int] = []
    forward = SftObjective.__call__

    def call(self: SftObjective, model: Any, batch: Any) -> Any:
        if torch.is_grad_enabled() and batch.num_tokens > max_tokens:
            refused.append(batch.num_tokens)
            torch.rand(7)
            raise error()
        return forward(self, model, batch)

    monkeypatch.setattr(SftObjective, "__call__", call)
    return refused


@pytest.mark.parametrize("error", [MemoryError, lambda: RuntimeError("can't allocate memory"), torch.OutOfMemoryError])
def test_out_of_memory_halves_the_budget_and_repeats_the_step(error, run: Runner, monkeypatch: pytest.MonkeyPatch):
    expected = run("trainer.micro_batch_tokens=64")
    refused = limited_memory(monkeypatch, 64, error)
    found = run("trainer.micro_batch_tokens=256")
    assert len(refused) == 2  # 256, then 128; from then on 64
    assert same_weights(found, expected)
    assert losses(found) == losses(expected)


def test_out_of_memory_with_one_example_says_what_to_do(run: Runner, monkeypatch: pytest.MonkeyPatch):
    limited_memory(monkeypatch, 1, lambda: torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(ModelError, match=r"out of memory with a single example of \d+ tokens.*checkpointing=true"):
        run()


def test_another_error_is_not_taken_for_memory(run: Runner, monkeypatch: pytest.MonkeyPatch):
    refused = limited_memory(monkeypatch, 1, lambda: RuntimeError("shapes do not fit"))
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        run()
    assert len(refused) == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_the_run(
    value: float, tiny_config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    forward, passes = SftObjective.__call__, []

    def call(self: SftObjective, model: Any, batch: Any) -> Any:
        sums = forward(self, model, batch)
        passes.append(torch.is_grad_enabled())
        if sum(passes) > 7:
            return type(sums)(sums.nll_sum * value, sums.token_count, sums.num_correct)
        return sums

    monkeypatch.setattr(SftObjective, "__call__", call)
    said = rf"^step \d: expected a finite loss, found {value} \(examples rows\.jsonl:\d+"
    with pytest.raises(TunelabError, match=said):
        fine_tune(tiny_config("trainer.val_every_steps=1"), RunFolder(tmp_path), ())
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert summary["status"] == "failed"
    assert "lower optim.lr" in summary["reason"]
    assert (tmp_path / "checkpoints" / "last.ckpt").is_file()


# --- stopped and resumed ---------------------------------------------------------------------------------------------


def stop_when(monkeypatch: pytest.MonkeyPatch, step: int, act: Callable[[], None]) -> None:
    """Do something in the middle of optimizer step `step` (from 0)."""
    from tunelab.training.module import CausalLMModule

    original = CausalLMModule.training_step

    def training_step(self: CausalLMModule, batch: Any) -> Any:
        if batch.step == step:
            act()
        return original(self, batch)

    monkeypatch.setattr(CausalLMModule, "training_step", training_step)


class Killed(BaseException):
    """As sudden as a kill: nothing of the run is finished."""


@pytest.mark.parametrize("step", [0, 1, 3, 5])
def test_a_run_that_died_is_resumed_to_the_same_bits(
    step: int, run: Runner, reference: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def die() -> None:
        raise Killed

    overrides = ("trainer.checkpoint_every_steps=1",)
    folder = RunFolder(tmp_path)
    with monkeypatch.context() as patch:
        stop_when(patch, step, die)
        with pytest.raises(Killed):
            run(*overrides, folder=folder)
    with (tmp_path / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 9, "train/lo')  # cut short
    if step == 0:
        assert not folder.checkpoints.exists()
        return
    run(*overrides, folder=folder, resuming=True)
    assert same_weights(folder, reference)
    assert losses(folder) == losses(reference)
    assert folder.read_summary()["reproducibility"] == "bit-exact"
    assert "reproducibility: bit-exact (" in (tmp_path / "run.log").read_text(encoding="utf-8")
    [later] = folder.read_json("provenance.json")["resumed"]
    assert later["step"] == step
    assert f"resuming from {folder.checkpoints}" in (tmp_path / "run.log").read_text(encoding="utf-8").replace("\n", "")


@pytest.mark.parametrize(
    "kind", [["trainer.precision=bf16"], ["trainer.precision=fp16"], ["peft=qlora"], ["peft=none", "~peft.r"]]
)
def test_every_kind_of_run_is_resumed_to_the_same_bits(
    kind: list[str], run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Where this was not seen, a run must not say `bit-exact`."""

    def die() -> None:
        raise Killed

    folder = RunFolder(tmp_path)
    with monkeypatch.context() as patch:
        stop_when(patch, 4, die)
        with pytest.raises(Killed):
            run(*kind, folder=folder)
    run(*kind, folder=folder, resuming=True)
    assert same_weights(folder, run(*kind))
    assert folder.read_summary()["reproducibility"] == "bit-exact"


def test_a_resumed_run_logs_every_step_once(run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def die() -> None:
        raise Killed

    overrides, folder = ("logger=[tensorboard,csv]", "trainer.checkpoint_every_steps=2"), RunFolder(tmp_path)
    with monkeypatch.context() as patch:
        stop_when(patch, 5, die)  # after step 5; the checkpoint is of step 4
        with pytest.raises(Killed):
            run(*overrides, folder=folder)
    run(*overrides, folder=folder, resuming=True)
    with (tmp_path / "csv" / "metrics.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows if row["train/loss"]] == ["1", "2", "3", "4", "5", "6"]
    assert [row["step"] for row in rows if row["val/loss"]] == ["3", "6"]
    accumulator = EventAccumulator(str(tmp_path / "tensorboard"))
    accumulator.Reload()
    assert [event.step for event in accumulator.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("changed", ["data", "model"])
def test_a_run_is_not_resumed_on_other_data_or_another_model(
    changed: str, run: Runner, model_folder: Path, data_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def die() -> None:
        raise Killed

    data, model, folder = tmp_path / "rows.jsonl", tmp_path / "base", RunFolder(tmp_path / "run")
    shutil.copy(data_file, data)
    shutil.copytree(model_folder, model)
    folder.path.mkdir()
    overrides = (f"data.path={data}", f"model.path={model}", "trainer.checkpoint_every_steps=1")
    with monkeypatch.context() as patch:
        stop_when(patch, 2, die)
        with pytest.raises(Killed):
            run(*overrides, folder=folder)
    recorded = folder.read_json("provenance.json")
    with (data if changed == "data" else model / "config.json").open("a", encoding="utf-8") as file:
        file.write("\n")
    with pytest.raises(TunelabError, match=rf"^{changed}: expected what this run was started with, found .* changed"):
        run(*overrides, folder=folder, resuming=True)
    assert folder.read_json("provenance.json") == recorded


def test_a_damaged_checkpoint_is_passed_over(
    run: Runner, reference: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def die() -> None:
        raise Killed

    folder = RunFolder(tmp_path)
    with monkeypatch.context() as patch:
        stop_when(patch, 4, die)
        with pytest.raises(Killed):
            run("trainer.checkpoint_every_steps=1", folder=folder)
    content = (folder.checkpoints / "last.ckpt").read_bytes()
    (folder.checkpoints / "last.ckpt").unlink()
    (folder.checkpoints / "last.ckpt").write_bytes(content[: len(content) // 2])
    run("trainer.checkpoint_every_steps=1", folder=folder, resuming=True)
    assert same_weights(folder, reference)
    assert "passed over" in (tmp_path / "run.log").read_text(encoding="utf-8")


def train_and_signal(number: int, *arguments: str) -> None:
    """train.py with one change: after writing the figures of step 5 it signals itself.

    Sent from outside, the signal would come at another moment each time, or after the end.
    """
    write = MetricsWriter._write

    def write_and_signal(self: MetricsWriter, trainer: Any, metrics: Any) -> None:
        write(self, trainer, metrics)
        if trainer.global_step == 5:
            os.kill(os.getpid(), number)

    MetricsWriter._write = write_and_signal
    script("train.py", *arguments)


LONG = ("trainer.max_steps=12", "trainer.val_every_steps=12", "trainer.checkpoint_every_steps=2")


@pytest.fixture(scope="module")
def long_reference(run: Runner) -> RunFolder:
    return run(*LONG)


@pytest.fixture(scope="module")
def stopped(
    tiny_overrides: list[str], tmp_path_factory: pytest.TempPathFactory
) -> dict[signal.Signals, tuple[RunFolder, int | None, str]]:
    """Two processes, each ended by its signal after the fifth step: folder, exit code and output."""
    started = {}
    for number in (signal.SIGTERM, signal.SIGKILL):
        output_dir = tmp_path_factory.mktemp(number.name)
        arguments = (int(number), *tiny_overrides, *LONG, f"output_dir={output_dir}")
        started[number] = (output_dir, Forked(output_dir / "printed", train_and_signal, *arguments))
    results = {}
    for number, (output_dir, process) in started.items():
        code, output = process.ended()
        [path] = output_dir.glob("runs/run/*")
        results[number] = (open_run_folder(str(path)), code, output)
    return results


def resume_here(folder: RunFolder) -> None:
    fine_tune(load_config(folder.path / "config.yaml"), folder, (), resuming=True)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_process_that_was_stopped_is_resumed_to_the_same_bits(
    number: signal.Signals, stopped: dict[signal.Signals, tuple[RunFolder, int | None, str]], long_reference: RunFolder
):
    folder, code, output = stopped[number]
    if number == signal.SIGTERM:
        assert code == 143, output
        assert "Traceback" not in output
        assert folder.read_summary()["status"] == "interrupted"
        assert folder.read_summary()["reason"] == "stopped by SIGTERM"
    else:
        assert code == -signal.SIGKILL
        assert folder.read_summary() == {}
    assert lines(folder)[-1]["step"] == 5
    resume_here(folder)
    assert folder.read_summary()["status"] == "finished"
    assert same_weights(folder, long_reference)
    assert losses(folder) == losses(long_reference)
    assert [step for step, _ in losses(folder)] == list(range(1, 13))


# --- the entry points ------------------------------------------------------------------------------------------------


@pytest.fixture
def train_py(monkeypatch: pytest.MonkeyPatch):
    """`python train.py <arguments>` in this process, with the work itself replaced; returns its arguments."""

    def call(*arguments: str) -> dict[str, Any]:
        seen: dict[str, Any] = {}

        def instead(config: RunConfig, folder: RunFolder, overrides: Any, resuming: bool, shared: Any = None) -> None:
            seen.update(config=config, folder=folder, resuming=resuming)
            _ = config.seed  # by the training itself
            keys = [override for override in overrides if "." not in override.partition("=")[0]]
            refuse_unread_keys(config, keys)  # the keys that only the entry point can have used

        monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
        monkeypatch.setattr(worker, "fine_tune", instead)
        monkeypatch.setattr(sys, "argv", [str(REPOSITORY / "train.py"), *arguments])
        runpy.run_path(str(REPOSITORY / "train.py"), run_name="__main__")
        return seen

    return call


def test_train_py_makes_the_folder(train_py, tmp_path: Path):
    seen = train_py(f"output_dir={tmp_path}", "name=mine", "seed=3")
    assert seen["resuming"] is False
    assert seen["folder"].path.parent == tmp_path / "runs" / "mine"
    assert load_config(seen["folder"].path / "config.yaml").seed == 3
    typed = yaml.safe_load((seen["folder"].path / "overrides.yaml").read_text(encoding="utf-8"))
    assert typed == [f"output_dir={tmp_path}", "name=mine", "seed=3"]


def test_train_py_resumes(train_py, tmp_path: Path):
    first = train_py(f"output_dir={tmp_path}", "seed=3")
    again = train_py(f"resume={first['folder'].path}", "trainer.micro_batch_tokens=64")
    assert again["folder"].path == first["folder"].path
    assert again["resuming"] is True
    assert (again["config"].seed, again["config"].trainer.micro_batch_tokens) == (3, 64)


def test_train_py_refuses_another_configuration_on_resume(train_py, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    first = train_py(f"output_dir={tmp_path}")
    with pytest.raises(SystemExit) as caught:
        train_py(f"resume={first['folder'].path}", "optim.lr=1")
    assert caught.value.code == 1
    assert capsys.readouterr().err.startswith("error: optim.lr: a resumed run keeps the configuration")


# --- several processes, which the sweeps start in earnest -------------------------------------------------------------


@pytest.mark.parametrize(("code", "said"), [(0, ""), (1, "error: why it failed"), (143, "stopped by SIGTERM")])
def test_train_py_starts_several_processes_and_ends_as_they_do(
    code: int, said: str, train_py, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    launched: list[tuple[Any, ...]] = []

    def launch(module: str, arguments: list[str], num_processes: int, on_cpu: bool) -> int:
        launched.append((module, [arguments[0], *arguments[2:]], num_processes, on_cpu))
        RunFolder(Path(arguments[1])).write_json("summary.json", {"status": "failed", "reason": "why it failed"})
        return code

    monkeypatch.setattr(worker, "launch", launch)
    typed = [f"output_dir={tmp_path}", "trainer.devices=2", "trainer.accelerator=cpu"]
    if code:
        with pytest.raises(SystemExit) as ended:
            train_py(*typed)
        assert ended.value.code == code
    else:
        train_py(*typed)
    assert launched == [("tunelab.worker", [str(os.getpid()), "start", *typed], 2, True)]
    assert capsys.readouterr().err.startswith(said)


@pytest.mark.parametrize("typed", ["name=mine", "seed=1", "output_dir=somewhere"])
def test_a_process_of_several_takes_the_keys_of_the_run_for_used(
    typed: str, tiny_config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    seen: list[str] = []

    def instead(config: RunConfig, folder: RunFolder, overrides: Any, resuming: bool, shared: Any = None) -> None:
        _ = config.seed  # by the training itself
        refuse_unread_keys(config, overrides)
        seen.append(typed)

    monkeypatch.setattr(worker, "fine_tune", instead)
    (tmp_path / "config.yaml").write_text(dump_config(tiny_config(typed)), encoding="utf-8")
    worker.main(str(tmp_path), False, [typed])
    assert seen == [typed]
