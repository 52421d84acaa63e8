"""Examples end to end in one row: each attends to itself alone."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from transformers import (
    BloomConfig,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    MptConfig,
    Phi3Config,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    Qwen3NextConfig,
)
from transformers.masking_utils import create_sliding_window_causal_mask
from transformers.models.auto.modeling_auto import AutoModelForCausalLM
from transformers.models.mistral.modeling_mistral import apply_rotary_pos_emb

from tunelab.config import Attention, Precision
from tunelab.data.collating import collate
from tunelab.data.records import TokenizedExample
from tunelab.errors import ModelError
from tunelab.model.attention import (
    VARLEN,
    attention_implementation,
    dense_implementation,
    segment_arguments,
    varlen_attention,
    window_of,
)
from tunelab.training.doctor import choose_layout, diagnose
from tunelab.training.objective import last_hidden_state
from tunelab.training.trainer import autocast

CPU = torch.device("cpu")
SIZES = {
    "vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 64, "initializer_range": 0.3,
}  # fmt: skip
GROUPED = {**SIZES, "num_key_value_heads": 2}
LAYERWISE = {
    **GROUPED, "head_dim": 8, "query_pre_attn_scalar": 8,
    "layer_types": ["sliding_attention", "full_attention"],
}  # fmt: skip


def dense_attention(query, key, value, scale: float) -> torch.Tensor:
    """Causal softmax attention of one example, written out."""
    repeats = query.shape[1] // key.shape[1]
    key, value = (tensor.repeat_interleave(repeats, dim=1) for tensor in (key, value))
    scores = query @ key.transpose(-1, -2) * scale
    tokens = scores.shape[-1]
    hidden = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
    return (scores.masked_fill(hidden, -torch.inf).softmax(-1) @ value).transpose(1, 2)


def qkv(tokens: int, key_value_heads: int) -> list[torch.Tensor]:
    torch.manual_seed(3)
    heads = (4, key_value_heads, key_value_heads)
    return [torch.randn(1, count, tokens, 8, dtype=torch.float64, requires_grad=True) for count in heads]


@pytest.mark.parametrize("key_value_heads", [4, 2, 1])
@pytest.mark.parametrize("lengths", [(5,), (1, 7, 3), (4, 4, 1, 1)])
@pytest.mark.parametrize("scaling", [None, 0.7])
def test_equals_dense_attention_of_each_example(lengths: tuple[int, ...], key_value_heads: int, scaling: float | None):
    tensors = qkv(sum(lengths), key_value_heads)
    arguments = segment_arguments(lengths, CPU)
    found, weights = varlen_attention(torch.nn.Module(), *tensors, None, scaling=scaling, **arguments)
    parts = zip(*(tensor.split(lengths, dim=2) for tensor in tensors), strict=True)
    expected = torch.cat([dense_attention(*part, scaling or 8**-0.5) for part in parts], dim=1)
    assert weights is None
    assert found.shape == (1, sum(lengths), 4, 8)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    weight = torch.randn_like(found)
    gradients = [torch.autograd.grad((out * weight).sum(), tensors) for out in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-11, atol=1e-11)


def test_segment_arguments_are_cumulative():
    arguments = segment_arguments((3, 1, 4), CPU)
    assert arguments["cu_seq_lens_q"].tolist() == arguments["cu_seq_lens_k"].tolist() == [0, 3, 4, 8]
    assert arguments["cu_seq_lens_q"].dtype == torch.int32
    assert arguments["max_length_q"] == arguments["max_length_k"] == 4


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cu_seq_lens_q": None}, "boundaries of its examples"),
        ({"dropout": 0.1}, "its attention has dropout, which variable-length attention has not"),
        ({"softcap": 30.0}, "soft-capping"),
        ({"s_aux": torch.zeros(4)}, "sinks"),
        ({"position_bias": torch.zeros(1)}, "position bias"),
        ({"sliding_window": 4}, "an example of 5 tokens is longer than the window of 4"),
    ],
)
def test_refuses_what_it_does_not_do(changes: dict, said: str):
    arguments = {**segment_arguments((5, 2), CPU), **changes}
    with pytest.raises(RuntimeError, match=said):
        varlen_attention(torch.nn.Module(), *qkv(7, 2), None, **arguments)


def test_refuses_several_rows_and_a_cache():
    arguments = segment_arguments((5, 2), CPU)
    query, key, value = qkv(7, 2)
    with pytest.raises(RuntimeError, match="one row"):
        varlen_attention(torch.nn.Module(), *(t.repeat(2, 1, 1, 1) for t in (query, key, value)), None, **arguments)
    with pytest.raises(RuntimeError, match="one row"):
        varlen_attention(torch.nn.Module(), query[:, :, -1:], key, value, None, **arguments)


def test_a_window_as_long_as_the_longest_example_is_no_window():
    arguments = segment_arguments((5, 2), CPU)
    tensors = qkv(7, 2)
    plain, _ = varlen_attention(torch.nn.Module(), *tensors, None, **arguments)
    windowed, _ = varlen_attention(torch.nn.Module(), *tensors, None, sliding_window=5, **arguments)
    assert torch.equal(plain, windowed)


def miniature(config, attention: str | None = "sdpa") -> PreTrainedModel:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).double()
    model.config.use_cache = False
    return model


def gpt2(dropout: float) -> PreTrainedModel:
    sizes = {"vocab_size": 60, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "initializer_range": 0.3}
    ends = {"bos_token_id": 1, "eos_token_id": 1}
    return miniature(GPT2Config(**sizes, **ends, attn_pdrop=dropout, resid_pdrop=0.0, embd_pdrop=0.0)).train()


def examples(*lengths: int) -> list[TokenizedExample]:
    generator = torch.Generator().manual_seed(1)
    ids = [torch.randint(5, 60, (length,), generator=generator) for length in lengths]
    return [TokenizedExample(i, torch.arange(len(i)) > 1, f"row:{n}") for n, i in enumerate(ids)]


def check(model: PreTrainedModel, *lengths: int):
    return diagnose(model, examples(*lengths), max(lengths), CPU, partial(autocast, Precision.fp32, CPU)).padding_free


@pytest.mark.parametrize(
    ("changes", "window"),
    [
        ({}, None),
        ({"sliding_window": 7}, 7),
        ({"sliding_window": 7, "use_sliding_window": False}, None),
        ({"sliding_window": 7, "use_sliding_window": True}, 7),
        ({"sliding_window": 7, "layer_types": ["full_attention"] * 3}, None),
        ({"sliding_window": 7, "layer_types": ["sliding_attention", "full_attention"]}, 7),
        ({"sliding_window": None, "layer_types": ["sliding_attention"]}, None),
        ({"attention_chunk_size": 5, "layer_types": ["chunked_attention", "full_attention"]}, 5),
        ({"attention_chunk_size": 5, "sliding_window": 7}, 5),
    ],
)
def test_the_window_is_that_of_the_layers_that_have_one(changes: dict, window: int | None):
    assert window_of(SimpleNamespace(**changes)) == window


@pytest.mark.parametrize(
    "config",
    [
        MistralConfig(**GROUPED, sliding_window=16),
        Gemma3TextConfig(**LAYERWISE, sliding_window=16),
        Phi3Config(**GROUPED, sliding_window=16, pad_token_id=0),
        Qwen2Config(**GROUPED, use_sliding_window=True, sliding_window=16, max_window_layers=1),
    ],
    ids=lambda config: config.model_type,
)
def test_examples_longer_than_the_window_are_padded(config):
    assert check(miniature(config), 9, 16).holds
    found = check(miniature(config), 9, 17)
    assert not found.holds
    assert found.reason == "the longest example has 17 tokens, the model's sliding window 16"
    with pytest.raises(ModelError, match=r"sliding window 16\); set model\.attention=auto or padded"):
        choose_layout(Attention.varlen, found)


@pytest.mark.parametrize("kind", [Qwen2Config, Qwen3Config])
def test_a_window_that_no_layer_uses_is_no_reason(kind):
    switched_off = kind(**GROUPED, use_sliding_window=False, sliding_window=4, max_window_layers=0)
    above_all_layers = kind(**GROUPED, use_sliding_window=True, sliding_window=4, max_window_layers=2)
    assert check(miniature(switched_off), 9, 14).holds
    assert check(miniature(above_all_layers), 9, 14).holds


def test_probes_shorter_than_the_window_do_not_hide_a_longer_example():
    """Where the configuration does not say it, the layer does, which passes its window on."""
    model = miniature(LlamaConfig(**SIZES))
    for layer in model.model.layers:
        layer.self_attn.forward = partial(layer.self_attn.forward, sliding_window=16)
    items = examples(9, 5)
    context = partial(autocast, Precision.fp32, CPU)
    assert diagnose(model, items, 16, CPU, context).padding_free.holds
    found = diagnose(model, items, 17, CPU, context).padding_free
    assert not found.holds
    assert found.reason == "an example of 17 tokens is longer than the window of 16"


def windowed_attention(query, key, value, scale: float, window: int) -> torch.Tensor:
    """Attention of one head, position by position: each sees itself and the `window` - 1 before it."""
    rows = []
    for place in range(len(query)):
        seen = slice(max(0, place - window + 1), place + 1)
        rows.append((query[place] @ key[seen].T * scale).softmax(-1) @ value[seen])
    return torch.stack(rows)


def test_padded_rows_apply_the_window():
    """sdpa with padding, against the reference code of transformers and against a plain loop in every head."""
    config = MistralConfig(**GROUPED, sliding_window=6)
    models = {name: miniature(config, name).float() for name in ("sdpa", "eager")}
    batch = collate(examples(9, 23, 5), True, 0)
    states = {name: last_hidden_state(model, batch) for name, model in models.items()}
    kept = batch.attention_mask.bool()
    torch.testing.assert_close(states["sdpa"][kept], states["eager"][kept], rtol=0, atol=1e-5)
    unlimited = miniature(MistralConfig(**GROUPED, sliding_window=None)).float()
    assert not torch.allclose(last_hidden_state(unlimited, batch)[kept], states["sdpa"][kept], atol=1e-2)

    exact = models["sdpa"].double()
    attention = exact.model.layers[0].self_attn
    caught = {}
    attention.o_proj.register_forward_pre_hook(lambda module, inputs: caught.update(heads=inputs[0]))
    hidden = torch.randn(1, 23, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    positions = torch.arange(23)[None]
    cosine, sine = exact.model.rotary_emb(hidden, positions)
    mask = create_sliding_window_causal_mask(exact.config, hidden, None, None, positions)
    attention(hidden, (cosine, sine), mask)
    shape = (1, 23, -1, 8)
    query, key, value = (
        layer(hidden).view(shape).transpose(1, 2) for layer in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    query, key = apply_rotary_pos_emb(query, key, cosine, sine)
    expected = [windowed_attention(query[0, h], key[0, h // 2], value[0, h // 2], 8**-0.5, 6) for h in range(4)]
    torch.testing.assert_close(caught["heads"][0], torch.cat(expected, dim=-1), rtol=0, atol=1e-6)


def test_soft_capped_attention_is_padded_and_computed_as_it_is_defined():
    config = Gemma2Config(**LAYERWISE, sliding_window=64, attn_logit_softcapping=0.5)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)  # as loading does: nothing asked for
    assert model.config._attn_implementation == dense_implementation(model) == "eager"
    found = check(model, 9, 14)
    assert not found.holds
    assert "soft-capping" in found.reason
    model.config.attn_logit_softcapping = None
    for layer in model.model.layers:
        layer.self_attn.attn_logit_softcapping = None
    assert check(model, 9, 14).holds
    with pytest.raises(ValueError, match="scaled_dot_product"):  # sdpa never drops the cap in silence
        AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")


def test_soft_capping_is_in_the_padded_result():
    capped, free = (
        miniature(Gemma2Config(**LAYERWISE, sliding_window=64, attn_logit_softcapping=cap), "eager")
        for cap in (0.5, None)
    )
    batch = collate(examples(9, 14), True, 0)
    assert not torch.allclose(last_hidden_state(capped, batch), last_hidden_state(free, batch), atol=1e-2)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (MambaConfig(vocab_size=60, hidden_size=32, num_hidden_layers=2, state_size=8), "recurrent layers"),
        (
            Qwen3NextConfig(
                **GROUPED, head_dim=8, layer_types=["linear_attention", "full_attention"],
                linear_num_key_heads=2, linear_num_value_heads=2, linear_key_head_dim=8, linear_value_head_dim=8,
                num_experts=2, num_experts_per_tok=1, moe_intermediate_size=16, shared_expert_intermediate_size=16,
            ),
            "recurrent layers",
        ),
        (BloomConfig(vocab_size=60, hidden_size=32, n_layer=2, n_head=4), "layers attend in a way of their own"),
        (MptConfig(vocab_size=60, d_model=32, n_layers=2, n_heads=4, max_seq_len=64), "attend in a way of their own"),
        (
            FalconConfig(vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, alibi=True),
            "attend in a way of their own",
        ),
    ],
    ids=["mamba", "qwen3_next", "bloom", "mpt", "falcon"],
)  # fmt: skip
def test_layers_that_carry_a_state_or_a_bias_of_their_own_are_padded(config, said: str):
    model = miniature(config, None).float()
    before = model.config._attn_implementation
    found = check(model, 9, 14, 5)
    assert not found.holds
    assert said in found.reason
    assert model.config._attn_implementation == before


def test_learned_positions_restart_with_every_example():
    assert check(gpt2(0.0), 9, 14, 5).holds


def test_attention_dropout_is_padded():
    found = check(gpt2(0.1), 9, 14)
    assert not found.holds
    assert "dropout" in found.reason


def test_the_implementation_is_put_back():
    model = miniature(LlamaConfig(**SIZES))

    def fail() -> None:
        with attention_implementation(model, VARLEN):
            assert model.config._attn_implementation == VARLEN
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert model.config._attn_implementation == "sdpa"
