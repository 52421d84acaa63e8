"""What a run leaves behind is read by transformers and PEFT alone."""

import json
from pathlib import Path

import pytest
import torch
from exported_runs import write_adapter
from families import save_miniature
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tunelab.config import ModelConfig
from tunelab.errors import CheckpointError
from tunelab.model.adapter import attach_adapter, build_peft_config
from tunelab.model.loading import load_base_model
from tunelab.model.saving import export_model
from tunelab.model.tokenizer import load_tokenizer

IDS = torch.tensor([[5, 9, 30, 77, 12]])
LORA = {"_target_": "peft.LoraConfig", "r": 4, "target_modules": "all-linear"}


@pytest.fixture
def exported(model_folder: Path, tmp_path: Path):
    """(model in memory, folder) of an export, adapter or full, with weights that were changed."""

    def make(node: dict, folder: Path = tmp_path / "adapter"):
        config = ModelConfig(path=str(model_folder))
        model = attach_adapter(load_base_model(config, torch.device("cpu")), build_peft_config(node), seed=0)
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * 0.05)
        export_model(model, load_tokenizer(config), str(model_folder), folder)
        return model.eval(), folder

    return make


def test_an_adapter_is_read_by_peft_alone(exported, model_folder: Path):
    model, folder = exported(LORA)
    assert not (folder / "model.safetensors").exists()
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == str(model_folder)
    base = AutoModelForCausalLM.from_pretrained(config["base_model_name_or_path"])
    again = PeftModel.from_pretrained(base, str(folder)).eval()
    with torch.no_grad():
        assert torch.equal(again(IDS).logits, model(IDS).logits)


def test_a_full_model_is_read_by_transformers_alone(exported):
    model, folder = exported({})
    again = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        assert torch.equal(again(IDS).logits, model(IDS).logits)


def test_experts_are_written_one_by_one_as_they_came(tmp_path: Path):
    """In memory those of a layer are one tensor."""
    base = save_miniature("mixtral", tmp_path / "base")
    tuned = write_adapter(base, tmp_path / "tuned", {})
    before, after = (load_file(folder / "model.safetensors") for folder in (base, tuned))
    assert before.keys() == after.keys()
    assert any(".experts.2." in name for name in after)
    assert not any(torch.equal(before[name], after[name]) for name in after)
    _, info = AutoModelForCausalLM.from_pretrained(tuned, output_loading_info=True)
    assert not any(info.values())


def test_a_full_model_generates_with_its_cache_as_the_base_did(exported, model_folder: Path):
    _, folder = exported({})
    base, ours = (AutoModelForCausalLM.from_pretrained(path).config.use_cache for path in (model_folder, folder))
    assert (base, ours) == (True, True)


def test_tokenizer_and_template_travel_along(exported, model_folder: Path):
    _, folder = exported(LORA)
    base, ours = (AutoTokenizer.from_pretrained(path) for path in (model_folder, folder))
    message = [{"role": "user", "content": "what is it?"}]
    assert ours.apply_chat_template(message, tokenize=False) == base.apply_chat_template(message, tokenize=False)
    assert ours("the answer is 5").input_ids == base("the answer is 5").input_ids


def test_an_earlier_export_is_replaced(exported, tmp_path: Path):
    old = tmp_path / "adapter"
    old.mkdir()
    (old / "stale.txt").touch()
    _, folder = exported(LORA)
    assert not (folder / "stale.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def changed_on_disk(monkeypatch: pytest.MonkeyPatch, kind: type, change) -> None:
    """Let the weights change between memory and disk."""
    original = kind.save_pretrained

    def save(self, folder, *args, **kwargs):
        original(self, folder, *args, **kwargs)
        [path] = Path(folder).glob("*.safetensors")
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path, {"format": "pt"})

    monkeypatch.setattr(kind, "save_pretrained", save)


def flip_one_bit(tensors: dict[str, torch.Tensor]) -> None:
    first = tensors[sorted(tensors)[0]]
    first.view(torch.int32).reshape(-1)[0] ^= 1


def drop_one(tensors: dict[str, torch.Tensor]) -> None:
    del tensors[sorted(tensors)[0]]


@pytest.mark.parametrize(
    ("node", "change"),
    [
        (LORA, flip_one_bit),
        (LORA, drop_one),
        ({}, flip_one_bit),
        pytest.param(
            {},
            drop_one,
        ),
    ],
)
def test_an_export_that_differs_is_reported_and_the_old_one_stays(
    node: dict, change, exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from transformers import PreTrainedModel

    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "old.txt").touch()
    changed_on_disk(monkeypatch, PeftModel if node else PreTrainedModel, change)
    with pytest.raises(CheckpointError, match="the export differs from the model in memory at "):
        exported(node)
    assert (tmp_path / "adapter" / "old.txt").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []  # nothing half-written
