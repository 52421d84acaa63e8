"""The loggers of a run: classes of Lightning, pointed into the run folder; several at once."""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from pytorch_lightning.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from tunelab.components import build_component, resolve_target
from tunelab.errors import ConfigError

# Where each logger keeps its files, given the run folder. Any other logger gets no such argument.
PLACES: dict[type[Logger], Callable[[Path], dict[str, str]]] = {
    TensorBoardLogger: lambda run: {"save_dir": str(run), "name": "tensorboard", "version": ""},
    CSVLogger: lambda run: {"save_dir": str(run), "name": "csv", "version": ""},
    WandbLogger: lambda run: {"save_dir": str(run), "name": run.name},
    MLFlowLogger: lambda run: {"run_name": run.name},
}
TABLE_KEYS = ("data.batch_size", "model.path", "peak_lr", "peft._target_", "peft.r", "seed")
PACKAGES: dict[type[Logger], str] = {WandbLogger: "wandb", MLFlowLogger: "mlflow"}


def build_loggers(nodes: Mapping[str, Mapping[str, Any]], run: Path) -> list[Logger]:
    """Build the chosen loggers for the run folder `run`.

    Raises:
        ConfigError: an unknown class or argument, or a package that is not installed.
    """
    return [_build(name, dict(node), run) for name, node in nodes.items()]


def log_result(
    loggers: list[Logger], hyperparameters: Mapping[str, Any], metrics: Mapping[str, float], typed: Sequence[str]
) -> None:
    """Log the configuration with the final metrics; `typed` are the keys given on the command line.

    TensorBoard's HParams table gets a row of what tells runs apart (the usual keys and the typed ones) and of the tuned
    model's scores: it shows columns by name, and a whole configuration would bury both.
    """
    flat = dict(flatten(hyperparameters))
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            shown = [key for key in (*TABLE_KEYS, *typed) if flat.get(key, "None") != "None" and key != "output_dir"]
            columns = {key: flat[key] for key in shown}
            scores = {key: value for key, value in metrics.items() if "num_" not in key and not key.startswith("base/")}
            logger.log_hyperparams(columns, scores)
        else:
            logger.log_hyperparams(flat)
            logger.log_metrics(dict(metrics))
        logger.finalize("success")


def flatten(mapping: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Dotted keys and scalars; lists as text."""
    pairs: list[tuple[str, Any]] = []
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            pairs += flatten(cast(Mapping[str, Any], value), f"{prefix}{key}.")
        else:
            pairs.append((f"{prefix}{key}", value if isinstance(value, (bool, int, float, str)) else str(value)))
    return pairs


def _build(name: str, node: dict[str, Any], run: Path) -> Logger:
    cls = resolve_target(str(node.get("_target_")), "logger", Logger)
    package = PACKAGES.get(cls)
    if package and importlib.util.find_spec(package) is None:
        raise ConfigError(f"logger={name}: needs the package {package!r}; pip install 'tunelab[track]'.")
    if cls is MLFlowLogger and node.get("tracking_uri") is None:
        node["tracking_uri"] = f"sqlite:///{run.resolve()}/mlflow.db"
    place = PLACES.get(cls)
    return build_component({**(place(run) if place else {}), **node}, "logger", Logger)
