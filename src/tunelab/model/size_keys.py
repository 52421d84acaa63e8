"""The key that sets the size of a PEFT method, known by the name of its class: saying which it is needs no torch."""

from collections.abc import Mapping
from typing import Any

# Where it is not the rank `r`. None: there is no whole number that sets the size alone.
_KEYS: Mapping[str, str | None] = {
    "AdaLoraConfig": "init_r", "OFTConfig": "oft_block_size", "BOFTConfig": None, "C3AConfig": "block_size",
    "FourierFTConfig": "n_frequency", "WaveFTConfig": "n_frequency", "UniLoraConfig": "theta_d_length",
    "TinyLoraConfig": "u", "PromptTuningConfig": "num_virtual_tokens", "PrefixTuningConfig": "num_virtual_tokens",
    "CartridgeConfig": "num_virtual_tokens", "PromptEncoderConfig": "encoder_hidden_size",
    "AdaptionPromptConfig": "adapter_len", "SupertuningConfig": None,
}  # fmt: skip


def size_key(node: Mapping[str, Any]) -> str | None:
    """The key of `peft` for the method that `node` names, whether or not its class has it; None where there is none."""
    if node.get("from_adapter"):
        return None
    target = node.get("_target_")
    if target is None:
        return "num_layers" if node.get("num_layers") else None
    return _KEYS.get(str(target).rpartition(".")[2], "r")
