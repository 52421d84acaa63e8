"""Adapters come off the base without a trace, or it is known that they do not."""

import pytest
import torch
from exported_runs import IDS, LORA, write_adapter

from tunelab.config import ModelConfig
from tunelab.model.adapter import load_adapter
from tunelab.model.loading import load_base_model
from tunelab.model.taking_off import footprint, take_off

TRACELESS = {
    "lora": LORA,
    "dora": {**LORA, "use_dora": True},
    "ia3": {"_target_": "peft.IA3Config", "target_modules": ["k_proj"], "feedforward_modules": []},
    "tokens": {**LORA, "trainable_token_indices": [5, 9]},
    "prompt": {"_target_": "peft.PromptTuningConfig", "num_virtual_tokens": 3},
    "prefix": {"_target_": "peft.PrefixTuningConfig", "num_virtual_tokens": 3},
}
LASTING = {
    "whole modules": {**LORA, "modules_to_save": ["lm_head"]},
    "pissa": {**LORA, "init_lora_weights": "pissa"},
    "olora": {**LORA, "init_lora_weights": "olora"},
    "adaption prompt": {"_target_": "peft.AdaptionPromptConfig", "adapter_len": 4, "adapter_layers": 1},
}


@pytest.mark.parametrize("name", [*TRACELESS, *LASTING])
def test_the_base_is_as_it_was_or_known_not_to_be(name, model_folder, tmp_path):
    folder = write_adapter(model_folder, tmp_path / "adapter", {**TRACELESS, **LASTING}[name])
    base = load_base_model(ModelConfig(path=str(model_folder)), torch.device("cpu")).eval()
    with torch.no_grad():
        expected, before = base(IDS).logits, footprint(base)
        model = load_adapter(base, folder).eval()
        assert not torch.equal(model(IDS).logits[:, -IDS.shape[1] :], expected)
        assert take_off(model, before) == (name in TRACELESS)
        if name in TRACELESS:
            assert torch.equal(base(IDS).logits, expected)


def test_a_changed_weight_shows(model_folder):
    base = load_base_model(ModelConfig(path=str(model_folder)), torch.device("cpu"))
    before = footprint(base)
    base.lm_head.weight.data.mul_(1.01)
    assert footprint(base) != before
