"""What a search makes better: figures of validations, of extra sets, or the number of trained parameters."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tunelab.config import RunConfig
from tunelab.errors import ConfigError
from tunelab.report.metrics import KINDS, metric_of
from tunelab.report.reading import read_lines
from tunelab.run import RunFolder
from tunelab.suggesting import did_you_mean

NUM_PARAMETERS = "num_trainable_parameters"
VALIDATED = ("loss", "perplexity", "token_accuracy")  # by every validation


@dataclass(frozen=True, slots=True)
class Objective:
    """A figure of finished runs, by its name in summary.json or metrics.jsonl."""

    name: str
    higher_is_better: bool

    @property
    def is_validated(self) -> bool:
        """Whether it is measured while a run goes on."""
        return self.name.startswith("val/")


def choose_objectives(names: Sequence[str], config: RunConfig) -> tuple[Objective, ...]:
    """What is asked for, or the figure by which a run keeps its weights (`trainer.monitor`).

    Raises:
        ConfigError: there is no such figure, it has no better and no worse, it is not measured, or it is of the test
            split: who chooses by it has no test left.
    """
    return tuple(_objective(name, config) for name in names or [config.trainer.monitor])


def value_of(objective: Objective, folder: RunFolder) -> float | None:
    """The figure of a finished run, of validations that of the weights that were kept; None where it is no number."""
    summary = folder.read_summary()
    if not objective.is_validated:
        return _finite(summary.get(objective.name, summary.get("metrics", {}).get(objective.name)))
    best: dict[str, Any] = summary.get("best") or {}
    if best.get("metric") == objective.name:
        return _finite(best.get("value"))
    records = read_lines(folder.path / "metrics.jsonl", f'"{objective.name}"')
    found = {record["step"]: record.get(objective.name) for record in records}
    return _finite(found.get(best.get("step")))


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _objective(name: str, config: RunConfig) -> Objective:
    if name == NUM_PARAMETERS:
        return Objective(name, higher_is_better=False)
    split, _, metric = name.partition("/")
    if split in ("test", "base"):
        raise ConfigError(
            f"search.objectives: expected figures of validations (val/loss, …), found {name}; who chooses by the test "
            f"split has no test left: set search.objectives=[val/{metric.removeprefix('test/')}]."
        )
    known = metric_of(name)
    sets = list(config.evaluation.sets)
    if split not in ("val", *sets) or not metric or not known.is_known:
        names = [f"{part}/{kind}" for part in ("val", *sets) for kind in KINDS]
        hint = did_you_mean(name, [*names, NUM_PARAMETERS]) or "; val/loss is one."
        raise ConfigError(
            f"search.objectives: expected val/<metric>, <extra set>/<metric> or {NUM_PARAMETERS}, found {name}{hint}"
        )
    if known.better is None:
        raise ConfigError(
            f"search.objectives: expected a metric that has a better and a worse, found {name}; set another."
        )
    if split == "val":
        _require_validation(name, metric, config)
    return Objective(name, known.better)


def _require_validation(name: str, metric: str, config: RunConfig) -> None:
    """Raise a ConfigError where no validation will measure it, as far as the configuration tells."""
    data, trainer = config.data, config.trainer
    if data.validation_path is None and data.validation_fraction == 0:
        raise ConfigError(
            f"data.validation_fraction: expected validation examples for search.objectives=[{name}], found 0; set "
            "data.validation_fraction=0.05, or data.validation_path."
        )
    if metric in VALIDATED:
        return
    if trainer.score_every_validations is None:
        raise ConfigError(
            f"search.objectives: expected a figure of every validation, found {name}, for which answers are scored; "
            "set trainer.score_every_validations=1 too."
        )
    if trainer.score_every_validations > 1 and trainer.monitor != name:
        raise ConfigError(
            f"search.objectives: expected {name} of the validation whose weights are kept, found that only each "
            f"{trainer.score_every_validations}th scores answers; set trainer.monitor={name}, or "
            "trainer.score_every_validations=1."
        )
