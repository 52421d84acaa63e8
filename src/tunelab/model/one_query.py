"""Attention of one new token over a cache, as two matrix products: on a CPU twice as fast as torch's own kernel.

Registered with transformers under the name ONE_QUERY; more than one token, and what else is not done here, goes to
`sdpa`. Its cost is that of reading keys and values, which must lie without gaps to be read fast.
"""

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ONE_QUERY = "tunelab_one_query"
# In half precision torch's kernel keeps the scores in float32; two products would round them.
EXACT = (torch.float32, torch.float64)
# What a model says of itself: it takes an attention from outside, and a cache with room that is not written yet.
NEEDED = ("_supports_sdpa", "_supports_attention_backend", "_can_compile_fullgraph")
# What transformers may ask for besides, of which none is known here.
OTHERS = ("softcap", "s_aux", "position_bias", "cache")


def one_query_attention(
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
    """Attend as transformers' `sdpa`.

    Args:
        query: (rows, heads, queries, head size); key and value: (rows, key-value heads, positions, head size).
        attention_mask: boolean, True where a position is seen, (rows, 1, queries, positions); None where all are.

    Returns:
        (rows, queries, heads, head size), and no attention weights.
    """
    asked = bool(dropout) or any(arguments.get(name) is not None for name in OTHERS)
    if query.shape[2] > 1 or asked or not _is_exact(query) or not _is_plain(attention_mask):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **arguments
        )
    rows, kv_heads, num_positions, size = key.shape
    # Heads that share keys are rows of one product, so that keys and values are read once and never repeated.
    queries = query.reshape(rows * kv_heads, -1, size) * (size**-0.5 if scaling is None else scaling)
    scores = torch.bmm(queries, key.flatten(0, 1).transpose(1, 2))
    if attention_mask is not None:
        scores.view(rows, -1, num_positions).masked_fill_(~attention_mask[:, 0], float("-inf"))
    output = torch.bmm(scores.softmax(-1), value.flatten(0, 1))
    return output.view(rows, 1, -1, value.shape[-1]), None


def _is_exact(query: torch.Tensor) -> bool:
    return query.dtype in EXACT and not torch.is_autocast_enabled(query.device.type)


def _is_plain(mask: torch.Tensor | None) -> bool:
    return mask is None or (mask.dtype == torch.bool and mask.shape[1] == 1)


def attends_one_query(model: PreTrainedModel) -> bool:
    """Whether `model` can be run with this attention, and gains by it."""
    return model.device.type == "cpu" and model.dtype in EXACT and all(getattr(model, name) for name in NEEDED)


AttentionInterface.register(ONE_QUERY, one_query_attention)
AttentionMaskInterface.register(ONE_QUERY, sdpa_mask)
