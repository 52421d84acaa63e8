"""What is minimised: from a micro-batch to (nll_sum, token_count), projecting supervised positions only."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from tunelab.data.records import IGNORE_INDEX, MicroBatch
from tunelab.evaluation.sums import TokenScores, TokenSums
from tunelab.model.adapter import CausalLM, base_of
from tunelab.model.attention import segment_arguments
from tunelab.model.virtual_tokens import put_in_front
from tunelab.training.loss import (
    linear_cross_entropy,
    linear_token_scores,
    token_cross_entropy,
    token_scores,
)


@dataclass(frozen=True, slots=True)
class SftObjective:
    """Supervised fine-tuning: cross-entropy of the supervised tokens, as sums.

    `fused_head`: take the last hidden state and project it here in chunks of `head_chunk_tokens`; otherwise, and where
    the head is adapted, the model projects the supervised positions itself (`logits_to_keep`), for heads that do more
    than a matrix product.
    """

    head_chunk_tokens: int
    fused_head: bool = True

    def __call__(self, model: CausalLM, batch: MicroBatch) -> TokenSums:
        """Run `model` on `batch`. `nll_sum` carries gradients; the sums are those of `batch` alone."""
        keep, targets = supervised_positions(batch.labels)
        nll_sum, num_correct = self._project(model, batch, keep, targets, linear_cross_entropy, token_cross_entropy)
        count = torch.tensor(targets.numel(), device=targets.device)
        return TokenSums(nll_sum.double(), count, num_correct)

    def score_tokens(self, model: CausalLM, batch: MicroBatch) -> TokenScores:
        """The same for each supervised token apart, for figures of each example; without gradients."""
        keep, targets = supervised_positions(batch.labels)
        nll, is_correct = self._project(model, batch, keep, targets, linear_token_scores, token_scores)
        return TokenScores(nll, is_correct, example_of_position(batch)[keep])

    def _project(
        self,
        model: CausalLM,
        batch: MicroBatch,
        keep: torch.Tensor,
        targets: torch.Tensor,
        of_states: Callable[..., tuple[torch.Tensor, torch.Tensor]],
        of_logits: Callable[..., tuple[torch.Tensor, torch.Tensor]],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`of_states` of the last hidden states where the head may be taken apart, else `of_logits` of the logits."""
        if not (self.fused_head and has_plain_head(model)):
            return of_logits(supervised_logits(model, batch, keep), targets)
        head: Any = base_of(model).get_output_embeddings()
        states = last_hidden_state(model, batch)[keep]
        return of_states(states, head.weight, getattr(head, "bias", None), targets, self.head_chunk_tokens)


def has_plain_head(model: CausalLM) -> bool:
    """Whether the weight of the head is all of it: an adapter of the head, or a trained copy, is not in it."""
    return type(base_of(model).get_output_embeddings()) is torch.nn.Linear


def supervised_positions(labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return which positions predict a supervised token (rows, width; bool) and those tokens (count,), in order.

    The one place that shifts: the label at position t + 1 is what position t predicts.
    """
    following = labels.roll(-1, dims=1)
    following[:, -1] = IGNORE_INDEX
    keep = following != IGNORE_INDEX
    return keep, following[keep]


def example_of_position(batch: MicroBatch) -> torch.Tensor:
    """The place in the micro-batch of the example at each position: (rows, width) int64."""
    device = batch.input_ids.device
    if batch.segment_lengths is None:
        return torch.arange(len(batch.input_ids), device=device)[:, None].expand_as(batch.input_ids)
    lengths = torch.tensor(batch.segment_lengths, device=device)
    return torch.arange(len(lengths), device=device).repeat_interleave(lengths)[None]


def last_hidden_state(model: CausalLM, batch: MicroBatch) -> torch.Tensor:
    """The decoder's output (rows, width, hidden size), after its final norm; virtual tokens have no part in it."""
    decoder: Any = base_of(model).base_model
    inputs, num_before = put_in_front(model, _inputs(batch))
    states = decoder(**inputs).last_hidden_state
    return states[:, num_before:] if num_before else states


def supervised_logits(model: CausalLM, batch: MicroBatch, keep: torch.Tensor) -> torch.Tensor:
    """The model's own logits at the positions `keep` (count, vocabulary)."""
    base: Any = base_of(model)
    # Positions are kept where any row needs them, which every model supports; rows are picked afterwards.
    columns = keep.any(dim=0).nonzero()[:, 0]
    inputs, num_before = put_in_front(model, _inputs(batch))
    logits = base(**inputs, logits_to_keep=columns + num_before).logits
    return logits[keep[:, columns]]


def _inputs(batch: MicroBatch) -> dict[str, Any]:
    inputs: dict[str, Any] = {
        "input_ids": batch.input_ids,
        "position_ids": batch.position_ids,
        "attention_mask": batch.attention_mask,
        "use_cache": False,
    }
    if batch.segment_lengths:
        inputs |= segment_arguments(batch.segment_lengths, batch.input_ids.device)
    return inputs
