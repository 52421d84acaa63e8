import copy

import pytest
import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from tunelab.model import one_query
from tunelab.model.attention import attention_implementation
from tunelab.model.one_query import ONE_QUERY, attends_one_query, one_query_attention


class Layer(torch.nn.Module):
    is_causal = True

    def __init__(self, num_key_value_groups: int):
        super().__init__()
        self.num_key_value_groups = num_key_value_groups


def draw(rows: int, heads: int, kv_heads: int, positions: int, sizes: tuple[int, int], num_queries: int = 1):
    generator = torch.Generator().manual_seed(0)
    shapes = [(heads, num_queries, sizes[0]), (kv_heads, positions, sizes[0]), (kv_heads, positions, sizes[1])]
    return [torch.randn(rows, *shape, dtype=torch.float64, generator=generator) for shape in shapes]


def plainly(query, key, value, mask, scaling: float) -> torch.Tensor:
    """One row, head and query at a time."""
    rows, heads, num_queries, _ = query.shape
    output = query.new_zeros(rows, num_queries, heads, value.shape[-1])
    for row in range(rows):
        for head in range(heads):
            shared = head // (heads // key.shape[1])
            for place in range(num_queries):
                seen = mask[row, 0, place]
                scores = key[row, shared, seen] @ query[row, head, place] * scaling
                output[row, place, head] = scores.softmax(0) @ value[row, shared, seen]
    return output


@pytest.mark.parametrize("scaling", [None, 0.3])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (6, 2), (3, 1)])
@pytest.mark.parametrize("num_queries", [1, 3])
def test_a_plain_loop_agrees(num_queries: int, heads: int, kv_heads: int, scaling: float | None):
    sizes = (8, 8) if num_queries > 1 else (8, 5)
    query, key, value = draw(3, heads, kv_heads, 11, sizes, num_queries)
    mask = torch.rand(3, 1, num_queries, 11, generator=torch.Generator().manual_seed(1)) < 0.6
    mask[..., 4] = True
    key[~mask.any(2)[:, 0, None].expand(3, kv_heads, 11)] = 1e300  # what is not seen does not count
    layer = Layer(heads // kv_heads)
    found, _ = one_query_attention(layer, query, key, value, mask, scaling=scaling)
    torch.testing.assert_close(found, plainly(query, key, value, mask, scaling or 8**-0.5), rtol=1e-12, atol=1e-12)


def test_without_a_mask_all_is_seen():
    query, key, value = draw(2, 4, 2, 7, (8, 8))
    found, _ = one_query_attention(Layer(2), query, key, value, None)
    expected = F.scaled_dot_product_attention(query, key, value, enable_gqa=True).transpose(1, 2)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": torch.bfloat16},
        {"arguments": {"position_bias": torch.zeros(1, 4, 1, 7, dtype=torch.float64)}},
        {"mask": torch.zeros(2, 1, 1, 7, dtype=torch.float64)},
        {"mask": torch.ones(2, 4, 1, 7, dtype=torch.bool)},
    ],
)
def test_what_is_not_known_here_is_done_by_torch(change: dict, monkeypatch: pytest.MonkeyPatch):
    called = []
    own = one_query.sdpa_attention_forward
    monkeypatch.setattr(one_query, "sdpa_attention_forward", lambda *a, **k: called.append(1) or own(*a, **k))
    query, key, value = (tensor.to(change.get("dtype", torch.float64)) for tensor in draw(2, 4, 2, 7, (8, 8)))
    found, _ = one_query_attention(Layer(2), query, key, value, change.get("mask"), **change.get("arguments", {}))
    assert called
    assert found.shape == (2, 1, 4, 8)


def test_autocast_is_half_precision_too(monkeypatch: pytest.MonkeyPatch):
    called = []
    own = one_query.sdpa_attention_forward
    monkeypatch.setattr(one_query, "sdpa_attention_forward", lambda *a, **k: called.append(1) or own(*a, **k))
    tensors = [tensor.float() for tensor in draw(2, 4, 2, 7, (8, 8))]
    with torch.autocast("cpu", torch.bfloat16):
        one_query_attention(Layer(2), *tensors, None)
    assert called
    one_query_attention(Layer(2), *tensors, None)
    assert len(called) == 1


def test_which_models_use_it():
    config = LlamaConfig(
        vocab_size=20, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    model = LlamaForCausalLM(copy.deepcopy(config))
    assert attends_one_query(model)
    assert attends_one_query(model.double())
    assert not attends_one_query(model.bfloat16())
    with attention_implementation(model, ONE_QUERY):
        assert model.config._attn_implementation == ONE_QUERY

    class Old(LlamaForCausalLM):
        _supports_attention_backend = False

    assert not attends_one_query(Old(config))
