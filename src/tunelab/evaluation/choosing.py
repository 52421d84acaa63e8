"""How likely a model finds each possible answer to a question: one pass over the prompt, which the answers share."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from tunelab.data.records import EvaluationExample, TokenizedExample
from tunelab.evaluation.generating import causal_lm_of, dense_attention, in_halves, inference, max_positions_of
from tunelab.evaluation.metrics import Chosen
from tunelab.evaluation.reading import left_padded
from tunelab.model.virtual_tokens import num_virtual_tokens

NllOf = Callable[[Sequence[TokenizedExample]], Sequence[float]]


def choose(
    model: torch.nn.Module,
    examples: Sequence[EvaluationExample],
    *,
    batch_tokens: int,
    pad_token_id: int,
    nll_of: NllOf,
) -> list[Chosen | None]:
    """Score the choices of each example; None for one that has none, or whose longest leaves the model's positions.

    A choice's log-likelihood is the sum over its own tokens, given the prompt; the end of the turn is not part of it.
    Prompts are read in batches of at most `batch_tokens` positions ((longest prompt + longest choice) x choices), and
    their cache then serves all choices. A model whose cache cannot be shared (recurrent layers, virtual tokens) reads
    prompt and choice together by `nll_of`: sequences → nll of their supervised tokens.
    """
    limit = max_positions_of(model)
    fitting = [
        place
        for place, example in enumerate(examples)
        if example.choices and example.prompt_ids and (limit is None or _num_tokens(example) <= limit)
    ]
    questions = [examples[place] for place in fitting]
    if not questions:
        return [None] * len(examples)
    if _shares_prompts(model):
        scores = _by_shared_prompts(model, questions, batch_tokens, pad_token_id)
    else:
        scores = _apart(questions, nll_of)
    chosen: list[Chosen | None] = [None] * len(examples)
    for place, example, each in zip(fitting, questions, scores, strict=True):
        texts = tuple(choice.text for choice in example.choices)
        chosen[place] = Chosen(texts, tuple(each), texts.index(example.response))
    return chosen


def _num_tokens(example: EvaluationExample) -> int:
    return len(example.prompt_ids) + max(len(choice.token_ids) for choice in example.choices)


def _shares_prompts(model: torch.nn.Module) -> bool:
    causal_lm = causal_lm_of(model)
    if num_virtual_tokens(model) or "past_key_values" not in inspect.signature(causal_lm.forward).parameters:
        return False
    return all(isinstance(layer, DynamicLayer) for layer in DynamicCache(config=causal_lm.config).layers)


def _apart(questions: Sequence[EvaluationExample], nll_of: NllOf) -> list[list[float]]:
    """Prompt and choice as one sequence, for each choice."""
    sequences: list[TokenizedExample] = []
    for example in questions:
        for choice in example.choices:
            ids = torch.tensor(example.prompt_ids + choice.token_ids)
            mask = torch.arange(len(ids)) >= len(example.prompt_ids)
            sequences.append(TokenizedExample(ids, mask, example.origin))
    nll = iter(nll_of(sequences))
    return [[-next(nll) for _ in example.choices] for example in questions]


def _by_shared_prompts(
    model: torch.nn.Module, questions: Sequence[EvaluationExample], batch_tokens: int, pad: int
) -> list[list[float]]:
    scores: dict[int, list[float]] = {}
    causal_lm = causal_lm_of(model)
    with inference(model), dense_attention(causal_lm):
        for batch in _batches(questions, batch_tokens):
            found = in_halves(lambda part: _scores(model, causal_lm, part, pad), [questions[place] for place in batch])
            scores |= dict(zip(batch, found, strict=True))
    return [scores[place] for place in range(len(questions))]


def _batches(questions: Sequence[EvaluationExample], batch_tokens: int) -> Iterator[list[int]]:
    """Places of questions of like length, longest first."""
    batch, width, rows = list[int](), 0, 0
    for place in sorted(range(len(questions)), key=lambda place: (-_num_tokens(questions[place]), place)):
        needed = len(questions[place].choices)
        if batch and width * (rows + needed) > batch_tokens:
            yield batch
            batch, width, rows = [], 0, 0
        width, rows = max(width, _num_tokens(questions[place])), rows + needed
        batch.append(place)
    if batch:
        yield batch


def _scores(model: Any, causal_lm: PreTrainedModel, batch: Sequence[EvaluationExample], pad: int) -> list[list[float]]:
    """One pass over the prompts, which also scores the first token of each choice, and one over the other tokens."""
    device = causal_lm.device
    cache = DynamicCache(config=causal_lm.config)
    ids, mask = left_padded([example.prompt_ids for example in batch], pad, device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    output = model(
        input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True,
        logits_to_keep=1,
    )  # fmt: skip
    owners = torch.tensor([place for place, each in enumerate(batch) for _ in each.choices], device=device)
    choices = [torch.tensor(choice.token_ids, device=device) for each in batch for choice in each.choices]
    firsts = torch.stack([choice[0] for choice in choices])
    scores = _log_softmax(output.logits[:, -1])[owners, firsts]
    longer = [place for place, choice in enumerate(choices) if len(choice) > 1]
    if longer:
        kept = torch.tensor(longer, device=device)
        cache.batch_select_indices(owners[kept])
        scores[kept] += _rest(model, cache, mask[owners[kept]], [choices[place] for place in longer])
    found = iter(scores.tolist())
    return [[next(found) for _ in each.choices] for each in batch]


def _rest(model: Any, cache: DynamicCache, mask: torch.Tensor, choices: Sequence[torch.Tensor]) -> torch.Tensor:
    """Log-likelihood of each choice after its first token, (choices,) float64. `mask`: of the prompts in the cache."""
    inputs = pad_sequence([choice[:-1] for choice in choices], batch_first=True)
    targets = pad_sequence([choice[1:] for choice in choices], batch_first=True, padding_value=-1)
    is_token = targets >= 0
    positions = mask.sum(1, keepdim=True) + torch.arange(inputs.shape[1], device=inputs.device)
    logits = model(
        input_ids=inputs, attention_mask=torch.cat([mask, is_token.long()], dim=1),
        position_ids=positions.where(is_token, 0), past_key_values=cache, use_cache=True,
    ).logits  # fmt: skip
    found = _log_softmax(logits).gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    return found.where(is_token, 0.0).sum(1)


def _log_softmax(logits: torch.Tensor) -> torch.Tensor:
    """In float32 or better, the result in float64: what is added up later loses nothing."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1).double()
