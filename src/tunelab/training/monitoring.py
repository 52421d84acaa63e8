"""What validations measure besides the loss, and the figure that decides which weights are the best."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tunelab.config import EvaluationConfig, TrainerConfig
from tunelab.data.records import EvaluationExample
from tunelab.errors import ConfigError
from tunelab.evaluation.measurable import measurable
from tunelab.evaluation.metrics.registry import TOKEN_METRICS

OF_THE_LOSS = {f"val/{name}": better for name, better in TOKEN_METRICS.items()}  # at every validation


@dataclass(frozen=True, slots=True)
class Monitor:
    """`name` as in metrics.jsonl. Not every validation has every figure."""

    name: str
    higher_is_better: bool

    @property
    def mode(self) -> str:
        """Lightning's word for the direction."""
        return "max" if self.higher_is_better else "min"

    def prefers(self, figures: Mapping[str, float], best: Mapping[str, float] | None) -> bool:
        """Whether these figures of a validation are better than the `best` so far; where it is a tie, by the loss.

        Rates of a few examples are often equal. A validation without the figure, or with no number, never is better.
        """
        value, loss = figures.get(self.name, math.nan), figures["val/loss"]
        if math.isnan(value) or best is None:
            return not math.isnan(value)
        if value == best[self.name]:
            return loss < best["val/loss"]
        return value > best[self.name] if self.higher_is_better else value < best[self.name]


VAL_LOSS = Monitor("val/loss", higher_is_better=False)


@dataclass(frozen=True, slots=True)
class Scoring:
    """Answers to these validation examples (their places) are scored at each `every`-th validation, and the last."""

    every: int
    places: tuple[int, ...]


def plan_scoring(
    trainer: TrainerConfig, evaluation: EvaluationConfig, examples: Sequence[EvaluationExample]
) -> tuple[Scoring | None, Monitor]:
    """What validations score, and what is monitored.

    Raises:
        ConfigError: there is nothing to score, or the figure to monitor is not measured or has no better direction.
    """
    if trainer.score_every_validations is None:
        return None, _monitor(trainer.monitor, {}, is_scored=False)
    places = spaced(len(examples), trainer.num_scored_examples)
    found = measurable(evaluation, [examples[place] for place in places])
    if not found:
        raise ConfigError(
            "trainer.score_every_validations: expected validation examples with prompts to complete or choices, found "
            f"{'none' if evaluation.generate else 'no choices, and evaluation.generate=false'}; set "
            f"{'trainer.score_every_validations=null' if evaluation.generate else 'evaluation.generate=true'}."
        )
    monitor = _monitor(trainer.monitor, {f"val/{name}": better for name, better in found.items()}, is_scored=True)
    return Scoring(trainer.score_every_validations, places), monitor


def spaced(count: int, wanted: int) -> tuple[int, ...]:
    """`wanted` places out of `count` (no more than that), evenly spaced from the first: files are often sorted."""
    wanted = min(count, wanted)
    return tuple(index * count // wanted for index in range(wanted))


def _monitor(name: str, scored: Mapping[str, bool | None], is_scored: bool) -> Monitor:
    known = {**OF_THE_LOSS, **scored}
    better = known.get(name)
    if better is not None:
        return Monitor(name, better)
    kind = "that can be better or worse" if name in known else "that validations measure"
    names = ", ".join(each for each, higher in known.items() if higher is not None)
    score = "" if is_scored else "trainer.score_every_validations=1 to score answers, or "
    raise ConfigError(
        f"trainer.monitor: expected a figure {kind}, found {name}; set {score}trainer.monitor to one of {names}."
    )
