"""Every base model of conf/model, without its weights: its size, and what LoRA trains on it."""

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from base_models import BASE_MODELS, lora_parameters
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from tunelab.config import ModelConfig, Quantization
from tunelab.embedded import locate
from tunelab.model.adapter import attach_adapter, build_peft_config, count_parameters
from tunelab.model.attention import window_of

GROUP = Path(__file__).resolve().parents[2] / "conf" / "model"
PAGE = GROUP.parents[1] / "docs" / "models.md"
RANK_16 = {"_target_": "peft.LoraConfig", "r": 16, "lora_alpha": 32, "target_modules": "all-linear"}


def on_meta(config: PreTrainedConfig) -> PreTrainedModel:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def trained(config: PreTrainedConfig) -> int:
    """Parameters that LoRA of rank 16 on all linear layers trains, as the model is really wrapped."""
    with torch.device("meta"):
        return count_parameters(attach_adapter(on_meta(config), build_peft_config(RANK_16), seed=0)).trainable


def two_layers_of(config: PreTrainedConfig) -> PreTrainedConfig:
    """All layers of a model have the same shapes."""
    changed = copy.deepcopy(config)
    changed.num_hidden_layers = 2
    if getattr(changed, "layer_types", None):
        changed.layer_types = changed.layer_types[:2]
    return changed


def test_every_file_of_the_group_has_a_row_here():
    assert {path.name.removesuffix(".yaml") for path in GROUP.glob("*.yaml")} == set(BASE_MODELS)


@pytest.mark.parametrize("name", BASE_MODELS)
def test_its_parameters_are_those_published(name: str):
    model = on_meta(BASE_MODELS[name].config)
    assert sum(parameter.numel() for parameter in model.parameters()) == BASE_MODELS[name].num_parameters


@pytest.mark.parametrize("name", BASE_MODELS)
def test_lora_finds_every_linear_layer_but_the_head(name: str):
    assert trained(two_layers_of(BASE_MODELS[name].config)) == lora_parameters(two_layers_of(BASE_MODELS[name].config))


def test_lora_on_mistral_7b_is_what_others_report():
    """Rank 16 on its seven linear layers: the figure of PEFT's own print_trainable_parameters."""
    config = BASE_MODELS["mistral7b"].config
    assert trained(config) == lora_parameters(config) == 41_943_040


@pytest.mark.parametrize("name", BASE_MODELS)
def test_its_file_says_what_it_is(name: str):
    base, text = BASE_MODELS[name], (GROUP / f"{name}.yaml").read_text(encoding="utf-8")
    assert ModelConfig(**yaml.safe_load(text)).path == base.path
    said = " ".join(line.removeprefix("# ") for line in text.splitlines() if line.startswith("# "))
    assert "chat template" in said or name == "tiny"
    if name == "tiny":
        return
    number, unit = re.search(r"([\d.]+) ([MB]) parameters", said).groups()
    digits = len(number.partition(".")[2])
    assert number == f"{base.num_parameters / {'M': 1e6, 'B': 1e9}[unit]:.{digits}f}"
    context = re.search(r"context ([\d,]*\d)", said)[1]
    assert context == f"{base.context:,}"
    [row] = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith(f"| `{name}` |")]
    assert f"| `{base.path}` | {number} {unit} |" in row
    assert f"| {context} | {'none' if 'no chat template' in said else 'yes'} |" in row
    window, limited = window_of(base.config), re.search(r"packs up to ([\d,]+) tokens", row)
    assert (limited and int(limited[1].replace(",", ""))) == (window if window and window < base.context else None) or (
        "soft-capped" in row
    )


def test_names_with_dots_and_dashes_are_names(compose_config: Callable[..., Any]):
    config = compose_config("model=qwen2.5-0.5b", "peft=qlora")
    assert (config.model.path, config.model.quantization) == ("Qwen/Qwen2.5-0.5B", Quantization.nf4)


def test_the_embedded_row_is_the_embedded_model():
    own, row = AutoConfig.from_pretrained(locate("embedded:tiny")), BASE_MODELS["tiny"].config
    keys = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "head_dim", "vocab_size")
    assert [getattr(own, key) for key in keys] == [getattr(row, key) for key in keys]
