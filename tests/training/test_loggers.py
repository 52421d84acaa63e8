"""Loggers: where their files are and what is in them."""

import csv
import importlib.util
import itertools
import json
from pathlib import Path

import pytest
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboard.summary.writer import event_file_writer

from tunelab.config import to_plain
from tunelab.errors import ConfigError
from tunelab.finetune import fine_tune
from tunelab.run import RunFolder
from tunelab.training.loggers import build_loggers, flatten, limits_of_resuming, log_result, start_trackers


@pytest.fixture(scope="module")
def logged(tiny_config, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run with two loggers and samples."""
    folder = RunFolder(tmp_path_factory.mktemp("logged"))
    extra = ["logger=[tensorboard,csv]", "trainer.num_sample_completions=1", "evaluation.generate=true"]
    fine_tune(tiny_config(*extra, "evaluation.max_new_tokens=4", "peft.lora_alpha=8"), folder, ("peft.lora_alpha=8",))
    return folder


@pytest.fixture(scope="module")
def events(logged: RunFolder) -> EventAccumulator:
    accumulator = EventAccumulator(str(logged.path / "tensorboard"))
    accumulator.Reload()
    return accumulator


def test_event_files_hold_the_figures_of_metrics_jsonl(events: EventAccumulator, logged: RunFolder):
    rows = [json.loads(line) for line in (logged.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    for name in ("train/loss", "train/grad_norm", "train/lr", "val/loss", "val/perplexity", "perf/tokens_per_second"):
        expected = [(row["step"], row[name]) for row in rows if name in row]
        found = [(event.step, event.value) for event in events.Scalars(name)]
        assert [step for step, _ in found] == [step for step, _ in expected]
        assert [value for _, value in found] == pytest.approx([value for _, value in expected], rel=1e-5)


def test_samples_are_shown_at_each_validation(events: EventAccumulator):
    assert "samples/0/text_summary" in events.Tags()["tensors"]
    assert [event.step for event in events.Tensors("samples/0/text_summary")] == [3, 6]
    [text, _] = [event.tensor_proto.string_val[0].decode() for event in events.Tensors("samples/0/text_summary")]
    assert "**prompt**" in text
    assert "**completion**" in text


def test_the_hparams_table_has_a_row(logged: RunFolder):
    row = EventAccumulator(str(logged.path / "tensorboard" / "result"))
    row.Reload()
    metadata = {tag: HParamsPluginData.FromString(each) for tag, each in row.PluginTagToContent("hparams").items()}
    assert set(metadata) == {"_hparams_/session_start_info", "_hparams_/session_end_info"}
    hyperparameters = metadata["_hparams_/session_start_info"].session_start_info.hparams
    assert hyperparameters["peak_lr"].number_value == pytest.approx(1e-2)
    assert hyperparameters["peft.lora_alpha"].number_value == 8  # typed
    metrics = logged.read_summary()["metrics"]
    assert "test/loss" in set(row.Tags()["scalars"]) <= set(metrics)
    assert row.Scalars("test/loss")[-1].value == pytest.approx(metrics["test/loss"], rel=1e-5)


def test_the_csv_file_holds_the_figures(logged: RunFolder):
    with (logged.path / "csv" / "metrics.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows if row["train/loss"]] == ["1", "2", "3", "4", "5", "6"]
    assert [row["step"] for row in rows if row["val/loss"]] == ["3", "6"]


def test_no_logger_is_no_logger(tmp_path: Path):
    assert build_loggers({}, tmp_path) == {}


def test_several_loggers_each_in_the_run_folder(compose_config, tmp_path: Path):
    loggers = build_loggers(compose_config("logger=[tensorboard,csv]").logger, tmp_path).values()
    assert [type(logger) for logger in loggers] == [TensorBoardLogger, CSVLogger]
    assert [Path(str(logger.log_dir)) for logger in loggers] == [tmp_path / "tensorboard", tmp_path / "csv"]


@pytest.mark.parametrize(("name", "package"), [("wandb", "wandb"), ("mlflow", "mlflow")])
def test_a_logger_whose_package_is_missing_says_how_to_get_it(
    name: str, package: str, compose_config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(importlib.util, "find_spec", lambda wanted: None)
    said = rf"^logger={name}: needs the package '{package}'; pip install 'tunelab\[track\]'"
    with pytest.raises(ConfigError, match=said):
        build_loggers(compose_config(f"logger={name}").logger, tmp_path)


def test_an_unknown_argument_of_a_logger(compose_config, tmp_path: Path):
    config = compose_config("logger=csv", "logger.csv.flush_every=3")
    with pytest.raises(ConfigError, match=r"^logger\.flush_every: CSVLogger has no such argument; did you mean"):
        build_loggers(config.logger, tmp_path)


@pytest.mark.slow
def test_wandb_offline_stays_on_this_machine(compose_config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    [logger] = build_loggers(compose_config("logger=wandb", "logger.wandb.offline=true").logger, tmp_path).values()
    logger.log_metrics({"train/loss": 1.5}, step=1)
    log_result([logger], {"optim": {"lr": 0.1}}, {"test/loss": 0.5}, [])
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))


@pytest.mark.slow
def test_mlflow_keeps_a_local_store(compose_config, tmp_path: Path):
    pytest.importorskip("sqlalchemy", reason="mlflow-skinny has no SQL store")
    pytest.importorskip("mlflow")
    [logger] = build_loggers(compose_config("logger=mlflow").logger, tmp_path).values()
    logger.log_metrics({"train/loss": 1.5}, step=1)
    log_result([logger], {"optim": {"lr": 0.1}}, {"test/loss": 0.5}, [])
    assert (tmp_path / "mlflow.db").is_file()
    run = logger.experiment.get_run(logger.run_id)
    assert run.data.metrics == {"train/loss": 1.5, "test/loss": 0.5}
    assert run.data.params["optim.lr"] == "0.1"


def test_a_resumed_csv_file_keeps_its_rows(compose_config, tmp_path: Path):
    """Lightning's own logger deletes the file; and what it had not flushed when the run was killed is in it too."""
    rows = [{"step": 1, "train/loss": 2.0}, {"step": 2, "train/loss": 1.0, "val/loss": None}, {"step": 3, "a": 0.5}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "csv").mkdir()
    (tmp_path / "csv" / "metrics.csv").write_text("step,train/loss\n1,2.0\n", encoding="utf-8")
    loggers = build_loggers(compose_config("logger=csv").logger, tmp_path, resume_step=2)
    loggers["csv"].log_metrics({"train/loss": 0.25}, step=3)
    loggers["csv"].save()
    with (tmp_path / "csv" / "metrics.csv").open(encoding="utf-8") as file:
        found = [(row["step"], row["train/loss"]) for row in csv.DictReader(file)]
    assert found == [("1", "2.0"), ("2", "1.0"), ("3", "0.25")]
    assert limits_of_resuming(loggers, tmp_path) == []


def test_resumed_event_files_show_a_step_once(compose_config, tmp_path: Path, monkeypatch):
    # Files of one second are read in the order of their numbers as text: 10 comes before 9.
    monkeypatch.setattr(event_file_writer._global_uid, "get", itertools.count().__next__)
    for resume_step, steps in ((None, (1, 2, 3, 4)), (2, (3, 4, 5))):
        [logger] = build_loggers(compose_config("logger=tensorboard").logger, tmp_path, resume_step).values()
        for step in steps:
            logger.log_metrics({"train/loss": float(step)}, step=step)
        logger.finalize("success")
    accumulator = EventAccumulator(str(tmp_path / "tensorboard"))
    accumulator.Reload()
    assert [event.step for event in accumulator.Scalars("train/loss")] == [1, 2, 3, 4, 5]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_tracker_goes_on_with_the_same_run(
    name: str, compose_config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip(name)
    pytest.importorskip("sqlalchemy", reason="mlflow-skinny has no SQL store")
    monkeypatch.setenv("WANDB_SILENT", "true")
    overrides = [f"logger={name}", *(["logger.wandb.offline=true"] if name == "wandb" else [])]
    ids = []
    for resume_step in (None, 1):
        loggers = build_loggers(compose_config(*overrides).logger, tmp_path, resume_step)
        start_trackers(loggers, tmp_path)
        loggers[name].log_metrics({"train/loss": 0.5}, step=len(ids) + 1)
        if isinstance(loggers[name], WandbLogger):
            loggers[name].experiment.finish()
        ids.append(loggers[name].version if name == "wandb" else loggers[name].run_id)
    assert ids[0] == ids[1] == json.loads((tmp_path / "loggers.json").read_text(encoding="utf-8"))[name]
    [line] = limits_of_resuming(loggers, tmp_path)
    assert line == f"logger {name}: run {ids[0]} goes on; steps after the checkpoint show twice in it"
    if name == "mlflow":
        history = loggers[name].experiment.get_metric_history(ids[0], "train/loss")
        assert [metric.step for metric in history] == [1, 2]


def test_a_tracker_without_a_recorded_run_says_that_it_begins_another(compose_config, tmp_path: Path):
    pytest.importorskip("wandb")
    loggers = build_loggers(compose_config("logger=wandb", "logger.wandb.offline=true").logger, tmp_path, 3)
    assert limits_of_resuming(loggers, tmp_path) == ["logger wandb: cannot continue its run, and begins a second one"]


def test_the_result_reaches_every_logger():
    class Recorder(Logger):
        name = version = "recorder"

        def __init__(self) -> None:
            self.seen: list[object] = []

        def log_hyperparams(self, params, *args, **kwargs) -> None:
            self.seen.append(params)

        def log_metrics(self, metrics, step=None) -> None:
            self.seen.append(metrics)

        def finalize(self, status: str) -> None:
            self.seen.append(status)

    recorder = Recorder()
    log_result([recorder], {"optim": {"lr": 0.1, "betas": [1, 2]}}, {"test/loss": 0.5}, [])
    assert recorder.seen == [{"optim.lr": 0.1, "optim.betas": "[1, 2]"}, {"test/loss": 0.5}, "success"]


def test_flat_keys_are_dotted(tiny_config):
    flat = dict(flatten(to_plain(tiny_config())))
    assert flat["data.columns.prompt"] == "None"
    assert flat["trainer.max_steps"] == 6
    assert all(isinstance(value, (bool, int, float, str)) for value in flat.values())


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        ({"x": 3}, r"^logger\.x: expected a mapping with _target_, found 3"),
        (
            {"csv": {"_target_": "pytorch_lightning.loggers.CSVLogger", "flush_logs_every_n_steps": 0}},
            r"^logger\.csv\.flush_logs_every_n_steps: expected at least 1 step, found 0",
        ),
    ],
)
def test_a_wrong_logger_is_one_sentence(nodes, said: str, tmp_path: Path):
    with pytest.raises(ConfigError, match=said):
        build_loggers(nodes, tmp_path)


def test_a_tracker_that_refuses_does_so_in_preparation(tmp_path: Path):
    class Refusing(WandbLogger):
        def __init__(self) -> None:
            pass

        @property
        def experiment(self):
            raise RuntimeError("No API key configured.\nUse wandb login")

    with pytest.raises(
        ConfigError, match=r"^logger\.wandb: .*\(No API key configured\); .*logger\.wandb\.offline=true"
    ):
        start_trackers({"wandb": Refusing()}, tmp_path)
