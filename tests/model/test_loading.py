"""Loading the base model: what is refused, and which types the weights have."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, T5Config

from tunelab.config import DType, ModelConfig
from tunelab.errors import ModelError
from tunelab.model.loading import (
    check_base_model,
    enable_checkpointing,
    load_base_model,
    torch_dtype,
)

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
IDS = torch.tensor([[5, 9, 30, 77, 12]])


@pytest.fixture
def copy(model_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model_folder, tmp_path / "copy"))


def test_a_good_folder_passes(model_folder: Path):
    assert check_base_model(ModelConfig(path=str(model_folder)), 200).model_type == "llama"


def test_more_ids_than_embeddings_are_refused(model_folder: Path):
    vocabulary = LlamaConfig.from_pretrained(model_folder).vocab_size
    check_base_model(ModelConfig(path=str(model_folder)), vocabulary)
    with pytest.raises(ModelError, match=f"has {vocabulary + 1} ids, the model only {vocabulary} embeddings"):
        check_base_model(ModelConfig(path=str(model_folder)), vocabulary + 1)


def test_missing_weights_are_refused(copy: Path):
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"expected \*\.safetensors in .*, found none"):
        check_base_model(ModelConfig(path=str(copy)), 10)


def test_another_kind_of_model_is_refused(tmp_path: Path):
    T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="expected a causal language model, found 't5'"):
        check_base_model(ModelConfig(path=str(tmp_path)), 10)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "{}",
        '{"model_type": "no-such-model"}',
        pytest.param(
            '{"model_type": "llama", "hidden_size": "wide"}',
        ),
    ],
)
def test_a_config_that_cannot_be_read_is_refused(text: str, copy: Path):
    (copy / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(ModelError, match=r"^model\.path: .* has no usable config\.json \("):
        check_base_model(ModelConfig(path=str(copy)), 10)


def test_damaged_weights_are_refused(copy: Path):
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"^model\.path: the weights of .* cannot be loaded"):
        load_base_model(ModelConfig(path=str(copy)), CPU)


def test_a_weight_that_is_missing_is_refused(copy: Path):
    weights = load_file(copy / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="up_proj"):
        load_base_model(ModelConfig(path=str(copy)), CPU)


def test_a_loaded_model_is_ready_to_train(model_folder: Path):
    model = load_base_model(ModelConfig(path=str(model_folder)), CPU)
    assert model.training


@pytest.mark.parametrize(
    ("dtype", "device", "expected"),
    [
        (DType.auto, CPU, torch.float32),
        (DType.auto, CUDA, "auto"),
        (DType.bfloat16, CPU, torch.bfloat16),
        (DType.float16, CUDA, torch.float16),
        (DType.float32, CUDA, torch.float32),
    ],
)
def test_types_of_weights(dtype: DType, device: torch.device, expected):
    assert torch_dtype(dtype, device) == expected


@pytest.mark.parametrize(("dtype", "expected"), [(DType.auto, torch.float32), (DType.bfloat16, torch.bfloat16)])
def test_weights_have_the_type_asked_for(dtype: DType, expected: torch.dtype, model_folder: Path):
    model = load_base_model(ModelConfig(path=str(model_folder), dtype=dtype), CPU)
    assert {parameter.dtype for parameter in model.parameters()} == {expected}


def test_checkpointing_changes_no_gradient(model_folder: Path):
    def gradients(checkpointing: bool) -> list[torch.Tensor]:
        model = load_base_model(ModelConfig(path=str(model_folder)), CPU)
        if checkpointing:
            enable_checkpointing(model)
            assert model.is_gradient_checkpointing
        model(IDS).logits.logsumexp(-1).sum().backward()
        return [p.grad for p in model.parameters()]

    for plain, recomputed in zip(gradients(False), gradients(True), strict=True):
        assert torch.equal(plain, recomputed)
