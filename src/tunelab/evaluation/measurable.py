"""Which metrics of answers a set of examples allows, known before there is a model: it depends on references alone."""

import math
from collections.abc import Sequence
from dataclasses import replace

from tunelab.config import EvaluationConfig
from tunelab.data.records import EvaluationExample
from tunelab.evaluation.metrics import Answer, Chosen, Metric, chosen_choice_metrics, chosen_metrics
from tunelab.evaluation.scores import score_answers


def measurable(config: EvaluationConfig, examples: Sequence[EvaluationExample]) -> dict[str, bool | None]:
    """Metric → whether higher is better (None: neither), of completions and of choices, as `config` asks for them.

    Found by scoring the references themselves as if a model had given them.
    """
    choices = [_chosen(example) for example in examples]
    scores = score_answers(chosen_choice_metrics(config), choices) if any(choices) else []
    if config.generate:
        answers = [_answer(example) if example.prompt_ids else None for example in examples]
        chosen = chosen_metrics(config, [example.response for example in examples])
        scores += score_answers([_without_model(metric) for metric in chosen], answers)
    return {each.name: each.metric.better for each in scores if not math.isnan(each.value)}


def _without_model(metric: Metric) -> Metric:
    """What is fitted to completions loads a model for it, and applies where the reference has a word."""
    return replace(metric, fitted=None, score=_has_reference) if metric.fitted else metric


def _has_reference(answer: Answer) -> float | None:
    return 1.0 if answer.reference.strip() else None


def _answer(example: EvaluationExample) -> Answer:
    return Answer(example.response, example.response, num_tokens=1, log_probability=0.0, copied_words=0)


def _chosen(example: EvaluationExample) -> Chosen | None:
    texts = tuple(choice.text for choice in example.choices)
    return Chosen(texts, (0.0,) * len(texts), texts.index(example.response)) if texts else None
