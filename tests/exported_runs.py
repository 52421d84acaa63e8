"""Run folders made without training: a changed adapter (or model), and what a run would have written beside it."""

import json
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, PreTrainedModel

from tunelab.compose import dump_config
from tunelab.config import ModelConfig, Quantization, RunConfig
from tunelab.model.adapter import attach_adapter, build_peft_config
from tunelab.model.loading import load_base_model
from tunelab.model.saving import export_model
from tunelab.model.tokenizer import load_tokenizer

LORA = {"_target_": "peft.LoraConfig", "r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
IDS = torch.tensor([[5, 9, 30, 77, 12, 40, 41]])


def write_adapter(
    base: Path, folder: Path, node: dict[str, Any] = LORA, seed: int = 1, quantization: Quantization = Quantization.none
) -> Path:
    """An adapter (full: a model) whose weights were changed at random."""
    config = ModelConfig(path=str(base), quantization=quantization)
    model = attach_adapter(load_base_model(config, torch.device("cpu")), build_peft_config(node), seed=0)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    folder.parent.mkdir(parents=True, exist_ok=True)
    export_model(model, load_tokenizer(config), str(base), folder)
    return folder


def write_run(config: RunConfig, folder: Path, node: dict[str, Any] = LORA) -> Path:
    """The folder of a finished run of `config`."""
    quantization = config.model.quantization if node.get("init_lora_weights") == "loftq" else Quantization.none
    write_adapter(Path(config.model.path), folder / "adapter", node, quantization=quantization)
    (folder / "config.yaml").write_text(dump_config(config))
    metrics = {"base/test/loss": 3.0, "test/loss": 1.25, "base/test/exact_match": 0.0, "test/exact_match": 0.5}
    (folder / "summary.json").write_text(json.dumps({"status": "finished", "metrics": metrics}))
    record = {
        "command": ["train.py", "name=run"],
        "packages": {"torch": "2"},
        "data_sha256": {"rows.jsonl": {"rows.jsonl": "ab"}},
        "base_model": {"sha256": {"model.safetensors": "cd"}},
    }
    (folder / "provenance.json").write_text(json.dumps(record))
    return folder


def plainly(base: Path, adapter: Path) -> PreTrainedModel | PeftModel:
    """What PEFT alone makes of the two, in float32."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return PeftModel.from_pretrained(model, str(adapter)).eval()
