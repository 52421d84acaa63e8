"""What a metric is, and the list of all of them: a function of one answer becomes a metric by a decorator."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from tunelab.config import EvaluationConfig
from tunelab.errors import ConfigError
from tunelab.evaluation.statistics import Floats
from tunelab.suggesting import did_you_mean

AUTO = "auto"

Sums = tuple[float, ...]  # of one example, to be added up over examples
Value = Callable[[Floats], Floats]  # column sums (..., k) → values (...)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model wrote for an example, beside the reference. `num_tokens`: of the completion, end token left out.

    Where a metric needs them: `log_probability` of the completion and its end, in nats, if greedy; `copied_words`,
    the longest run of words that a training response has as well.
    """

    completion: str
    reference: str
    num_tokens: int = 0
    finished: bool = True
    log_probability: float | None = None
    copied_words: int | None = None


@dataclass(frozen=True, slots=True)
class Chosen:
    """What a model says of the possible answers of one example: the log-likelihood of each, in nats.

    `choices` are their texts, `right` the place of the reference.
    """

    choices: tuple[str, ...]
    log_likelihoods: tuple[float, ...]
    right: int


@dataclass(frozen=True, slots=True)
class Unit:
    """What the values of a metric are counted in, their range, and the factor by which tables show them."""

    name: str
    low: float
    high: float
    scale: float = 1.0
    symbol: str = ""


FRACTION = Unit("fraction", 0, 1, scale=100, symbol=" %")
POINTS = Unit("points", 0, 100)
TOKENS = Unit("tokens", 0, np.inf)


def ratio(sums: Floats) -> Floats:
    """First over second of the two column sums (..., 2); nan where the second is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(sums[..., 1] > 0, sums[..., 0] / sums[..., 1], np.nan)


def fits_all(references: Sequence[str]) -> bool:
    """For metrics that are always worth a row."""
    return bool(references)


def fits_none(references: Sequence[str]) -> bool:
    """For metrics that are measured where they are asked for by name only."""
    del references
    return False


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. `score` returns the sums of an answer, or None where it does not apply.

    A number alone stands for (number, 1): the metric is its mean. Whether it applies depends on the reference, never on
    the completion, so that two models are compared on the same examples. `value`: column sums → value. `better`: True
    where higher is better, False where lower is, None where neither. `is_rate`: each example scores 0 or 1. `needs`
    ends the sentence "no example has …" where it applies to none. `fits`: references → whether `auto` measures it.
    `per_example`: predictions.jsonl shows it. `breakdown`: answers → part → the sums of each answer, for rows of their
    own. `overall`: instead of `score`, the value from all answers at once. `signature`: what the library that defines
    it says of its settings. `vote`: of a metric that is right or wrong, completion → the answer that it gives, equal
    for equal answers; None for none. `of_choices`: the answers are `Chosen`, which needs no completion; `auto`: of
    these, measured without being asked for. `needs_probability`, `needs_train`: the answers must have been given their
    `log_probability`, their `copied_words`. `configured`: the metric with the settings that it takes, or a ConfigError.
    `fitted`: the metric for these very answers, or None where it does not apply to them. `table`: answers → a table
    that explains the value, for summary.json.
    """

    name: str
    label: str
    unit: Unit
    score: Callable[..., Sums | float | None] | None = None
    better: bool | None = True
    value: Value = ratio
    is_rate: bool = False
    needs: str = "a completion"
    fits: Callable[[Sequence[str]], bool] = fits_none
    per_example: bool = True
    breakdown: Callable[[Sequence[Any]], Mapping[str, list[Sums | None]]] | None = None
    overall: Callable[[Sequence[Any]], float | None] | None = None
    signature: Callable[[], str] | None = None
    vote: Callable[..., Hashable] | None = None
    of_choices: bool = False
    auto: bool = False
    needs_probability: bool = False
    needs_train: bool = False
    configured: "Callable[[Metric, EvaluationConfig], Metric] | None" = None
    fitted: "Callable[[Metric, Sequence[Any]], Metric | None] | None" = None
    table: Callable[[Sequence[Any]], list[dict[str, Any]]] | None = None

    def sums(self, answer: Any) -> Sums | None:
        """The sums of one answer; None where the metric does not apply."""
        score = self.score(answer) if self.score else None
        return score if score is None or isinstance(score, tuple) else (float(score), 1.0)


Overall = TypeVar("Overall", bound=Callable[[Sequence[Answer]], float | None])

REGISTRY: dict[str, Metric] = {}
# Of the references, whether higher is better: always measured, see token_level.py.
TOKEN_METRICS = {"loss": False, "perplexity": False, "token_accuracy": True}


def metric(label: str, unit: Unit = FRACTION, **properties: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function of an `Answer` as the metric of its name; `properties` as in `Metric`."""

    def register(score: Callable[..., Any]) -> Callable[..., Any]:
        REGISTRY[score.__name__] = Metric(score.__name__, label, unit, score, **properties)
        return score

    return register


def overall_metric(label: str, unit: Unit = FRACTION, **properties: Any) -> Callable[[Overall], Overall]:
    """The same for a function of all answers at once: what is no sum over examples has no interval and no test."""

    def register(overall: Overall) -> Overall:
        metric = Metric(overall.__name__, label, unit, overall=overall, per_example=False, **properties)
        REGISTRY[overall.__name__] = metric
        return overall

    return register


def choice_metric(
    label: str, unit: Unit = FRACTION, is_overall: bool = False, **properties: Any
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The same for a function of a `Chosen`, or where `is_overall` of all of them at once."""

    def register(score: Callable[..., Any]) -> Callable[..., Any]:
        functions: dict[str, Any] = {"overall" if is_overall else "score": score}
        REGISTRY[score.__name__] = Metric(score.__name__, label, unit, of_choices=True, **functions, **properties)
        return score

    return register


def check_metrics(config: EvaluationConfig) -> None:
    """Refuse what cannot be measured, before anything is loaded.

    Raises:
        ConfigError: an unknown metric, one that needs completions where none are generated, or one whose own settings
            are missing or wrong.
    """
    known = [AUTO, *TOKEN_METRICS, *REGISTRY]
    for name in config.metrics:
        if name not in known:
            hint = did_you_mean(name, known) or f"; set evaluation.metrics to some of {', '.join(known)}."
            raise ConfigError(f"evaluation.metrics: there is no metric {name!r}{hint}")
        metric = REGISTRY.get(name)
        if metric and not metric.of_choices and not config.generate:
            raise ConfigError(
                f"evaluation.metrics: {name} is measured on completions, found evaluation.generate=false; set "
                "evaluation.generate=true, or leave it out."
            )
        if metric and metric.configured:
            metric.configured(metric, config)


def chosen_metrics(config: EvaluationConfig, references: Sequence[str]) -> list[Metric]:
    """The metrics of completions to measure: those named, and for `auto` those that fit the references."""
    by_name = [
        metric
        for name, metric in REGISTRY.items()
        if not metric.of_choices and (name in config.metrics or (AUTO in config.metrics and metric.fits(references)))
    ]
    return [metric.configured(metric, config) if metric.configured else metric for metric in by_name]


def chosen_choice_metrics(config: EvaluationConfig) -> list[Metric]:
    """The metrics of choices to measure: those named, and for `auto` the usual ones."""
    return [
        metric
        for name, metric in REGISTRY.items()
        if metric.of_choices and (name in config.metrics or (AUTO in config.metrics and metric.auto))
    ]
