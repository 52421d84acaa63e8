"""Architectures of the model group, and mixtures of experts, in miniature: each packs or says why not, trains, exports
and comes back."""

from functools import partial
from pathlib import Path

import pytest
import torch
from families import CONFIGS, MIXTURES, miniature, save_miniature
from peft import PeftModel
from steps import train
from transformers import AutoModelForCausalLM, PreTrainedModel

from tunelab.config import ModelConfig, Precision, Quantization
from tunelab.data.collating import collate
from tunelab.data.records import TokenizedExample
from tunelab.errors import ModelError
from tunelab.evaluation.decoding import Decoding
from tunelab.evaluation.generating import generate, inference
from tunelab.model.adapter import CausalLM, attach_adapter, base_of, build_peft_config, ready_for_adapter
from tunelab.model.attention import VARLEN, attention_implementation
from tunelab.model.loading import load_base_model, quantization_config
from tunelab.model.saving import export_model
from tunelab.model.tokenizer import load_tokenizer
from tunelab.training.doctor import diagnose, require_causal
from tunelab.training.objective import SftObjective
from tunelab.training.trainer import autocast

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
LORA = {"_target_": "peft.LoraConfig", "r": 4, "lora_alpha": 8}
FAMILIES = [*CONFIGS, *MIXTURES]
PADDED = {"gemma2": "soft-capping", "mamba": "recurrent layers", "gpt_oss": "sinks"}
SINGLE = {"gemma2", "mamba", *MIXTURES}  # parts of these compute in float32 whatever the weights are
EXPERTS = {name: {"target_parameters": ["gate_up_proj", "down_proj"]} for name in ("qwen2_moe", "gpt_oss")}
LENGTHS = (11, 23, 5)


@pytest.fixture(scope="module")
def examples() -> list[TokenizedExample]:
    generator = torch.Generator().manual_seed(1)
    ids = [torch.randint(5, 1500, (length,), generator=generator) for length in LENGTHS]
    return [TokenizedExample(i, torch.arange(len(i)) > 2, f"row:{n}") for n, i in enumerate(ids)]


def with_lora(base: PreTrainedModel) -> CausalLM:
    """A fresh LoRA adapter on all linear layers; PEFT refuses those that Mamba's fused kernels read past a wrapper."""
    modules = ["in_proj", "x_proj"] if base.config.model_type == "mamba" else "all-linear"
    node = {**LORA, "target_modules": modules, **EXPERTS.get(base.config.model_type, {})}
    return attach_adapter(ready_for_adapter(base), build_peft_config(node), seed=0)


def with_adapter(base: PreTrainedModel) -> CausalLM:
    """An adapter that already does something."""
    model = with_lora(base)
    generator = torch.Generator().manual_seed(2)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1, generator=generator)
    return model


def examine(model: CausalLM, examples: list[TokenizedExample]):
    return diagnose(model, examples, max(LENGTHS), CPU, partial(autocast, Precision.fp32, CPU))


def gradients(model: CausalLM, batches, objective: SftObjective) -> list[torch.Tensor]:
    model.zero_grad()
    sum(objective(model, batch).nll_sum for batch in batches).backward()
    return [p.grad.clone() for p in model.parameters() if p.requires_grad]


@pytest.mark.parametrize("name", FAMILIES)
def test_packed_and_padded_rows_give_the_gradients_of_each_example_alone(name: str, examples):
    model = with_adapter(miniature(name)).double()
    if name in MIXTURES:  # torch's grouped product has no float64
        base_of(model).set_experts_implementation("eager")
    found = examine(model, examples)
    assert found.causal.holds
    assert found.padding_free.holds is (name not in PADDED), found.padding_free.reason
    assert PADDED.get(name, "") in found.padding_free.reason
    objective = SftObjective(head_chunk_tokens=8, fused_head=found.fused_head.holds)
    assert objective.fused_head is (name != "gemma2")  # whose logits are capped
    alone = gradients(model, [collate([example], True, 0) for example in examples], objective)
    layouts = {"padded": gradients(model, [collate(examples, True, 0)], objective)}
    if found.padding_free.holds:
        with attention_implementation(base_of(model), VARLEN):
            layouts["packed"] = gradients(model, [collate(examples, False, 0)], objective)
    scale = max(float(gradient.abs().max()) for gradient in alone)
    tolerance = 1e-6 if name in SINGLE else 1e-10
    for found_here in layouts.values():
        for mine, expected in zip(found_here, alone, strict=True):
            torch.testing.assert_close(mine, expected, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("quantization", [Quantization.none, Quantization.nf4], ids=lambda q: q.value)
@pytest.mark.parametrize("name", FAMILIES)
def test_it_trains_exports_and_comes_back(name: str, quantization: Quantization, examples, tmp_path: Path):
    config = ModelConfig(path=str(save_miniature(name, tmp_path / "base")), quantization=quantization)
    model = with_lora(load_base_model(config, CPU))
    if name == "mamba" and quantization is Quantization.nf4:  # it multiplies by a 4-bit weight as if it were plain
        with pytest.raises(ModelError, match=r"^model\.path: expected a base model that can be computed with"):
            require_causal(examine(model, examples).causal)
        return
    sound = examine(model, examples)
    assert sound.padding_free.holds is (name not in PADDED), sound.padding_free.reason
    _, figures = train(
        model, examples, tmp_path, num_steps=10, batch_size=3, padded=not sound.padding_free.holds,
        fused_head=sound.fused_head.holds, optimizer="torch.optim.AdamW", lr=1e-2,
    )  # fmt: skip
    assert figures[-1]["train/loss"] < 0.9 * figures[0]["train/loss"]

    export_model(model, load_tokenizer(config), config.path, tmp_path / "adapter")
    options = {"quantization_config": quantization_config(config, CPU)} if quantization.value != "none" else {}
    plain = AutoModelForCausalLM.from_pretrained(config.path, dtype=torch.float32, **options)
    again = PeftModel.from_pretrained(ready_for_adapter(plain), str(tmp_path / "adapter"))
    base_of(model).set_attn_implementation(plain.config._attn_implementation)
    ids = examples[0].input_ids[None]
    with inference(model), inference(again):
        same = torch.equal(again(input_ids=ids).logits, model(input_ids=ids).logits)
    assert same


@pytest.mark.parametrize("name", FAMILIES)
def test_completions_in_a_batch_are_those_of_each_prompt_alone(name: str, examples):
    model = miniature(name).eval()
    if name not in PADDED:
        model.set_attn_implementation(VARLEN)
    prompts = [example.input_ids.tolist() for example in examples]
    found = generate(model, prompts, Decoding(5, batch_tokens=1000, end_token_ids=[2], pad_token_id=0))
    model.set_attn_implementation("eager")
    for prompt, completion in zip(prompts, found, strict=True):
        ids = list(prompt)
        with torch.no_grad():
            while len(ids) < len(prompt) + 5 and ids[-1] != 2:
                ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        assert completion.token_ids == [token for token in ids[len(prompt) :] if token != 2]
