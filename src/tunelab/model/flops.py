"""Floating-point operations of training, counted as the literature does: two for each weight a token meets.

Forward 2 N, gradients of activations 2 N, gradients of weights 2 for each trained one. Where all are trained: 6 N
a token (Kaplan et al. 2020, "Scaling Laws for Neural Language Models"), with a frozen base 4 N + 6 P for P adapter
weights: about two thirds (Schulman et al. 2025, "LoRA Without Regret"). Added are the scores and sums of attention, a
token and layer 4 · width · length forward and twice that backward (Chowdhery et al. 2022, PaLM, appendix B), and with
gradient checkpointing the forward pass of the layers once more. The head meets supervised tokens alone.

Not counted: norms, activations, and what a method computes besides products with its own weights (DoRA's norms, the
whole changed weights of HRA or LoHa, the fixed matrices of VeRA).
"""

from dataclasses import dataclass
from typing import Any

from tunelab.config import ModelConfig
from tunelab.model.covering import expert_stacks, linear_paths
from tunelab.model.matching import empty_model
from tunelab.model.sizing import linear_widths


@dataclass(frozen=True, slots=True)
class Widths:
    """What a token meets in a base model: weights of the layers' products and of the head, attention over all layers.

    `attention`: heads · head size, summed over the layers.
    """

    layers: int
    head: int
    attention: int
    num_layers: int


@dataclass(frozen=True, slots=True)
class Trained:
    """What is trained. `adapter`: weights beside a frozen base; `num_layers`: without one, the last so many layers."""

    adapter: int = 0
    num_layers: int | None = None
    whole: bool = False
    checkpointing: bool = False


@dataclass(frozen=True, slots=True)
class Lengths:
    """Means over the training examples: tokens (virtual ones too), their square, supervised tokens."""

    tokens: float
    squared: float
    supervised: float


def widths_of(base: ModelConfig) -> Widths | None:
    """The widths of a base model, read without weights; None where only loading can tell."""
    model: Any = empty_model(base)
    if model is None:
        return None
    config, head = model.config.get_text_config(), model.get_output_embeddings()
    products = [linear_widths(model.get_submodule(path)) for path in linear_paths(model)]
    experts = sum(weight.numel() for weight in expert_stacks(model).values())
    chosen = getattr(config, "num_experts_per_tok", None)
    count = getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None)
    heads = int(config.num_attention_heads)
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    num_layers = int(config.num_hidden_layers)
    return Widths(
        layers=sum(a * b for a, b in products) + int(experts * chosen / count if chosen and count else experts),
        head=head.weight.numel() if head is not None else 0,
        attention=heads * int(size) * num_layers,
        num_layers=num_layers,
    )


def flops_per_example(widths: Widths, trained: Trained, lengths: Lengths) -> float:
    """Forward and backward pass of one example, on average.

    With the last layers alone trained, nothing goes back through those below.
    """
    layers = 2 * widths.layers * lengths.tokens + 4 * widths.attention * lengths.squared
    head = 2 * widths.head * lengths.supervised
    part = 1.0 if trained.num_layers is None else trained.num_layers / widths.num_layers
    weights = part * widths.layers if trained.whole else 0.0
    trained_head = head if trained.whole and trained.num_layers is None else 0.0
    forward = layers * (2 if trained.checkpointing else 1) + head
    backward = part * layers + part * 4 * widths.attention * lengths.squared + head
    own = 2 * weights * lengths.tokens + trained_head + 6 * trained.adapter * lengths.tokens
    return forward + backward + own
