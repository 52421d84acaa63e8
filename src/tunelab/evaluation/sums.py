"""The sums a loss is made of: added over tokens, micro-batches and devices, divided once at the end (law 2)."""

import math
from dataclasses import dataclass

import torch


def perplexity(loss: float) -> float:
    """exp(loss), of a loss in nats per token; inf where that exceeds a float."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


@dataclass(frozen=True, slots=True)
class TokenScores:
    """What a forward pass says of each supervised token of a micro-batch: three (tokens,) tensors on one device.

    `nll` in nats; `is_correct`: its most likely prediction was right; `example`: the place of its example in the
    micro-batch.
    """

    nll: torch.Tensor
    is_correct: torch.Tensor
    example: torch.Tensor

    def per_example(self, num_examples: int) -> torch.Tensor:
        """Sums of each example, (num_examples, 3) float64: nll_sum, token_count, num_correct."""
        nll = self.nll.double()
        columns = torch.stack([nll, torch.ones_like(nll), self.is_correct.double()], dim=1)
        return columns.new_zeros(num_examples, 3).index_add_(0, self.example, columns)


@dataclass(frozen=True, slots=True)
class TokenSums:
    """What one or more forward passes say about their supervised tokens.

    Three 0-d tensors on one device: `nll_sum` (float64, nats), `token_count` and `num_correct` (int64:
    supervised tokens, and those whose most likely prediction was right). They stay tensors, so that adding
    them up over micro-batches never waits for the device; the properties do, once.
    """

    nll_sum: torch.Tensor
    token_count: torch.Tensor
    num_correct: torch.Tensor

    @classmethod
    def zero(cls, device: torch.device | str = "cpu") -> "TokenSums":
        """The sums of no token at all: what an addition starts from."""
        return cls(
            nll_sum=torch.zeros((), dtype=torch.float64, device=device),
            token_count=torch.zeros((), dtype=torch.int64, device=device),
            num_correct=torch.zeros((), dtype=torch.int64, device=device),
        )

    def __add__(self, other: "TokenSums") -> "TokenSums":
        return TokenSums(
            nll_sum=self.nll_sum + other.nll_sum,
            token_count=self.token_count + other.token_count,
            num_correct=self.num_correct + other.num_correct,
        )

    @property
    def loss(self) -> float:
        """Mean negative log-likelihood in nats per supervised token; nan where there is none."""
        return self._per_token(self.nll_sum)

    @property
    def perplexity(self) -> float:
        """exp(loss); inf where that exceeds a float, nan where there is no supervised token."""
        return perplexity(self.loss)

    @property
    def token_accuracy(self) -> float:
        """Fraction of supervised tokens whose most likely prediction is right; nan where there is none."""
        return self._per_token(self.num_correct)

    def _per_token(self, total: torch.Tensor) -> float:
        count = int(self.token_count.item())
        return float(total.item()) / count if count else math.nan
