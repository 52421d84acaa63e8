"""Quantised bases: the weights stay as stored, results do not depend on the batch, and what cannot work is refused."""

import hashlib
import importlib.util
import json
import shutil
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_model, make_tokenizer
from families import save_miniature
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file
from steps import LORA, ragged_examples, train
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from tunelab.audit import refuse_unread_keys
from tunelab.config import DType, ModelConfig, Precision, Quantization
from tunelab.data.collating import collate
from tunelab.errors import ConfigError, ModelError
from tunelab.evaluation.decoding import Decoding
from tunelab.evaluation.generating import generate
from tunelab.model import quantizing
from tunelab.model.adapter import CausalLM, attach_adapter, base_of, count_parameters, ready_for_adapter
from tunelab.model.attention import VARLEN
from tunelab.model.loading import load_base_model
from tunelab.model.quantizing import (
    PACKAGES,
    Int8Product,
    check_quantization,
    quantization_config,
    quantization_report,
)
from tunelab.model.saving import export_model
from tunelab.preflight import build_adapter_config, mark_read_later, plan_training, prepare
from tunelab.training.doctor import diagnose, require_computable
from tunelab.training.objective import SftObjective
from tunelab.training.trainer import autocast

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
IDS = torch.tensor([[5, 9, 30, 77, 12]])
KINDS = [
    (Quantization.nf4, True), (Quantization.nf4, False), (Quantization.fp4, True), (Quantization.fp4, False),
    (Quantization.int8, True),
]  # fmt: skip
METHODS = [Quantization.nf4, Quantization.fp4, Quantization.int8]
NUM_LAYERS = 2 * 7


def load(folder: Path, quantization: Quantization = Quantization.none, double: bool = True) -> PreTrainedModel:
    return load_base_model(ModelConfig(path=str(folder), quantization=quantization, double_quantization=double), CPU)


def with_lora(base: PreTrainedModel) -> CausalLM:
    model = attach_adapter(base, LoraConfig(**LORA), seed=0)
    generator = torch.Generator().manual_seed(2)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.05, generator=generator)
    return model


def hash_of_buffers(model: torch.nn.Module) -> str:
    """Of every stored bit: packed weights, scales, the scales of the scales."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize(("quantization", "double"), KINDS)
def test_weights_stay_as_they_are_through_an_evaluation(quantization: Quantization, double: bool, model_folder: Path):
    model = load(model_folder, quantization, double)
    assert model.is_quantized
    packed = [m for m in model.modules() if type(m).__name__ in ("Linear4bit", "Linear8bitLt")]
    assert len(packed) == NUM_LAYERS
    if quantization is not Quantization.int8:
        assert {m.weight.quant_state.quant_type for m in packed} == {quantization.value}
        assert all((m.weight.quant_state.nested is True) is double for m in packed)
    before, first = hash_of_buffers(model), model(IDS).logits.detach()
    with torch.no_grad():
        evaluated = model.eval()(IDS).logits
    again = model.train()(IDS).logits.detach()
    assert torch.equal(first, again)
    assert torch.equal(first, evaluated)
    assert hash_of_buffers(model) == before


@pytest.mark.parametrize(
    ("quantization", "least"), [(Quantization.nf4, 0.7), (Quantization.fp4, 0.7), (Quantization.int8, 0.999)]
)
def test_it_is_close_to_the_weights_it_stands_for(quantization: Quantization, least: float, model_folder: Path):
    expected = load(model_folder)(IDS).logits.detach().flatten()
    found = load(model_folder, quantization)(IDS).logits.detach().flatten()
    assert not torch.equal(found, expected)
    assert float(torch.corrcoef(torch.stack([found, expected]))[0, 1]) > least


@pytest.mark.parametrize("quantization", METHODS)
def test_quantised_weights_count_as_what_they_stand_for(quantization: Quantization, model_folder: Path):
    plain = attach_adapter(load(model_folder), LoraConfig(**LORA), seed=0)
    assert count_parameters(with_lora(load(model_folder, quantization))) == count_parameters(plain)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_int8_product_is_that_of_the_stored_weights(dtype: torch.dtype):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randint(-127, 128, (5, 7), generator=generator, dtype=torch.int8)
    scale = torch.rand(5, 1, generator=generator, dtype=dtype)
    inputs = torch.randn(2, 3, 7, generator=generator, dtype=dtype, requires_grad=True)
    found = Int8Product.apply(inputs, weight, scale)
    expected = inputs @ (weight.to(dtype) * scale).T
    torch.testing.assert_close(found, expected)
    towards = torch.randn(2, 3, 5, generator=generator, dtype=dtype)
    pair = [torch.autograd.grad(output, inputs, towards)[0] for output in (found, expected)]
    torch.testing.assert_close(*pair)


def test_an_int8_layer_computes_with_bitsandbytes_own_weights(model_folder: Path):
    layer = load(model_folder, Quantization.int8).model.layers[0].mlp.up_proj
    plain = load(model_folder).model.layers[0].mlp.up_proj.weight
    inputs, plain = torch.randn(3, 32, generator=torch.Generator().manual_seed(0)), plain.detach()
    scale = plain.abs().amax(dim=1, keepdim=True)
    by_hand = inputs @ ((plain / scale * 127).round() * scale / 127).T
    torch.testing.assert_close(layer(inputs), by_hand, rtol=0.02, atol=0.02 * float(by_hand.std()))
    assert layer(inputs).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(inputs).dtype == torch.bfloat16


def test_computing_is_as_the_device_does_best():
    config = ModelConfig(path="x", quantization=Quantization.fp4, double_quantization=False)
    assert quantization_config(config, CPU).bnb_4bit_compute_dtype == torch.float32
    options = quantization_config(config, CUDA)
    assert options.bnb_4bit_compute_dtype == torch.bfloat16
    assert (options.bnb_4bit_quant_type, options.bnb_4bit_use_double_quant) == ("fp4", False)
    assert quantization_config(ModelConfig(path="x", quantization=Quantization.int8), CUDA).load_in_8bit


# --- training --------------------------------------------------------------------------------------------------------


def loss_and_gradients(model: CausalLM, budgets: list[int], padded: bool) -> tuple[float, torch.Tensor]:
    """Of twelve examples, in micro-batches of `budgets` examples."""
    examples, total = ragged_examples(sum(budgets)), 0.0
    model.zero_grad(set_to_none=True)
    for budget in budgets:
        chosen, examples = examples[:budget], examples[budget:]
        sums = SftObjective(head_chunk_tokens=64)(model, collate(chosen, padded, 0))
        sums.nll_sum.backward()
        total += float(sums.nll_sum.detach())
    return total, torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])


@pytest.mark.parametrize("quantization", METHODS)
def test_packed_padded_and_cut_give_the_same_gradients(quantization: Quantization, model_folder: Path):
    model = with_lora(load(model_folder, quantization))
    expected_loss, expected = loss_and_gradients(model, [12], padded=True)
    found = [loss_and_gradients(model, [5, 7], padded=True)]
    base_of(model).set_attn_implementation(VARLEN)
    found += [loss_and_gradients(model, budgets, padded=False) for budgets in ([12], [5, 7])]
    for loss, gradients in found:
        assert loss == pytest.approx(expected_loss, rel=1e-6)
        torch.testing.assert_close(gradients, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("quantization", METHODS)
def test_the_doctor_proves_a_quantised_base(quantization: Quantization, model_folder: Path):
    model = ready_for_adapter(load(model_folder, quantization))
    found = diagnose(model, ragged_examples(3), 40, CPU, partial(autocast, Precision.fp32, CPU))
    assert (found.causal.holds, found.padding_free.holds, found.fused_head.holds) == (True, True, True)


@pytest.mark.parametrize("quantization", [Quantization.fp4, Quantization.int8])
def test_it_trains_completes_and_exports(quantization: Quantization, model_folder: Path, tmp_path: Path):
    model = attach_adapter(load(model_folder, quantization), LoraConfig(**LORA), seed=0)
    _, figures = train(model, ragged_examples(16), tmp_path, num_steps=6, lr=1e-2, optimizer="torch.optim.AdamW")
    assert figures[-1]["train/loss"] < figures[0]["train/loss"]
    [completion] = generate(model, [[5, 6, 7]], Decoding(3, batch_tokens=64, end_token_ids=[1], pad_token_id=0))
    assert completion.finished or len(completion.token_ids) == 3
    export_model(model, make_tokenizer(), str(model_folder), tmp_path / "adapter")
    with torch.no_grad():
        base_of(model).set_attn_implementation("sdpa")
        expected = model.eval()(IDS).logits
        again = PeftModel.from_pretrained(ready_for_adapter(load(model_folder, quantization)), tmp_path / "adapter")
        torch.testing.assert_close(again.eval()(IDS).logits, expected, rtol=1e-5, atol=1e-5)
    assert load_file(tmp_path / "adapter" / "adapter_model.safetensors").keys()


def test_a_half_precision_base_trains_under_a_float32_adapter(model_folder: Path, tmp_path: Path):
    base = load_base_model(ModelConfig(path=str(model_folder), dtype=DType.bfloat16), CPU)
    weights, figures = train(
        attach_adapter(base, LoraConfig(**LORA), seed=0), ragged_examples(16), tmp_path, num_steps=6, lr=1e-2,
        optimizer="torch.optim.AdamW",
    )  # fmt: skip
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    assert base.get_input_embeddings().weight.dtype == torch.bfloat16
    assert figures[-1]["train/loss"] < figures[0]["train/loss"]


@pytest.mark.parametrize("quantization", METHODS)
def test_quantised_weights_are_not_fully_trained(quantization: Quantization, tiny_config):
    config = tiny_config("peft=none", "~peft.r", f"model.quantization={quantization.value}")
    with pytest.raises(
        ConfigError, match=f"^model.quantization: expected none for full .*found '{quantization.value}'"
    ):
        build_adapter_config(config)


@pytest.mark.parametrize(("quantization", "read"), [("fp4", True), ("int8", False), ("none", False)])
def test_double_quantization_is_a_key_of_four_bits(quantization: str, read: bool, tiny_config, tmp_path: Path):
    override = "model.double_quantization=false"
    config = tiny_config(f"model.quantization={quantization}", override, f"output_dir={tmp_path}")
    adapter, prepared = build_adapter_config(config), prepare(config)
    mark_read_later(config, plan_training(config, prepared, adapter), prepared)
    with nullcontext() if read else pytest.raises(ConfigError, match="double_quantization: set, but nothing uses it"):
        refuse_unread_keys(config, [override])


# --- what is shown ---------------------------------------------------------------------------------------------------


def test_what_is_kept_in_floating_point_is_shown(model_folder: Path):
    report = quantization_report(ready_for_adapter(load(model_folder, Quantization.nf4)), "nf4")
    assert str(report) == "quantised 14 of 15 linear layers to nf4; in float32: embeddings, lm_head, norms"
    assert json.loads(json.dumps(report.to_dict())) == {
        "method": "nf4", "num_quantized": 14, "num_linear": 15, "compute_dtype": "float32",
        "kept": {"float32": ["embeddings", "lm_head", "norms"]},
    }  # fmt: skip
    assert "14 of 15 linear layers to int8" in str(quantization_report(load(model_folder, Quantization.int8), "int8"))


class PackedTensor(torch.Tensor):
    """Stands for torchao's weights: the layer stays torch's, its weight is a tensor of another class."""


def test_layers_with_weights_of_another_class_are_quantised(model_folder: Path):
    model = load(model_folder)
    for layer in model.model.layers:
        layer.mlp.up_proj.weight = torch.nn.Parameter(layer.mlp.up_proj.weight.detach().as_subclass(PackedTensor))
    assert str(quantization_report(model, "torchao")) == (
        "quantised 2 of 15 linear layers to torchao; in float32: down_proj, embeddings, gate_proj, k_proj, lm_head, "
        "norms, o_proj, q_proj, v_proj"
    )


def test_the_experts_that_stay_in_floating_point_are_shown(tmp_path: Path):
    report = quantization_report(load(save_miniature("mixtral", tmp_path), Quantization.nf4), "nf4")
    assert str(report) == "quantised 8 of 9 linear layers to nf4; in float32: embeddings, experts, gate, lm_head, norms"


# --- checkpoints that are quantised already --------------------------------------------------------------------------


def architecture(folder: Path, **stored: Any) -> Any:
    config = make_model(len(make_tokenizer())).config
    config.save_pretrained(folder)
    fields = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    text = json.dumps({**fields, "quantization_config": stored} if stored else fields)
    (folder / "config.json").write_text(text, encoding="utf-8")
    return AutoConfig.from_pretrained(folder)


def test_what_is_not_quantised_is_left_to_the_configuration(tmp_path: Path):
    plain = architecture(tmp_path)
    assert check_quantization(plain, ModelConfig(path="x")) is None
    assert check_quantization(plain, ModelConfig(path="x", quantization=Quantization.int8)) == "int8"


@pytest.mark.parametrize("quantization", METHODS)
def test_nothing_is_quantised_twice(quantization: Quantization, tmp_path: Path):
    stored = architecture(tmp_path, quant_method="gptq", bits=4)
    with pytest.raises(
        ModelError, match=r"^model\.quantization: expected none, .*'base' is quantised already \(gptq\)"
    ):
        check_quantization(stored, ModelConfig(path="base", quantization=quantization))


@pytest.mark.parametrize("method", [name for name in PACKAGES if name != "bitsandbytes"])
def test_a_missing_package_is_named(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    stored = architecture(tmp_path, quant_method=method, bits=4)
    monkeypatch.setattr(quantizing, "_is_installed", lambda module: False)
    needed = " ".join(PACKAGES[method].values())
    with pytest.raises(ModelError, match=rf"quantised by {method}, which needs .*; pip install {needed}, or"):
        check_quantization(stored, ModelConfig(path="base"))
    monkeypatch.setattr(quantizing, "_is_installed", lambda module: True)
    assert check_quantization(stored, ModelConfig(path="base")) == method


def test_what_is_installed_is_found():
    assert quantizing._is_installed("torch")
    assert not quantizing._is_installed("no_such_package_at.all")
    assert quantizing._is_installed("bitsandbytes") is (importlib.util.find_spec("bitsandbytes") is not None)


def test_an_unknown_method_is_refused(tmp_path: Path):
    stored = architecture(tmp_path, quant_method="magic")
    with pytest.raises(ModelError, match=r"^model\.path: expected weights that are not quantised, .*found 'magic' in"):
        check_quantization(stored, ModelConfig(path="base"))


@pytest.fixture(scope="module", params=["4 bits", "8 bits"])
def saved_quantised(
    request: pytest.FixtureRequest, model_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The base as bitsandbytes quantised it, saved by transformers, with a compute type for CUDA."""
    options: dict[str, Any] = {"load_in_8bit": True}
    if request.param == "4 bits":
        options = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.bfloat16}
    folder = tmp_path_factory.mktemp("quantised")
    config = BitsAndBytesConfig(**options)
    model = AutoModelForCausalLM.from_pretrained(model_folder, quantization_config=config, device_map={"": "cpu"})
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def test_a_checkpoint_of_bitsandbytes_is_fine_tuned(saved_quantised: Path, model_folder: Path, tmp_path: Path):
    config = ModelConfig(path=str(saved_quantised))
    assert check_quantization(AutoConfig.from_pretrained(saved_quantised), config) == "bitsandbytes"
    base = ready_for_adapter(load_base_model(config, CPU))
    with torch.no_grad():
        fours = type(base.model.layers[0].mlp.up_proj).__name__ == "Linear4bit"
        same = load(model_folder, Quantization.nf4 if fours else Quantization.int8, double=False)
        torch.testing.assert_close(base(IDS).logits, ready_for_adapter(same)(IDS).logits, rtol=1e-5, atol=1e-5)
    report = quantization_report(base, "bitsandbytes")
    model = attach_adapter(base, LoraConfig(**LORA), seed=0)
    _, figures = train(model, ragged_examples(16), tmp_path, num_steps=6, lr=1e-2, optimizer="torch.optim.AdamW")
    assert figures[-1]["train/loss"] < figures[0]["train/loss"]
    assert (report.num_quantized, report.compute_dtype) == (NUM_LAYERS, "float32" if fours else None)


def test_a_checkpoint_that_is_quantised_is_not_quantised_again(saved_quantised: Path, tiny_config, tmp_path: Path):
    config = tiny_config("peft=qlora", f"model.path={saved_quantised}", f"output_dir={tmp_path}")
    with pytest.raises(
        ModelError, match=r"is quantised already \(bitsandbytes\), found 'nf4'; set model\.quantization="
    ):
        prepare(config)


def test_a_checkpoint_that_is_quantised_is_not_fully_trained(saved_quantised: Path, tiny_config, tmp_path: Path):
    config = tiny_config("peft=none", "~peft.r", f"model.path={saved_quantised}", f"output_dir={tmp_path}")
    with pytest.raises(ConfigError, match="peft=lora where the checkpoint itself is quantised"):
        plan_training(config, prepare(config), None)


def test_a_checkpoint_that_is_not_as_it_says_is_refused(model_folder: Path, tmp_path: Path):
    """Weights that nobody has quantised, beside a configuration that says so."""
    shutil.copytree(model_folder, tmp_path / "base")
    file = tmp_path / "base" / "config.json"
    stored = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | stored), encoding="utf-8")
    base = load(tmp_path / "base")
    with pytest.raises(ModelError, match=r"^model\.path: expected a base model that can be computed with as it is sto"):
        require_computable(base)
