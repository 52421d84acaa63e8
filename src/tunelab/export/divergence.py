"""How far one model is from another on the same examples: Kullback-Leibler divergence, and the perplexity of each."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch

from tunelab.data.collating import collate
from tunelab.data.records import TokenizedExample
from tunelab.evaluation.generating import inference
from tunelab.evaluation.sums import perplexity
from tunelab.model.adapter import CausalLM
from tunelab.training.objective import supervised_logits, supervised_positions

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
            "perplexity_before": perplexity(self.nll_before / count),
            "perplexity_after": perplexity(self.nll_after / count),
        }


def compare_models(
    before: CausalLM,
    after: CausalLM,
    examples: Sequence[TokenizedExample],
    before_context: Callable[[], AbstractContextManager[Any]],
) -> Divergence:
    """Compare the next-token distributions of two models at the supervised positions of `examples`, one at a time.

    `before` computes within `before_context` (the precision of its run), `after` in its own type; the comparison is in
    float64. Both are on one device. Only the logits of supervised positions are made. `examples` must hold a supervised
    token.
    """
    kl_sum = kl_max = nll_before = nll_after = 0.0
    token_count = 0
    with inference(before), inference(after):
        for example in examples:
            with before_context():
                first, targets = _logits(before, example)
            second, _ = _logits(after, example)
            for begin in range(0, len(targets), CHUNK_TOKENS):
                part = slice(begin, begin + CHUNK_TOKENS)
                p, q = (logits[part].double().log_softmax(-1) for logits in (first, second))
                kl = (p.exp() * (p - q)).sum(-1).clamp_min(0)  # rounding alone makes it negative
                wanted = targets[part, None]
                kl_sum, kl_max = kl_sum + float(kl.sum()), max(kl_max, float(kl.max()))
                nll_before -= float(p.gather(1, wanted).sum())
                nll_after -= float(q.gather(1, wanted).sum())
            token_count += len(targets)
    return Divergence(len(examples), token_count, kl_sum, kl_max, nll_before, nll_after)


def _logits(model: CausalLM, example: TokenizedExample) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits that predict the supervised tokens, (supervised tokens, vocabulary), and these tokens."""
    batch = collate([example], padded=True, pad_token_id=0).to(next(model.parameters()).device)
    keep, targets = supervised_positions(batch.labels)
    return supervised_logits(model, batch, keep), targets
