"""One model measured on one split: the loss on the responses, and what it writes itself, scored."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from tunelab.config import EvaluationConfig
from tunelab.data.batching import cut
from tunelab.data.collating import collate
from tunelab.data.records import EvaluationExample, MicroBatch
from tunelab.evaluation.generating import Completion, can_be_completed, generate, inference
from tunelab.evaluation.metrics import REGISTRY, Answer, Metric, chosen_metrics
from tunelab.evaluation.metrics.token_level import token_level_scores
from tunelab.evaluation.scores import Estimate, Scores, estimates, score_answers
from tunelab.evaluation.scoring import parse_object
from tunelab.evaluation.statistics import Floats
from tunelab.evaluation.sums import TokenScores
from tunelab.model.tokenizer import completion_text
from tunelab.model.virtual_tokens import num_virtual_tokens


@dataclass(frozen=True, slots=True)
class Prediction:
    """What one model wrote for one example. `id` is the origin of its row (`test.jsonl:17`).

    `completion` is the text as decoded, without special tokens; `scores`: metric → value, those that apply.
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
    """What `evaluate_split` found: a flat map of metrics, and where it generated a prediction an example.

    `scores` are those of each example, which comparisons need; `estimates` have the values of `metrics` with counts and
    intervals; `not_applicable`: a metric that was asked for by name → why it has no value; `signatures`: metric → what
    its library says of its settings.
    """

    metrics: dict[str, float]
    predictions: list[Prediction]
    scores: list[Scores] = field(default_factory=list[Scores])
    estimates: dict[str, Estimate] = field(default_factory=dict[str, Estimate])
    not_applicable: dict[str, str] = field(default_factory=dict[str, str])
    signatures: dict[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class SplitSettings:
    """How a split is measured.

    `score_tokens` runs the model on one micro-batch (on `device`, of at most `micro_batch_tokens` positions).
    """

    score_tokens: Callable[[MicroBatch], TokenScores]
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
    where it exceeds a float), `token_accuracy`; where `config.generate` also those of `config.metrics`, with
    `num_scored` completions, `num_json_references`, and `num_not_completed`: examples without a prompt, or whose prompt
    fills every position. What does not apply (no supervised token, no JSON) is absent. The model is in eval mode
    meanwhile, and as before afterwards.
    """
    config = settings.config
    examples = examples[: config.max_examples]
    sums = example_sums(model, examples, settings, int(tokenizer.pad_token_id))
    metrics = {"num_examples": float(len(examples)), "num_supervised_tokens": float(sums[:, 1].sum())}
    scores, predictions, chosen = token_level_scores(sums), list[Prediction](), list[Metric]()
    if config.generate:
        chosen = chosen_metrics(config, [example.response for example in examples])
        answers = _answers(model, tokenizer, examples, config, settings.end_token_ids)
        metrics |= _counts(answers)
        answer_scores = score_answers(chosen, answers)
        scores += answer_scores
        predictions = _predictions(examples, answers, answer_scores)
    found = estimates(scores)
    return SplitEvaluation(
        metrics=metrics | {name: estimate.value for name, estimate in found.items()},
        predictions=predictions,
        scores=scores,
        estimates=found,
        not_applicable=_not_applicable(config, found),
        signatures={each.name: each.signature() for each in chosen if each.signature and each.name in found},
    )


def example_sums(
    model: torch.nn.Module, examples: Sequence[EvaluationExample], settings: SplitSettings, pad_token_id: int
) -> Floats:
    """Run the model on all examples: (num_examples, 3) sums of nll, supervised tokens, and tokens predicted right."""
    padded, device = settings.padded, settings.device
    front = num_virtual_tokens(model)
    lengths = [front + each.tokenized.num_tokens for each in examples]
    sums = torch.zeros(len(examples), 3, dtype=torch.float64, device=device)
    with inference(model):
        for indices in cut(lengths, settings.micro_batch_tokens, padded):
            batch = collate([examples[index].tokenized for index in indices], padded, pad_token_id).to(device)
            places = torch.tensor(indices, device=device)
            sums[places] = settings.score_tokens(batch).per_example(len(indices))  # stays there: nothing waits
    return sums.cpu().numpy()


def predict(
    model: torch.nn.Module,
    tokenizer: Any,
    examples: Sequence[EvaluationExample],
    *,
    config: EvaluationConfig,
    end_token_ids: Sequence[int],
) -> list[Prediction]:
    """Let `model` complete the prompts of `examples` (those that leave room for it), and score the completions."""
    chosen = chosen_metrics(config, [example.response for example in examples])
    answers = _answers(model, tokenizer, examples, config, end_token_ids)
    return _predictions(examples, answers, score_answers(chosen, answers))


def _answers(
    model: torch.nn.Module,
    tokenizer: Any,
    examples: Sequence[EvaluationExample],
    config: EvaluationConfig,
    end_token_ids: Sequence[int],
) -> list[Answer | None]:
    """What the model writes for each example; None for those that it cannot complete."""
    can_be = [can_be_completed(model, example.prompt_ids) for example in examples]
    prompts = [example.prompt_ids for example, possible in zip(examples, can_be, strict=True) if possible]
    if not prompts:
        return [None] * len(examples)
    completions = iter(
        generate(
            model,
            prompts,
            max_new_tokens=config.max_new_tokens,
            batch_tokens=config.generation_batch_tokens,
            end_token_ids=end_token_ids,
            pad_token_id=int(tokenizer.pad_token_id),
        )
    )
    return [
        _answer(tokenizer, next(completions), example) if possible else None
        for example, possible in zip(examples, can_be, strict=True)
    ]


def _answer(tokenizer: Any, done: Completion, example: EvaluationExample) -> Answer:
    return Answer(completion_text(tokenizer, done.token_ids), example.response, len(done.token_ids), done.finished)


def _predictions(
    examples: Sequence[EvaluationExample], answers: Sequence[Answer | None], scores: Sequence[Scores]
) -> list[Prediction]:
    shown = [each for each in scores if each.metric.per_example]
    values = {each.name: each.metric.value(each.sums).tolist() for each in shown}
    return [
        Prediction(
            id=example.origin,
            prompt=example.prompt,
            reference=example.response,
            completion=answer.completion,
            finished=answer.finished,
            scores={name: column[row] for name, column in values.items() if not math.isnan(column[row])},
        )
        for row, (example, answer) in enumerate(zip(examples, answers, strict=True))
        if answer is not None
    ]


def _counts(answers: Sequence[Answer | None]) -> dict[str, float]:
    given = [answer for answer in answers if answer is not None]
    counts = {"num_scored": float(len(given))} if given else {}
    if len(given) < len(answers):
        counts["num_not_completed"] = float(len(answers) - len(given))
    if given:
        counts["num_json_references"] = float(sum(parse_object(answer.reference) is not None for answer in given))
    return counts


def _not_applicable(config: EvaluationConfig, found: Mapping[str, Estimate]) -> dict[str, str]:
    """The metrics that were asked for by name and have no value, with the reason."""
    asked = [REGISTRY[name] for name in config.metrics if name in REGISTRY and name not in found]
    return {metric.name: f"no example has {metric.needs}" for metric in asked}
