"""The doctor proves a shortcut on the model at hand, or it is not taken."""

import json
from functools import partial

import pytest
import torch
from model.families import save_miniature
from transformers import CohereConfig, GraniteConfig, LlamaConfig
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from tunelab.config import Attention, ModelConfig, Precision, Quantization
from tunelab.data.collating import collate
from tunelab.data.records import TokenizedExample
from tunelab.errors import ModelError
from tunelab.model.loading import load_base_model
from tunelab.training import doctor
from tunelab.training.doctor import Check, choose_layout, diagnose
from tunelab.training.objective import SftObjective, supervised_positions
from tunelab.training.trainer import autocast

CPU = torch.device("cpu")
SIZES = {
    "vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.3, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 1,
}  # fmt: skip
MODELS = {
    "llama": lambda: LlamaConfig(**SIZES),
    "granite": lambda: GraniteConfig(**SIZES, logits_scaling=4.0),
    "cohere": lambda: CohereConfig(**SIZES, logit_scale=0.1),
}


def make(name: str):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(MODELS[name](), attn_implementation="sdpa").double()
    model.config.use_cache = False
    return model


@pytest.fixture
def examples() -> list[TokenizedExample]:
    generator = torch.Generator().manual_seed(1)
    ids = [torch.randint(5, 60, (length,), generator=generator) for length in (9, 14, 5, 30)]
    return [TokenizedExample(i, torch.arange(len(i)) > 2, f"rows.jsonl:{n}") for n, i in enumerate(ids)]


def examine(model, examples, precision: Precision = Precision.fp32):
    return diagnose(model, examples, 30, CPU, partial(autocast, precision, CPU))


def test_a_sound_model_may_take_both_shortcuts(examples):
    found = examine(make("llama"), examples)
    assert (found.padding_free.holds, found.fused_head.holds) == (True, True)
    assert found.padding_free.difference < 1e-12
    assert set(json.loads(json.dumps(found.to_dict()))["fused_head"]) == {"holds", "difference", "tolerance", "reason"}


@pytest.mark.parametrize("precision", [Precision.fp32, Precision.bf16])
def test_rounding_is_no_reason_to_refuse(precision: Precision, examples):
    found = examine(make("llama").float(), examples, precision)
    assert (found.padding_free.holds, found.fused_head.holds) == (True, True)
    assert max(found.padding_free.difference, found.fused_head.difference) < found.fused_head.tolerance


def test_a_model_whose_examples_see_each_other_is_padded(examples, monkeypatch: pytest.MonkeyPatch):
    model = make("llama")

    def leaking(lengths, device):
        """One segment where there are several."""
        offsets = torch.tensor([0, sum(lengths)], dtype=torch.int32)
        longest = {"max_length_q": sum(lengths), "max_length_k": sum(lengths)}
        return {"cu_seq_lens_q": offsets, "cu_seq_lens_k": offsets, **longest}

    monkeypatch.setattr("tunelab.training.objective.segment_arguments", leaking)
    check = examine(model, examples).padding_free
    assert not check.holds
    assert check.difference > 0.05
    assert "standard deviations" in check.reason
    assert choose_layout(Attention.auto, check) is True
    with pytest.raises(ModelError, match=r"^model\.attention: padding-free training was asked for, but is not safe"):
        choose_layout(Attention.varlen, check)


def test_a_model_that_ignores_positions_is_padded(examples):
    model = make("llama")
    forward = model.model.rotary_emb.forward
    model.model.rotary_emb.forward = lambda x, position_ids: forward(x, torch.arange(x.shape[1])[None] ** 2)
    assert not examine(model, examples).padding_free.holds


def test_a_model_that_drops_the_boundaries_is_padded(examples):
    model = make("llama")
    forward = model.model.forward
    keys = ("input_ids", "attention_mask", "position_ids", "use_cache")
    model.model.forward = lambda **arguments: forward(**{key: arguments.get(key) for key in keys})
    check = examine(model, examples).padding_free
    assert not check.holds
    assert "boundaries" in check.reason


@pytest.mark.parametrize(
    ("wanted", "holds", "padded"),
    [
        (Attention.auto, True, False),
        (Attention.auto, False, True),
        (Attention.padded, True, True),
        (Attention.padded, False, True),
        (Attention.varlen, True, False),
    ],
)
def test_the_layout_follows_from_wish_and_check(wanted: Attention, holds: bool, padded: bool):
    assert choose_layout(wanted, Check(holds, 0.0, 1.0)) is padded


@pytest.mark.parametrize("name", ["granite", "cohere"])
def test_a_head_that_scales_its_logits_is_left_to_the_model(name: str, examples):
    model = make(name)
    check = examine(model, examples).fused_head
    assert not check.holds
    assert check.difference > 0.1
    batch = collate(examples[:2], padded=True, pad_token_id=0)
    keep, targets = supervised_positions(batch.labels)
    logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits[keep]
    expected = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
    own = SftObjective(head_chunk_tokens=3, fused_head=False)(model, batch)
    fused = SftObjective(head_chunk_tokens=3, fused_head=True)(model, batch)
    # The objective computes the loss in float32 or better, here float64.
    assert float(own.nll_sum.detach()) == pytest.approx(float(expected.detach()), rel=1e-9)
    assert float(fused.nll_sum.detach()) != pytest.approx(float(expected.detach()), rel=1e-2)


def test_a_head_that_is_no_linear_layer_is_left_to_the_model(examples):
    model = make("llama")

    class Head(torch.nn.Linear):
        pass

    head = Head(32, 60, bias=False).double()
    model.set_output_embeddings(head)
    check = examine(model, examples).fused_head
    assert not check.holds
    assert check.reason == "the head is a Head, not a plain linear layer"


def test_the_model_is_left_as_it_was(examples):
    model = make("llama").train()
    examine(model, examples)
    assert model.training
    assert model.config._attn_implementation == "sdpa"
    assert all(parameter.grad is None for parameter in model.parameters())


def test_long_examples_are_shortened_for_the_probe(monkeypatch: pytest.MonkeyPatch, examples):
    monkeypatch.setattr(doctor, "PROBE_TOKENS", 4)
    seen: list[int] = []
    model = make("llama")
    forward = model.model.forward

    def watching(**arguments):
        seen.append(arguments["input_ids"].numel())
        return forward(**arguments)

    model.model.forward = watching
    assert examine(model, examples).padding_free.holds
    assert max(seen) == 3 * 4


def test_a_model_that_sees_the_future_is_refused(examples):
    from transformers import BertConfig

    sizes = {key: SIZES[key] for key in ("vocab_size", "hidden_size", "intermediate_size", "max_position_embeddings")}
    torch.manual_seed(0)
    both_ways = AutoModelForCausalLM.from_config(
        BertConfig(**sizes, num_hidden_layers=2, num_attention_heads=4, is_decoder=False, initializer_range=0.3)
    )
    found = examine(both_ways, examples)
    assert not found.causal.holds
    with pytest.raises(ModelError, match=r"^model\.path: expected a causal language model"):
        doctor.require_causal(found.causal)
    doctor.require_causal(examine(make("llama"), examples).causal)


def test_a_base_that_cannot_be_computed_with_as_it_is_quantised_says_so(tmp_path, examples):
    folder = save_miniature("mamba", tmp_path / "mamba")  # multiplies by a weight itself, past its layer
    model = load_base_model(ModelConfig(path=str(folder), quantization=Quantization.nf4), torch.device("cpu"))
    said = r"^model\.path: expected a base model that can be computed with .*; set model\.quantization=none"
    with pytest.raises(ModelError, match=said):
        doctor.require_causal(examine(model, examples).causal)
    with pytest.raises(ModelError, match=said):
        doctor.require_computable(model)


def test_weights_that_are_no_numbers_are_refused(examples):
    model = make("llama")
    model.model.layers[0].mlp.down_proj.weight.data[0, 0] = float("nan")
    with pytest.raises(ModelError, match="finite weights"):
        doctor.require_causal(examine(model, examples).causal)
