"""Cross-entropy as sums: of a hidden state and a head (in chunks, logits never kept), or of given logits."""

from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable


def token_cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (nll_sum, num_correct) of logits (tokens, vocabulary) and targets (tokens,), both 0-d.

    Computed in float32 or better. nll_sum is in nats and carries gradients.
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    nll_sum = F.cross_entropy(wide, targets, reduction="sum")
    return nll_sum, (wide.detach().argmax(dim=-1) == targets).sum()


def token_scores(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The same for each token apart: nll and whether the most likely prediction is right, both (tokens,)."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(wide, targets, reduction="none"), wide.argmax(dim=-1) == targets


def linear_token_scores(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor, chunk_tokens: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """`token_scores` of `hidden @ weight.T + bias`, arguments as in `linear_cross_entropy`; for measuring."""
    chunks = zip(hidden.split(chunk_tokens), targets.split(chunk_tokens), strict=True)
    nlls, corrects = zip(*(token_scores(F.linear(h, weight, bias), t) for h, t in chunks), strict=True)
    return torch.cat(nlls), torch.cat(corrects)


def linear_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    chunk_tokens: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (nll_sum, num_correct) of `hidden @ weight.T + bias`, `chunk_tokens` rows of logits at a time.

    The gradient of the hidden state is made in the same pass (softmax minus one-hot, times the weight), so the logits
    are computed once and at most one chunk of them exists. A frozen weight gets no gradient and costs none.

    Args:
        hidden: (tokens, hidden size).
        weight: (vocabulary, hidden size); bias: (vocabulary,) or None.
        targets: (tokens,) int64.
    """
    result: Any = _LinearCrossEntropy.apply(hidden, weight, bias, targets, chunk_tokens)
    return result


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        chunk_tokens: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        grad_weight = torch.zeros_like(weight) if needs_weight else None
        grad_bias = torch.zeros_like(bias) if needs_bias and bias is not None else None
        wide = torch.promote_types(hidden.dtype, torch.float32)
        nll_sum = torch.zeros((), dtype=wide, device=hidden.device)
        num_correct = torch.zeros((), dtype=torch.int64, device=hidden.device)
        for start in range(0, hidden.shape[0], chunk_tokens):
            rows = slice(start, start + chunk_tokens)
            states, wanted = hidden[rows], targets[rows, None]
            logits = F.linear(states, weight, bias).to(wide)
            num_correct += (logits.argmax(dim=-1, keepdim=True) == wanted).sum()
            # In place, since a chunk is larger than any cache: less its maximum, its exponential, its softmax.
            logits = logits.sub_(logits.amax(dim=-1, keepdim=True))
            wanted_logits = logits.gather(1, wanted)
            total = logits.exp_().sum(dim=-1, keepdim=True)
            nll_sum += (total.log() - wanted_logits).sum()
            if not any(ctx.needs_input_grad[:3]):
                continue
            slope = logits.div_(total)  # d nll / d logits = softmax - one-hot
            slope.scatter_add_(1, wanted, torch.full_like(wanted, -1, dtype=wide))
            if grad_bias is not None:
                grad_bias += slope.sum(dim=0).to(grad_bias.dtype)
            slope = slope.to(hidden.dtype)
            if grad_hidden is not None:
                grad_hidden[rows] = slope @ weight.to(hidden.dtype)
            if grad_weight is not None:
                grad_weight += (slope.T @ states).to(grad_weight.dtype)
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        ctx.mark_non_differentiable(num_correct)
        return nll_sum, num_correct

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] (the base takes any number of gradients)
        ctx: Any, *grad_outputs: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        grad_nll = grad_outputs[0]  # the other output is a count
        gradients = [None if g is None else g * grad_nll.to(g.dtype) for g in ctx.saved_tensors]
        return (*gradients, None, None)
