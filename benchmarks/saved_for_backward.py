"""Prints what each PEFT method keeps of a forward pass for the backward pass: KiB a token, on the embedded model.

    python benchmarks/saved_for_backward.py lora dora vera

Weights are left out. Tensors that share storage count once.
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore

from tunelab.compose import to_config
from tunelab.config import RunConfig
from tunelab.model.adapter import CausalLM, attach_adapter, build_peft_config
from tunelab.model.loading import load_base_model

CONF = Path(__file__).resolve().parents[1] / "conf"
ROWS, LENGTH = 8, 128


def saved_bytes(model: CausalLM) -> int:
    """Bytes kept by one forward pass over `ROWS` rows of `LENGTH` tokens."""
    weights = {each.untyped_storage().data_ptr() for each in (*model.parameters(), *model.buffers())}
    kept: dict[int, torch.Tensor] = {}  # holds the tensors, so that no address is used twice

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        address = tensor.untyped_storage().data_ptr()
        if address not in weights:
            kept[address] = tensor
        return tensor

    ids = torch.randint(0, 1000, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(input_ids=ids, labels=ids)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def main(methods: list[str]) -> None:
    ConfigStore.instance().store(name="run_schema", node=RunConfig)
    for method in methods:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = to_config(compose("train", overrides=[f"peft={method}"]), RunConfig)
        base = load_base_model(config.model, torch.device("cpu"))
        model = attach_adapter(base, build_peft_config(config.peft), seed=0)
        print(f"{method:20} {saved_bytes(model) / (ROWS * LENGTH * 1024):6.1f}")


if __name__ == "__main__":
    main(sys.argv[1:])
