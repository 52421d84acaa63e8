"""`python train.py peft=qlora model=mistral7b`: every derived number without weights, and a real run in miniature."""

import json
from collections import Counter
from itertools import islice
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from base_models import BASE_MODELS
from families import save_miniature
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.integrations.bitsandbytes import replace_with_bnb_linear

from tunelab import run_model
from tunelab.compose import dump_config
from tunelab.config import Precision, Quantization, RunConfig, forget_reads
from tunelab.embedded import locate
from tunelab.errors import TunelabError
from tunelab.finetune import fine_tune
from tunelab.model.adapter import attach_adapter, count_parameters
from tunelab.model.attention import window_of
from tunelab.model.loading import quantization_config, torch_dtype
from tunelab.preflight import build_adapter_config, plan_training, prepare
from tunelab.run import RunFolder

CUDA = torch.device("cuda", 0)
COMMAND = ["peft=qlora", "model=mistral7b"]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty tickets."""
    path = tmp_path_factory.mktemp("rows") / "tickets.jsonl"
    with Path(locate("embedded:tickets/train.jsonl")).open(encoding="utf-8") as file:
        path.write_text("".join(islice(file, 40)), encoding="utf-8")
    return path


@pytest.fixture
def overrides(rows: Path, tmp_path: Path) -> list[str]:
    held_out = ["data.validation_fraction=0.1", "data.test_fraction=0.1"]
    return [*COMMAND, "data=file", f"data.path={rows}", *held_out, "data.batch_size=4", f"output_dir={tmp_path}/out"]


def run(overrides: list[str], config: RunConfig, path: Path) -> RunFolder:
    """What `python train.py <overrides>` does once the run folder is made."""
    path.mkdir()
    folder = RunFolder(path)
    folder.write_text("config.yaml", dump_config(config))
    forget_reads(config)
    _ = config.output_dir, config.resume
    fine_tune(config, folder, overrides)
    return folder


@pytest.fixture
def on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mistral 7B's configuration in the hub's cache, beside a small tokenizer; no weights."""
    home = tmp_path / "cache" / "models--mistralai--Mistral-7B-v0.1"
    snapshot = home / "snapshots" / "0123456789abcdef"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(snapshot.name, encoding="utf-8")
    save_miniature("mistral", snapshot)
    (snapshot / "model.safetensors").unlink()
    BASE_MODELS["mistral7b"].config.save_pretrained(snapshot)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # else optional files are asked for again


def test_the_command_reaches_the_weights(on_the_hub, overrides: list[str], compose_config, tmp_path: Path, monkeypatch):
    config = compose_config(*overrides)
    asked = []

    def weights_would_load(model, device):
        asked.append((model.path, model.quantization, device.type))
        raise TunelabError("here the weights would load")

    monkeypatch.setattr(run_model, "load_base_model", weights_would_load)
    with pytest.raises(TunelabError, match="here the weights would load"):
        run(overrides, config, tmp_path / "run")
    assert asked == [("mistralai/Mistral-7B-v0.1", Quantization.nf4, "cpu")]
    provenance = json.loads((tmp_path / "run" / "provenance.json").read_text(encoding="utf-8"))
    assert provenance["base_model"]["commit"] == "0123456789abcdef"


def test_every_derived_number_is_right(on_the_hub, overrides: list[str], compose_config):
    config = compose_config(*overrides)
    adapter = build_adapter_config(config)
    prepared = prepare(config)
    plan = plan_training(config, prepared, adapter)
    assert (prepared.hidden_size, prepared.precision) == (4096, Precision.fp32)
    assert plan.peak_lr == 2.9e-4  # 5e-4 x (2000 / 4096) ^ 0.781, two digits
    assert torch_dtype(config.model.dtype, CUDA) == torch.bfloat16
    stored = quantization_config(config.model, CUDA)
    assert (stored.load_in_4bit, stored.bnb_4bit_quant_type, stored.bnb_4bit_use_double_quant) == (True, "nf4", True)
    assert stored.bnb_4bit_compute_dtype == torch.bfloat16

    architecture = AutoConfig.from_pretrained(config.model.path)
    assert window_of(architecture) == 4096
    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(architecture)
        base = replace_with_bnb_linear(base, ["lm_head"], stored)
        base.is_loaded_in_4bit = base.is_quantized = True
        model = attach_adapter(base, adapter, config.seed)
    wrapped = Counter(name.rpartition(".")[2] for name in model.targeted_module_names)
    names = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    assert wrapped == dict.fromkeys(names, 32)
    assert count_parameters(model).trainable == 41_943_040
    assert {p.dtype for n, p in model.named_parameters() if p.requires_grad} == {torch.float32}


def test_a_real_run_in_miniature(overrides: list[str], compose_config, tmp_path: Path):
    base = save_miniature("mistral", tmp_path / "base", max_position_embeddings=512, sliding_window=256)
    typed = [
        *overrides, f"model.path={base}", "trainer.max_steps=4", "evaluation.max_new_tokens=4", "logger=none",
        "optim.lr=1e-2",
    ]  # fmt: skip
    folder = run(typed, compose_config(*typed), tmp_path / "run")
    summary = folder.read_summary()
    assert (summary["status"], summary["num_steps"]) == ("finished", 4)
    assert summary["metrics"]["test/loss"] < summary["metrics"]["base/test/loss"]
    assert folder.read_json("doctor.json")["padding_free"]["holds"]
    plain = AutoModelForCausalLM.from_pretrained(base)
    assert PeftModel.from_pretrained(plain, str(folder.adapter)).peft_config["default"].r == 16


def test_a_run_with_an_example_longer_than_the_window_is_padded_and_says_why(overrides, compose_config, tmp_path: Path):
    base = save_miniature("mistral", tmp_path / "base", max_position_embeddings=512, sliding_window=32)
    typed = [*overrides, f"model.path={base}", "trainer.max_steps=1", "evaluation=loss", "logger=none"]
    folder = run(typed, compose_config(*typed), tmp_path / "run")
    log = " ".join((folder.path / "run.log").read_text(encoding="utf-8").split())
    assert "micro-batches right-padded (the longest example has" in log
    assert "the model's sliding window 32)" in log
