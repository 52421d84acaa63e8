"""Variable-length attention: examples lie end to end in one row and none sees another, without a T x T mask.

Registered with transformers under the name VARLEN. On the CPU one causal scaled-dot-product call per example (the cost
is the sum of squared lengths, not the square of the sum); on CUDA torch's own variable-length flash kernel.
"""

import inspect
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface, PreTrainedModel

VARLEN = "tunelab_varlen"
WATCHED = "tunelab_varlen_watched"
# Kinds of layers, as configurations list them, that attend: all others carry a state from token to token.
ATTENDING = frozenset({"full_attention", "sliding_attention", "chunked_attention", "attention"})


def segment_arguments(segment_lengths: tuple[int, ...], device: torch.device) -> dict[str, Any]:
    """Arguments that tell the attention where examples begin, under the names transformers uses for flash attention.

    `cu_seq_lens_*`: int32 of shape (examples + 1,), cumulative lengths from 0; `max_length_*`: the longest, in tokens.
    """
    lengths = torch.tensor((0, *segment_lengths), dtype=torch.int32)
    offsets = lengths.cumsum(0, dtype=torch.int32).to(device, non_blocking=True)
    longest = max(segment_lengths)
    return {
        "cu_seq_lens_q": offsets,
        "cu_seq_lens_k": offsets,
        "max_length_q": longest,
        "max_length_k": longest,
    }


def varlen_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    **arguments: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each example of a padding-free row.

    Args:
        query: (1, heads, tokens, head size); key and value: (1, key-value heads, tokens, head size).
        arguments: what `segment_arguments` made, passed through the model.

    Returns:
        (1, tokens, heads, head size), and no attention weights.

    Raises:
        RuntimeError: the model did not pass the example boundaries on, so that examples would mix; or it asks for
            something this attention does not do (dropout, soft-capping, sinks, a position bias, a window shorter
            than an example).
    """
    del module, attention_mask
    offsets: torch.Tensor | None = arguments.get("cu_seq_lens_q")
    if offsets is None or query.shape[0] != 1 or query.shape[2] != key.shape[2]:
        raise RuntimeError("variable-length attention needs one row and the boundaries of its examples")
    _refuse_unsupported(dropout, arguments)
    if query.device.type == "cuda" and query.dtype in (torch.float16, torch.bfloat16):
        return _cuda(query, key, value, offsets, int(arguments["max_length_q"]), scaling), None
    return _per_segment(query, key, value, offsets, scaling), None


def _refuse_unsupported(dropout: float, arguments: dict[str, Any]) -> None:
    window = arguments.get("sliding_window")
    if window is not None and arguments["max_length_q"] > window:
        raise RuntimeError(f"an example of {arguments['max_length_q']} tokens is longer than the window of {window}")
    asked = {
        "dropout": dropout,
        "soft-capping": arguments.get("softcap"),
        "sinks": arguments.get("s_aux") is not None,
        "a position bias": arguments.get("position_bias") is not None,
    }
    if any(asked.values()):
        found = ", ".join(name for name, value in asked.items() if value)
        raise RuntimeError(f"its attention has {found}, which variable-length attention has not")


def _per_segment(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, offsets: torch.Tensor, scaling: float | None
) -> torch.Tensor:
    grouped = query.shape[1] != key.shape[1]
    # Split, not sliced: the gradient of one split is one concatenation, that of each slice a whole row of zeros.
    parts = (tensor.split(offsets.diff().tolist(), dim=2) for tensor in (query, key, value))
    outputs = [
        F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, enable_gqa=grouped)
        for q, k, v in zip(*parts, strict=True)
    ]
    return torch.cat(outputs, dim=2).transpose(1, 2)


def _cuda(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    offsets: torch.Tensor,
    longest: int,
    scale: float | None,
) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn  # CUDA only, and costly to import

    parameters = _varlen_parameters()
    options: dict[str, Any] = {"scale": scale}
    # The argument for a causal mask was renamed between torch 2.10 and 2.12.
    options |= {"is_causal": True} if "is_causal" in parameters else {"window_size": (-1, 0)}
    if query.shape[1] != key.shape[1]:
        if "enable_gqa" in parameters:
            options["enable_gqa"] = True
        else:
            repeats = query.shape[1] // key.shape[1]
            key, value = (t.repeat_interleave(repeats, dim=1) for t in (key, value))
    rows = [t[0].transpose(0, 1) for t in (query, key, value)]  # (tokens, heads, head size)
    output: Any = varlen_attn(rows[0], rows[1], rows[2], offsets, offsets, longest, longest, **options)
    return output.unsqueeze(0)


@lru_cache
def _varlen_parameters() -> frozenset[str]:
    from torch.nn.attention.varlen import varlen_attn

    return frozenset(inspect.signature(varlen_attn).parameters)


def window_of(config: Any) -> int | None:
    """The fewest tokens that any layer can look back, its own included; None where all see everything before them.

    `config` is that of the text model. Some keep a window that no layer uses: `layer_types` decides where it is given.
    """
    limits = {"sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size"}
    if getattr(config, "use_sliding_window", True) is False:
        del limits["sliding_attention"]
    kinds: Sequence[str] = getattr(config, "layer_types", None) or tuple(limits)
    found = [getattr(config, limits[kind], None) for kind in set(kinds) & limits.keys()]
    return min((window for window in found if window is not None), default=None)


def is_recurrent(model: PreTrainedModel) -> bool:
    """True where a layer carries a state from token to token, across the borders of examples in one row."""
    kinds: Sequence[str] = getattr(model.config.get_text_config(), "layer_types", None) or ()
    return bool(getattr(model, "_is_stateful", False)) or not ATTENDING.issuperset(kinds)


def dense_implementation(model: PreTrainedModel) -> str:
    """The attention of transformers that knows padding and a cache, and computes this model's own function.

    `sdpa` has no soft-capping; models that need it (Gemma 2) do not offer it, and their reference code is taken.
    """
    return "sdpa" if model._supports_sdpa else "eager"  # pyright: ignore[reportPrivateUsage]


@contextmanager
def watched_varlen(model: PreTrainedModel, longest: int) -> Generator[list[torch.nn.Module]]:
    """Run `model` with variable-length attention as if an example had `longest` tokens; yield the modules that used it.

    A layer that asks for what this attention does not do raises here as it would in training.
    """
    used: list[torch.nn.Module] = []

    def watched(module: torch.nn.Module, *tensors: torch.Tensor | None, **arguments: Any) -> tuple[torch.Tensor, None]:
        used.append(module)
        output = varlen_attention(module, *tensors, **arguments)  # pyright: ignore[reportArgumentType]
        _refuse_unsupported(0.0, {**arguments, "max_length_q": longest})
        return output

    AttentionInterface.register(WATCHED, watched)
    with attention_implementation(model, WATCHED):
        yield used


@contextmanager
def attention_implementation(model: PreTrainedModel, name: str) -> Generator[None]:
    """Run `model` with another attention implementation for a while."""
    before = str(model.config._attn_implementation)  # pyright: ignore[reportPrivateUsage]
    if before == name:
        yield
        return
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


AttentionInterface.register(VARLEN, varlen_attention)
