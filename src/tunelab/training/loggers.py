"""The loggers of a run: classes of Lightning, pointed into the run folder; several at once."""

import importlib.util
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from pytorch_lightning.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from tunelab.atomic import write_json
from tunelab.components import build_component, resolve_target
from tunelab.errors import ConfigError, first_line
from tunelab.evaluation.evaluating import Prediction
from tunelab.training.figures import records_up_to

# Where each logger keeps its files, given the run folder. Any other logger gets no such argument.
PLACES: dict[type[Logger], Callable[[Path], dict[str, str]]] = {
    TensorBoardLogger: lambda run: {"save_dir": str(run), "name": "tensorboard", "version": ""},
    CSVLogger: lambda run: {"save_dir": str(run), "name": "csv", "version": ""},
    WandbLogger: lambda run: {"save_dir": str(run), "name": run.name},
    MLFlowLogger: lambda run: {"run_name": run.name},
}
Loggers = Mapping[str, Logger]  # by the name in the configuration
TABLE_KEYS = ("data.batch_size", "model.path", "peak_lr", "peft._target_", "peft.r", "seed")
ROW = "result"  # below the folder of TensorBoard: the row of the HParams table, and the final scores
_NO_COLUMNS = ("output_dir", "name", "experiment")
IDS_FILE = "loggers.json"  # by the name of the logger; what a resumed run needs to continue the tracker's run
ID_ARGUMENTS: dict[type[Logger], str] = {WandbLogger: "id", MLFlowLogger: "run_id"}
PACKAGES: dict[type[Logger], str] = {WandbLogger: "wandb", MLFlowLogger: "mlflow"}


def build_loggers(
    nodes: Mapping[str, Mapping[str, Any]], run: Path, resume_step: int | None = None
) -> dict[str, Logger]:
    """Build the chosen loggers, by name, for the run folder `run`; they continue what was logged up to `resume_step`.

    Raises:
        ConfigError: an unknown class or argument, a package that is not installed, or a tracker that refuses.
    """
    loggers = {name: _build(name, node, run, resume_step) for name, node in nodes.items()}
    for logger in loggers.values():
        if resume_step is not None and isinstance(logger, CSVLogger):
            _write_again(logger, records_up_to(run / "metrics.jsonl", resume_step))
    return loggers


def start_trackers(loggers: Mapping[str, Logger], run: Path) -> None:
    """Begin the runs of trackers, and keep the ids they gave, so that a resumed run continues theirs.

    Raises:
        ConfigError: a tracker refuses: nobody is logged in, or its server is not there.
    """
    ids = _ids(run)
    for name, logger in loggers.items():
        try:
            if isinstance(logger, MLFlowLogger):
                ids[name] = str(logger.run_id)
            elif isinstance(logger, WandbLogger):
                ids[name] = str(logger.experiment.id)
        except Exception as error:  # whatever the tracker's package raises
            offline = f"set logger.{name}.offline=true" if isinstance(logger, WandbLogger) else "start its server"
            raise ConfigError(
                f"logger.{name}: {type(logger).__name__} cannot begin a run ({first_line(error)}); log in, {offline}, "
                "or choose another logger."
            ) from error
    if ids:
        write_json(run / IDS_FILE, ids)


def limits_of_resuming(loggers: Mapping[str, Logger], run: Path) -> list[str]:
    """A line for each logger that does not simply go on where the checkpoint was written."""
    lines: list[str] = []
    for name, logger in loggers.items():
        if type(logger) in ID_ARGUMENTS and name in _ids(run):
            lines.append(f"logger {name}: run {_ids(run)[name]} goes on; steps after the checkpoint show twice in it")
        elif not isinstance(logger, (CSVLogger, TensorBoardLogger)):
            lines.append(f"logger {name}: cannot continue its run, and begins a second one")
    return lines


def log_result(
    loggers: list[Logger], hyperparameters: Mapping[str, Any], metrics: Mapping[str, float], typed: Sequence[str]
) -> None:
    """Log the configuration with the final metrics; `typed` are the overrides given on the command line.

    TensorBoard's HParams table gets a row of what tells runs apart (the usual keys and the typed ones) and of the tuned
    model's scores: it shows columns by name, and a whole configuration would bury both.
    """
    flat = dict(flatten(hyperparameters))
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            scores = {key: value for key, value in metrics.items() if "num_" not in key and not key.startswith("base/")}
            _write_row(Path(str(logger.log_dir)) / ROW, _columns(flat, typed), scores)
        else:
            logger.log_hyperparams(flat)
            logger.log_metrics(dict(metrics))
        logger.finalize("success")
        if isinstance(logger, WandbLogger):
            logger.experiment.finish()  # else the next run of this process (a sweep's) would go on in it


def _columns(flat: Mapping[str, Any], typed: Sequence[str]) -> dict[str, Any]:
    """What the row of a run says of it: values of the configuration, and of a group's choice (peft) what was typed."""
    given = {key.lstrip("+"): value for key, sign, value in (each.partition("=") for each in typed) if sign}
    named = {key: flat.get(key, value) for key, value in given.items() if key in flat or not _is_elsewhere(key)}
    shown = {key: flat[key] for key in TABLE_KEYS if key in flat} | named
    return {key: value for key, value in shown.items() if value != "None" and key not in _NO_COLUMNS}


def _is_elsewhere(key: str) -> bool:
    """Whether a key that is none of the run's is none that tells runs apart either."""
    return key.startswith(("~", "hydra", "sweep"))


def _write_row(folder: Path, columns: Mapping[str, Any], scores: Mapping[str, float]) -> None:
    """A session of the HParams table, with its scores alone, in a folder of its own.

    The table shows what the first run names as the columns of the whole experiment, where one does. Here none does:
    TensorBoard collects the columns of all runs, and of the scalars those that lie in the folders of the sessions.
    """
    from torch.utils.tensorboard import SummaryWriter  # only here: it imports for long
    from torch.utils.tensorboard.summary import hparams

    _, start, end = hparams(dict(columns), dict(scores))
    with SummaryWriter(str(folder)) as writer:
        for name, value in scores.items():
            writer.add_scalar(name, value, 0)
        for summary in (start, end):
            writer._get_file_writer().add_summary(summary)  # pyright: ignore[reportPrivateUsage, reportOptionalMemberAccess]


def flatten(mapping: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Dotted keys and scalars; lists as text."""
    pairs: list[tuple[str, Any]] = []
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            pairs += flatten(cast(Mapping[str, Any], value), f"{prefix}{key}.")
        else:
            pairs.append((f"{prefix}{key}", value if isinstance(value, (bool, int, float, str)) else str(value)))
    return pairs


def _build(name: str, given: Any, run: Path, resume_step: int | None) -> Logger:
    if not isinstance(given, Mapping):
        raise ConfigError(f"logger.{name}: expected a mapping with _target_, found {given!r}; set logger=<name>.")
    node = dict(cast(Mapping[str, Any], given))
    every = node.get("flush_logs_every_n_steps", 1)
    if not isinstance(every, int) or every < 1:
        raise ConfigError(f"logger.{name}.flush_logs_every_n_steps: expected at least 1 step, found {every!r}.")
    cls = resolve_target(str(node.get("_target_")), "logger", Logger)
    package = PACKAGES.get(cls)
    if package and importlib.util.find_spec(package) is None:
        raise ConfigError(f"logger={name}: needs the package {package!r}; pip install 'tunelab[track]'.")
    if cls is MLFlowLogger and node.get("tracking_uri") is None:
        node["tracking_uri"] = f"sqlite:///{run.resolve()}/mlflow.db"
    place = PLACES.get(cls)
    continued = _continuing(name, cls, run, resume_step) if resume_step is not None else {}
    return build_component({**(place(run) if place else {}), **continued, **node}, "logger", Logger)


def _continuing(name: str, cls: type[Logger], run: Path, resume_step: int) -> dict[str, Any]:
    """The arguments that let a logger go on after `resume_step`."""
    if cls is TensorBoardLogger:
        return {"purge_step": resume_step + 1}  # hides what was logged after the checkpoint
    return {ID_ARGUMENTS[cls]: _ids(run)[name]} if cls in ID_ARGUMENTS and name in _ids(run) else {}


def _ids(run: Path) -> dict[str, str]:
    path = run / IDS_FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _write_again(logger: CSVLogger, records: list[dict[str, Any]]) -> None:
    """Lightning deletes the metrics.csv it finds: write the rows of metrics.jsonl into the new one."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Experiment logs directory")
        experiment = logger.experiment
    for record in records:
        experiment.log_metrics({key: value for key, value in record.items() if key != "step"}, record["step"])
    experiment.save()


def log_samples(loggers: Sequence[Logger], predictions: Sequence[Prediction], step: int) -> None:
    """Sample completions as text, for those who show text: TensorBoard."""
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            for number, prediction in enumerate(predictions):
                logger.experiment.add_text(f"samples/{number}", _markdown(prediction), step)


def _markdown(prediction: Prediction) -> str:
    parts = {name: getattr(prediction, name) for name in ("prompt", "reference", "completion")}
    return "\n\n".join(f"**{name}**\n\n{_indented(text)}" for name, text in parts.items())


def _indented(text: str) -> str:
    """A Markdown code block: nothing in it is markup."""
    return "\n".join(f"    {line}" for line in text.splitlines() or [""])
