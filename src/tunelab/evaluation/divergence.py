"""How far one model is from another on the same examples: Kullback-Leibler divergence, and the perplexity of each."""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch

from tunelab.data.records import TokenizedExample
from tunelab.evaluation.generating import inference

CHUNK_TOKENS = 64  # positions whose distributions are held in float64 at a time


@dataclass(frozen=True, slots=True)
class Divergence:
    """Of two models, over supervised tokens: KL(before ‖ after) in nats per token, and each one's loss in nats."""

    num_examples: int
    token_count: int
    kl_sum: float
    kl_max: float
    nll_before: float
    nll_after: float

    def to_dict(self) -> dict[str, float]:
        """The figures of a report, divided once."""
        count = self.token_count
        return {
            "num_examples": self.num_examples,
            "num_supervised_tokens": count,
            "kl_mean_nats": self.kl_sum / count,
            "kl_max_nats": self.kl_max,
            "perplexity_before": _exp(self.nll_before / count),
            "perplexity_after": _exp(self.nll_after / count),
        }


def compare_models(
    before: torch.nn.Module,
    after: torch.nn.Module,
    examples: Sequence[TokenizedExample],
    before_context: Callable[[], AbstractContextManager[Any]],
) -> Divergence:
    """Compare the next-token distributions of two models at the supervised positions of `examples`, one at a time.

    `before` computes within `before_context` (the precision of its run), `after` in its own type; the comparison is in
    float64. Only the logits of supervised positions are made. `examples` must hold a supervised token.
    """
    kl_sum = kl_max = nll_before = nll_after = 0.0
    token_count = 0
    with inference(before), inference(after):
        for example in examples:
            targets = example.input_ids[example.loss_mask]
            with before_context():
                first = _logits(before, example)
            second = _logits(after, example)
            for begin in range(0, len(targets), CHUNK_TOKENS):
                part = slice(begin, begin + CHUNK_TOKENS)
                p, q = (logits[part].double().log_softmax(-1) for logits in (first, second))
                kl = (p.exp() * (p - q)).sum(-1).clamp_min(0)  # rounding alone makes it negative
                wanted = targets[part, None].to(p.device)
                kl_sum, kl_max = kl_sum + float(kl.sum()), max(kl_max, float(kl.max()))
                nll_before -= float(p.gather(1, wanted).sum())
                nll_after -= float(q.gather(1, wanted.to(q.device)).sum())
            token_count += len(targets)
    return Divergence(len(examples), token_count, kl_sum, kl_max, nll_before, nll_after)


def _logits(model: Any, example: TokenizedExample) -> torch.Tensor:
    """The logits that predict the supervised tokens, (supervised tokens, vocabulary)."""
    device = next(model.parameters()).device
    ids = example.input_ids[None].to(device)
    before = (example.loss_mask.nonzero().squeeze(1) - 1).to(device)
    return model(input_ids=ids, attention_mask=torch.ones_like(ids), logits_to_keep=before, use_cache=False).logits[0]


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf
