"""What a model writes for the examples of a split, once or several times each."""

from collections.abc import Sequence
from typing import Any

import torch

from tunelab.config import EvaluationConfig
from tunelab.data.records import EvaluationExample
from tunelab.evaluation.decoding import Completion, Decoding
from tunelab.evaluation.generating import can_be_completed, generate
from tunelab.evaluation.metrics import Answer, Metric
from tunelab.evaluation.sampling import Sampling
from tunelab.model.tokenizer import completion_text, pad_token_id


def complete(
    model: torch.nn.Module,
    tokenizer: Any,
    examples: Sequence[EvaluationExample],
    metrics: Sequence[Metric],
    config: EvaluationConfig,
    end_token_ids: Sequence[int],
) -> list[list[Answer] | None]:
    """What the model writes for each example, once or several times; None for those that it cannot complete."""
    can_be = [can_be_completed(model, example.prompt_ids) for example in examples]
    numbers = range(config.num_samples)
    asked = [(example, number) for example, can in zip(examples, can_be, strict=True) if can for number in numbers]
    decoding = Decoding(
        max_new_tokens=config.max_new_tokens,
        batch_tokens=config.generation_batch_tokens,
        end_token_ids=end_token_ids,
        pad_token_id=pad_token_id(tokenizer),
        sampling=_sampling(config),
        scored=config.temperature == 0 and any(metric.needs_probability for metric in metrics),
    )
    prompts, samples = [example.prompt_ids for example, _ in asked], [number for _, number in asked]
    completions = iter(generate(model, prompts, decoding, samples))
    return [
        [_answer(tokenizer, next(completions), example) for _ in numbers] if can else None
        for example, can in zip(examples, can_be, strict=True)
    ]


def _sampling(config: EvaluationConfig) -> Sampling | None:
    if config.temperature == 0:
        return None
    return Sampling(config.temperature, config.top_p, config.top_k, config.seed)


def first_samples(samples: Sequence[Sequence[Answer] | None]) -> list[Answer | None]:
    """The first sample of each example, which all metrics are of that need one completion."""
    return [None if each is None else each[0] for each in samples]


def _answer(tokenizer: Any, done: Completion, example: EvaluationExample) -> Answer:
    text = completion_text(tokenizer, done.token_ids)
    return Answer(text, example.response, len(done.token_ids), done.finished, done.log_probability)
