"""One model measured on one split: the loss on the responses, and what it writes itself, scored."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from tunelab.config import EvaluationConfig
from tunelab.data.batching import cut
from tunelab.data.collating import collate
from tunelab.data.records import EvaluationExample, MicroBatch, TokenizedExample
from tunelab.evaluation.choosing import choose
from tunelab.evaluation.completing import complete, first_samples
from tunelab.evaluation.copying import with_copies
from tunelab.evaluation.generating import inference
from tunelab.evaluation.metrics import REGISTRY, Answer, Chosen, Metric, chosen_choice_metrics, chosen_metrics
from tunelab.evaluation.metrics.token_level import token_level_scores
from tunelab.evaluation.observing import Observations
from tunelab.evaluation.scores import Estimate, Scores, estimates, score_answers
from tunelab.evaluation.scoring import parse_object
from tunelab.evaluation.statistics import Floats
from tunelab.evaluation.sums import TokenScores
from tunelab.evaluation.voting import score_samples
from tunelab.model.tokenizer import pad_token_id
from tunelab.model.virtual_tokens import num_virtual_tokens


@dataclass(frozen=True, slots=True)
class Prediction:
    """What one model wrote for one example. `id` is the origin of its row (`test.jsonl:17`).

    `completion` is the text as decoded, without special tokens; `scores`: metric → value, those that apply. `samples`:
    all completions of the example, `completion` the first of them, where there are several.
    """

    id: str
    prompt: str
    reference: str
    completion: str
    finished: bool
    scores: dict[str, float]
    samples: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON can hold them; without `samples` where there is one."""
        fields = asdict(self)
        return fields if self.samples else {name: value for name, value in fields.items() if name != "samples"}


@dataclass(frozen=True, slots=True)
class SplitEvaluation:
    """What `evaluate_split` found: a flat map of metrics, and where it generated a prediction an example.

    `scores` are those of each example, which comparisons need; `estimates` have the values of `metrics` with counts and
    intervals; `not_applicable`: a metric that was asked for by name → why it has no value; `signatures`: metric → what
    its library says of its settings; `tables`: metric → a table that explains its value; `documents`: what tasks
    of lm-evaluation-harness asked and got.
    """

    metrics: dict[str, float]
    predictions: list[Prediction]
    scores: list[Scores] = field(default_factory=list[Scores])
    estimates: dict[str, Estimate] = field(default_factory=dict[str, Estimate])
    not_applicable: dict[str, str] = field(default_factory=dict[str, str])
    signatures: dict[str, str] = field(default_factory=dict[str, str])
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict[str, list[dict[str, Any]]])
    documents: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class SplitSettings:
    """How a split is measured.

    `score_tokens` runs the model on one micro-batch (on `device`, of at most `micro_batch_tokens` positions).
    `train_texts` reads the responses of the training split, where there is one.
    """

    score_tokens: Callable[[MicroBatch], TokenScores]
    padded: bool
    micro_batch_tokens: int
    device: torch.device
    config: EvaluationConfig
    end_token_ids: Sequence[int]
    train_texts: Callable[[], Iterable[str]] | None = None


def observe(
    model: torch.nn.Module, tokenizer: Any, examples: Sequence[EvaluationExample], settings: SplitSettings
) -> Observations:
    """Run `model` on `examples`, the first `config.max_examples` of them. It is in eval mode meanwhile."""
    config, pad = settings.config, pad_token_id(tokenizer)
    examples = examples[: config.max_examples]
    sums = sequence_sums([example.tokenized for example in examples], model, settings, pad)
    choices = _choices(model, examples, settings, pad) if chosen_choice_metrics(config) else []
    if not config.generate:
        return Observations(sums, choices, [])
    chosen = chosen_metrics(config, [example.response for example in examples])
    samples = complete(model, tokenizer, examples, chosen, config, settings.end_token_ids)
    return Observations(sums, choices, samples)


def evaluate_split(
    model: torch.nn.Module,
    tokenizer: Any,
    examples: Sequence[EvaluationExample],
    settings: SplitSettings,
    observed: Observations | None = None,
) -> SplitEvaluation:
    """Measure `model` on `examples`, the first `config.max_examples` of them; `observed` stands for running it on them.

    Metrics: `num_examples`, `num_supervised_tokens`; `loss` (nats per supervised token), `perplexity` (inf
    where it exceeds a float), `token_accuracy`; where `config.generate` also those of `config.metrics`, with
    `num_scored` completions, `num_json_references`, and `num_not_completed`: examples without a prompt, or whose prompt
    fills every position. What does not apply (no supervised token, no JSON) is absent. The model is in eval mode
    meanwhile, and as before afterwards.
    """
    config = settings.config
    examples = examples[: config.max_examples]
    seen = observed or observe(model, tokenizer, examples, settings)
    sums, choices, samples = seen.sums, seen.choices, seen.samples
    metrics = {"num_examples": float(len(examples)), "num_supervised_tokens": float(sums[:, 1].sum())}
    scores, predictions, chosen = token_level_scores(sums), list[Prediction](), list[Metric]()
    choice_metrics = chosen_choice_metrics(config)
    tables = _tables(choice_metrics, choices)
    if any(each is not None for each in choices):
        metrics |= _choice_counts(examples, choices)
        scores += score_answers(choice_metrics, choices)
    if config.generate:
        chosen = chosen_metrics(config, [example.response for example in examples])
        answers = first_samples(samples)
        if settings.train_texts and any(metric.needs_train for metric in chosen):
            answers = with_copies(answers, settings.train_texts())
        metrics |= _counts(answers)
        answer_scores = score_answers(chosen, answers)
        tables |= _tables(chosen, answers)
        scores += _in_order(chosen, [*answer_scores, *score_samples(chosen, samples)])
        predictions = _predictions(examples, samples, answer_scores)
    found = estimates(scores)
    return SplitEvaluation(
        metrics=metrics | {name: estimate.value for name, estimate in found.items()},
        predictions=predictions,
        scores=scores,
        estimates=found,
        not_applicable=_not_applicable(config, found),
        signatures={each.name: each.signature() for each in chosen if each.signature and each.name in found},
        tables=tables,
    )


def sequence_sums(
    sequences: Sequence[TokenizedExample], model: torch.nn.Module, settings: SplitSettings, pad_token_id: int
) -> Floats:
    """Run the model: sums of nll, supervised tokens, and tokens predicted right of each sequence, (sequences, 3)."""
    padded, device = settings.padded, settings.device
    front = num_virtual_tokens(model)
    lengths = [front + each.num_tokens for each in sequences]
    sums = torch.zeros(len(sequences), 3, dtype=torch.float64, device=device)
    with inference(model):
        for indices in cut(lengths, settings.micro_batch_tokens, padded):
            batch = collate([sequences[index] for index in indices], padded, pad_token_id).to(device)
            places = torch.tensor(indices, device=device)
            sums[places] = settings.score_tokens(batch).per_example(len(indices))  # stays there: nothing waits
    return sums.cpu().numpy()


def _choices(
    model: torch.nn.Module, examples: Sequence[EvaluationExample], settings: SplitSettings, pad_token_id: int
) -> list[Chosen | None]:
    """How likely the model finds each choice of each example; None for examples without, or too long."""
    return choose(
        model,
        examples,
        batch_tokens=settings.micro_batch_tokens,
        pad_token_id=pad_token_id,
        nll_of=lambda sequences: sequence_sums(sequences, model, settings, pad_token_id)[:, 0].tolist(),
    )


def _choice_counts(examples: Sequence[EvaluationExample], choices: Sequence[Chosen | None]) -> dict[str, float]:
    num_scored = sum(each is not None for each in choices)
    num_left = sum(bool(example.choices) for example in examples) - num_scored
    return {"num_chosen": float(num_scored)} | ({"num_choices_too_long": float(num_left)} if num_left else {})


def _tables(metrics: Sequence[Metric], answers: Sequence[Any]) -> dict[str, list[dict[str, Any]]]:
    """The tables of the metrics that have one, left out where there is nothing in it."""
    given = [answer for answer in answers if answer is not None]
    found = {metric.name: metric.table(given) for metric in metrics if metric.table}
    return {name: table for name, table in found.items() if table}


def predict(
    model: torch.nn.Module,
    tokenizer: Any,
    examples: Sequence[EvaluationExample],
    *,
    config: EvaluationConfig,
    end_token_ids: Sequence[int],
) -> list[Prediction]:
    """Let `model` complete the prompts of `examples` (those that leave room for it) once, and score what it wrote."""
    config = replace(config, num_samples=1)
    chosen = chosen_metrics(config, [example.response for example in examples])
    samples = complete(model, tokenizer, examples, chosen, config, end_token_ids)
    return _predictions(examples, samples, score_answers(chosen, first_samples(samples)))


def _in_order(metrics: Sequence[Metric], scores: Sequence[Scores]) -> list[Scores]:
    """The scores of each metric, with its parts behind it."""
    places = {metric.name: place for place, metric in enumerate(metrics)}
    return sorted(scores, key=lambda each: places[each.name.partition("/")[0]])


def _predictions(
    examples: Sequence[EvaluationExample], samples: Sequence[Sequence[Answer] | None], scores: Sequence[Scores]
) -> list[Prediction]:
    shown = [each for each in scores if each.metric.per_example]
    values = {each.name: each.metric.value(each.sums).tolist() for each in shown}
    return [
        Prediction(
            id=example.origin,
            prompt=example.prompt,
            reference=example.response,
            completion=answers[0].completion,
            finished=answers[0].finished,
            scores={name: column[row] for name, column in values.items() if not math.isnan(column[row])},
            samples=tuple(answer.completion for answer in answers) if len(answers) > 1 else (),
        )
        for row, (example, answers) in enumerate(zip(examples, samples, strict=True))
        if answers is not None
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
