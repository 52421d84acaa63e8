"""What evaluate, export and chat work on: the base stays the base, and all three refuse the same things."""

import json
from pathlib import Path

import pytest
import torch
from exported_runs import IDS, LORA, write_adapter
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from tunelab.chat.conversing import chat
from tunelab.chat.voice import base_alone, load_sides, make_voice
from tunelab.config import (
    ChatConfig,
    DataConfig,
    DType,
    EvaluateConfig,
    EvaluationConfig,
    ExportConfig,
    ExportKind,
    ModelConfig,
    Quantization,
    forget_reads,
)
from tunelab.data.preparing import prepare_data
from tunelab.errors import ConfigError, ModelError
from tunelab.evaluate import evaluate
from tunelab.export.exporting import export
from tunelab.subject import open_subject

CHANGED = {
    "bias": {**LORA, "bias": "all"},
    "bias of adapted layers": {**LORA, "bias": "lora_only"},
    "pissa": {**LORA, "init_lora_weights": "pissa"},
    "olora": {**LORA, "init_lora_weights": "olora"},
    "oft": {
        "_target_": "peft.OFTConfig",
        "r": 0,
        "oft_block_size": 8,
        "bias": "oft_only",
        "target_modules": ["q_proj"],
    },
}
UNCHANGED = {
    "lora": LORA,
    "dora": {**LORA, "use_dora": True},
    "whole modules": {**LORA, "modules_to_save": ["lm_head"]},
    "tokens": {**LORA, "trainable_token_indices": [5, 9]},
    "ia3": {"_target_": "peft.IA3Config", "target_modules": ["k_proj"], "feedforward_modules": []},
    "ln": {"_target_": "peft.LNTuningConfig", "target_modules": ["input_layernorm"]},
}


@pytest.fixture(scope="module")
def biased(model_folder, tmp_path_factory) -> Path:
    """A base with biases."""
    folder = tmp_path_factory.mktemp("base") / "biased"
    config = LlamaConfig.from_pretrained(model_folder, attention_bias=True)
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(model_folder).save_pretrained(folder)
    return folder


def plain_logits(base: Path) -> torch.Tensor:
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(base)(IDS).logits


@pytest.mark.parametrize("name", [*CHANGED, *UNCHANGED])
def test_the_base_in_a_conversation_is_the_plain_base(name, biased, tmp_path):
    adapter = write_adapter(biased, tmp_path / "adapter", {**CHANGED, **UNCHANGED}[name])
    config = ChatConfig(adapter=str(adapter), model=ModelConfig(path=str(biased)))
    subject = open_subject(config, None, None)
    base, tuned = load_sides(subject, make_voice(config, subject))
    assert (base.model is tuned.model) == (name in UNCHANGED)  # one copy of the weights where that is right
    with torch.no_grad(), base_alone(base):
        assert torch.equal(base.model.eval()(IDS).logits, plain_logits(biased))
    with torch.no_grad():
        assert not torch.allclose(tuned.model.eval()(IDS).logits, plain_logits(biased), atol=1e-2)


@pytest.mark.parametrize("name", ["bias", "pissa"])
def test_the_base_that_is_measured_is_the_plain_base(name, biased, data_file, tmp_path):
    adapter = write_adapter(biased, tmp_path / "adapter", CHANGED[name])
    config = EvaluateConfig(
        adapter=str(adapter),
        output_dir=str(tmp_path),
        model=ModelConfig(path=str(biased)),
        data=DataConfig(path=str(data_file), max_length=96),
        evaluation=EvaluationConfig(generate=False, max_examples=4),
    )
    measured = evaluate(config, None, None, [])
    data = prepare_data(config.data, AutoTokenizer.from_pretrained(biased), tmp_path)
    model, nll, count = AutoModelForCausalLM.from_pretrained(biased).double(), 0.0, 0
    for example in data.test[:4]:
        ids, mask = example.tokenized.input_ids, example.tokenized.loss_mask
        with torch.no_grad():
            scores = model(ids[None]).logits[0].log_softmax(-1)
        nll -= sum(float(scores[place - 1, ids[place]]) for place in range(1, len(ids)) if mask[place])
        count += int(mask[1:].sum())
    assert measured["base/test/loss"] == pytest.approx(nll / count, rel=1e-5)
    assert measured["test/loss"] != pytest.approx(measured["base/test/loss"], rel=1e-3)


@pytest.mark.parametrize(
    "node",
    [
        {"_target_": "peft.LNTuningConfig", "target_modules": ["input_layernorm"]},
        {**LORA, "modules_to_save": ["lm_head"]},
        {"_target_": "peft.AdaptionPromptConfig", "adapter_len": 3, "adapter_layers": 2},
    ],
    ids=["norms", "whole modules", "adaption prompts"],
)
def test_a_base_in_half_types_computes_in_float32_where_the_adapter_does(node, model_folder, tmp_path):
    """Its values are those of bfloat16 all the same."""
    adapter = write_adapter(model_folder, tmp_path / "adapter", node)
    config = ChatConfig(adapter=str(adapter), model=ModelConfig(path=str(model_folder), dtype=DType.bfloat16))
    subject = open_subject(config, None, None)
    base, tuned = load_sides(subject, make_voice(config, subject))
    rounded = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.bfloat16).float()
    with torch.no_grad(), base_alone(base):
        assert torch.equal(base.model.eval()(IDS).logits, rounded(IDS).logits)
    with torch.no_grad():
        expected = PeftModel.from_pretrained(rounded, str(adapter)).eval()(IDS).logits
        assert torch.equal(tuned.model.eval()(IDS).logits, expected)


def chat_keys(config: dict) -> None:
    chat(ChatConfig(**config), None, None, TYPED)


def export_keys(config: dict) -> None:
    data = DataConfig(path=config.pop("data_path"))
    export(ExportConfig(**config, data=data, to="never", kind=ExportKind.merged), None, None, TYPED)


def evaluate_keys(config: dict) -> None:
    data = DataConfig(path=config.pop("data_path"), max_length=96)
    evaluate(EvaluateConfig(**config, data=data), None, None, TYPED)


TYPED = ["model.double_quantization=false"]


@pytest.mark.parametrize("command", [chat_keys, export_keys, evaluate_keys])
def test_a_key_of_four_bits_is_refused_beside_eight(command, biased, data_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = ModelConfig(path=str(biased), quantization=Quantization.int8, double_quantization=False)
    config = {"adapter": str(write_adapter(biased, tmp_path / "adapter")), "model": model}
    forget_reads(model)
    if command is not chat_keys:
        config["data_path"] = str(data_file)
    with pytest.raises(ConfigError, match=r"^model\.double_quantization: set, but nothing uses it"):
        command(config)


@pytest.mark.parametrize("command", [chat_keys, export_keys, evaluate_keys])
def test_the_same_adapters_are_refused(command, biased, data_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    adapter = write_adapter(biased, tmp_path / "adapter")
    config = {"adapter": str(adapter), "model": ModelConfig(path=str(biased))}
    if command is not chat_keys:
        config["data_path"] = str(data_file)
    text = (adapter / "tokenizer.json").read_text()
    (adapter / "tokenizer.json").write_text(text.replace("<|system|>", "<|sys|>"))
    with pytest.raises(ModelError, match=r"not that of the base model: expected '<\|system\|>' with the id 2"):
        command(dict(config))
    (adapter / "tokenizer.json").write_text(text)
    settings = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**settings, "trainable_token_indices": [9999]}))
    with pytest.raises(ModelError, match=r"has trained tokens that the tokenizer of the base model lacks"):
        command(dict(config))
