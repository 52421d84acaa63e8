"""Takes an adapter off its base model, and finds out whether the base is as it was before."""

from collections.abc import Mapping
from typing import Any

import torch
from peft import PeftModel

from tunelab.model.adapter import CausalLM

NUM_VALUES = 16  # of each tensor that are compared, at least
Footprint = Mapping[str, tuple[object, ...]]


def footprint(model: torch.nn.Module) -> Footprint:
    """What tells that a model was changed, without reading all of its weights.

    Of each module the object, its hooks and what is set on it; of each tensor where its values lie, how often it was
    written to, and some of its values.
    """
    found: dict[str, tuple[object, ...]] = {}
    for name, module in model.named_modules():
        hooks = len(module._forward_hooks), len(module._forward_pre_hooks)  # pyright: ignore[reportPrivateUsage]
        found[f"module {name}"] = (id(module), *hooks, *sorted(vars(module)))
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        written = tensor._version  # pyright: ignore[reportPrivateUsage]
        found[f"tensor {name}"] = (id(tensor), tensor.data_ptr(), written, *_some_values(tensor))
    return found


def _some_values(tensor: torch.Tensor) -> list[float]:
    """OLoRA, for one, writes with `tensor.data`, which nothing counts."""
    step = max(1, tensor.numel() // NUM_VALUES)
    return tensor.detach().flatten()[::step].tolist()


def take_off(model: CausalLM, before: Footprint) -> bool:
    """Take the adapter off the base of `model`; whether that is as it was when its footprint was taken, `before`."""
    if not isinstance(model, PeftModel):
        return False
    base: Any = model.get_base_model() if model.active_peft_config.is_prompt_learning else _unloaded(model)
    return base is not None and footprint(base) == before


def _unloaded(model: PeftModel) -> Any:
    """The base without the layers that were put into it; None where this kind of adapter cannot be taken out."""
    unload: Any = getattr(model.base_model, "unload", None)
    return unload() if callable(unload) else None
