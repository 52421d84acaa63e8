"""Every base model of conf/model, without its weights: its size, and what LoRA trains on it."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from base_models import BASE_MODELS, BaseModel, lora_parameters
from transformers import AutoConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from tunelab.embedded import locate
from tunelab.model.adapter import attach_adapter, build_peft_config, count_parameters

GROUP = Path(__file__).resolve().parents[2] / "conf" / "model"
RANK_16 = {"_target_": "peft.LoraConfig", "r": 16, "lora_alpha": 32, "target_modules": "all-linear"}


def on_meta(base: BaseModel) -> PreTrainedModel:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(base.config)


def test_every_file_of_the_group_has_a_row_here():
    assert {path.name.removesuffix(".yaml") for path in GROUP.glob("*.yaml")} == set(BASE_MODELS)


@pytest.mark.parametrize("name", BASE_MODELS)
def test_its_parameters_are_those_published(name: str):
    base = BASE_MODELS[name]
    model = on_meta(base)
    assert sum(parameter.numel() for parameter in model.parameters()) == base.num_parameters
    with torch.device("meta"):
        count = count_parameters(attach_adapter(model, build_peft_config(RANK_16), seed=0))
    assert count.trainable == lora_parameters(base.config, 16)
    assert count.total == base.num_parameters + count.trainable


def test_lora_on_mistral_7b_is_what_others_report():
    """The count that PEFT prints for Mistral 7B with r=16 on its seven linear layers, and the arithmetic agree."""
    assert lora_parameters(BASE_MODELS["mistral7b"].config, 16) == 41_943_040


@pytest.mark.parametrize("name", BASE_MODELS)
def test_its_file_composes_and_says_what_it_is(name: str, compose_config: Callable[..., Any]):
    base, text = BASE_MODELS[name], (GROUP / f"{name}.yaml").read_text(encoding="utf-8")
    assert compose_config(f"model={name}").model.path == base.path
    said = " ".join(line.removeprefix("# ") for line in text.splitlines() if line.startswith("# "))
    assert "chat template" in said or name == "tiny"
    if name == "tiny":
        return
    number, unit = re.search(r"([\d.]+) ([MB]) parameters", said).groups()
    digits = len(number.partition(".")[2])
    assert number == f"{base.num_parameters / {'M': 1e6, 'B': 1e9}[unit]:.{digits}f}"
    assert int(re.search(r"context ([\d,]+)", said)[1].replace(",", "")) == base.context


def test_the_embedded_row_is_the_embedded_model():
    own, row = AutoConfig.from_pretrained(locate("embedded:tiny")), BASE_MODELS["tiny"].config
    keys = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "head_dim", "vocab_size")
    assert [getattr(own, key) for key in keys] == [getattr(row, key) for key in keys]
