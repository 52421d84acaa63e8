"""One model measured on one split: the loss on the responses, and what it writes itself, scored."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from tunelab.config import EvaluationConfig
from tunelab.data.batching import cut
from tunelab.data.collating import collate
from tunelab.data.records import EvaluationExample, MicroBatch
from tunelab.evaluation.generating import can_be_completed, generate, inference
from tunelab.evaluation.scoring import ExampleScores, aggregate, score
from tunelab.evaluation.sums import TokenSums
from tunelab.model.virtual_tokens import num_virtual_tokens


@dataclass(frozen=True, slots=True)
class Prediction:
    """What one model wrote for one example. `id` is the origin of its row (`test.jsonl:17`).

    `completion` is the text as decoded, without special tokens; `scores` as in `ExampleScores.to_dict`.
    """

    id: str
    prompt: str
    reference: str
    completion: str
    finished: bool
    scores: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON can hold them."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class SplitEvaluation:
    """What `evaluate_split` found: a flat map of metrics, and where it generated a prediction an example."""

    metrics: dict[str, float]
    predictions: list[Prediction]


@dataclass(frozen=True, slots=True)
class SplitSettings:
    """How a split is measured.

    `score_tokens` runs the model on one micro-batch (on `device`, of at most `micro_batch_tokens` positions).
    """

    score_tokens: Callable[[MicroBatch], TokenSums]
    padded: bool
    micro_batch_tokens: int
    device: torch.device
    config: EvaluationConfig
    end_token_ids: Sequence[int]


def evaluate_split(
    model: torch.nn.Module, tokenizer: Any, examples: Sequence[EvaluationExample], settings: SplitSettings
) -> SplitEvaluation:
    """Measure `model` on `examples`, the first `config.max_examples` of them.

    Metrics: `num_examples`, `num_supervised_tokens`; `loss` (nats per supervised token), `perplexity` (inf
    where it exceeds a float), `token_accuracy`; where `config.generate` also `finished_fraction`, those of
    `scoring.aggregate`, and `num_not_completed`: examples without a prompt, or whose prompt fills every position.
    Rates are fractions in [0, 1]. What does not apply (no supervised token, no JSON) is absent. The model is in
    eval mode meanwhile, and as before afterwards.
    """
    config, padded = settings.config, settings.padded
    examples = examples[: config.max_examples]
    front = num_virtual_tokens(model)
    pad_token_id = int(tokenizer.pad_token_id)
    micro_batches = [
        collate([examples[index].tokenized for index in indices], padded, pad_token_id)
        for indices in cut(
            [front + each.tokenized.num_tokens for each in examples], settings.micro_batch_tokens, padded
        )
    ]
    metrics = {"num_examples": float(len(examples))}
    metrics |= _loss_metrics(sum_tokens(model, micro_batches, settings.score_tokens, settings.device))
    if not config.generate:
        return SplitEvaluation(metrics, [])
    all_examples, examples = examples, [e for e in examples if can_be_completed(model, e.prompt_ids)]
    if len(examples) < len(all_examples):
        metrics["num_not_completed"] = float(len(all_examples) - len(examples))
    if not examples:
        return SplitEvaluation(metrics, [])
    predictions, scores = _predict(model, tokenizer, examples, config, settings.end_token_ids)
    finished = sum(prediction.finished for prediction in predictions)
    metrics |= {"finished_fraction": finished / len(predictions), **aggregate(scores)}
    return SplitEvaluation(metrics, predictions)


def sum_tokens(
    model: torch.nn.Module,
    micro_batches: Sequence[MicroBatch],
    score_tokens: Callable[[MicroBatch], TokenSums],
    device: torch.device,
) -> TokenSums:
    """Add up what `score_tokens` says of each micro-batch, on `device`, in eval mode."""
    sums = TokenSums.zero(device)
    with inference(model):
        for micro_batch in micro_batches:
            sums = sums + score_tokens(micro_batch.to(device))
    return sums


def predict(
    model: torch.nn.Module,
    tokenizer: Any,
    examples: Sequence[EvaluationExample],
    *,
    config: EvaluationConfig,
    end_token_ids: Sequence[int],
) -> list[Prediction]:
    """Let `model` complete the prompts of `examples` (all of them), and score the completions."""
    return _predict(model, tokenizer, examples, config, end_token_ids)[0]


def _predict(
    model: torch.nn.Module,
    tokenizer: Any,
    examples: Sequence[EvaluationExample],
    config: EvaluationConfig,
    end_token_ids: Sequence[int],
) -> tuple[list[Prediction], list[ExampleScores]]:
    completions = generate(
        model,
        [example.prompt_ids for example in examples],
        max_new_tokens=config.max_new_tokens,
        batch_tokens=config.generation_batch_tokens,
        end_token_ids=end_token_ids,
        pad_token_id=int(tokenizer.pad_token_id),
    )
    texts = [
        # Cleaning up would change what the model wrote ("a ." to "a.").
        tokenizer.decode(done.token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        for done in completions
    ]
    scores = [score(text, example.response) for text, example in zip(texts, examples, strict=True)]
    rows = zip(examples, completions, texts, scores, strict=True)
    return [
        Prediction(example.origin, example.prompt, example.response, text, done.finished, scored.to_dict())
        for example, done, text, scored in rows
    ], scores


def _loss_metrics(sums: TokenSums) -> dict[str, float]:
    metrics = {"loss": sums.loss, "perplexity": sums.perplexity, "token_accuracy": sums.token_accuracy}
    applicable = {name: value for name, value in metrics.items() if not math.isnan(value) or sums.token_count > 0}
    return {"num_supervised_tokens": float(sums.token_count.item()), **applicable}
