"""The same adapter in every process that trains it, where its start is computed: made in the first, sent to the others.

Two devices that compute a start each by itself (a decomposition, gradients of examples) may round otherwise, deal out
other ranks, and then train different models.
"""

import copy
from typing import Any, cast

import torch
import torch.distributed as dist
from peft import LoraConfig, PeftConfig
from peft.tuners.lora.layer import LoraLayer
from transformers import PreTrainedModel

from tunelab.model.adapter import CausalLM, Start, attach_adapter
from tunelab.model.initializing import changes_the_base, initialization, remember_start


def is_computed(config: PeftConfig | None, start: Start) -> bool:
    """True where the adapter starts from a computation, and not from the seed or from a folder."""
    return bool(initialization(config)) and start.tuning.folder is None


@torch.no_grad()
def attach_same_adapter(model: PreTrainedModel, config: PeftConfig, seed: int, start: Start) -> CausalLM:
    """As `attach_adapter`, by all processes of the group: they end with the adapter and the base of the first."""
    wrapped: Any = None
    if dist.get_rank() == 0:
        with torch.enable_grad():  # a start may be a gradient
            wrapped = attach_adapter(model, config, seed, start)
    made: list[Any] = [wrapped.peft_config["default"] if wrapped is not None else None]
    dist.broadcast_object_list(made)
    if wrapped is None:
        wrapped = attach_adapter(model, _ordinary(made[0]), seed)
        wrapped.peft_config["default"] = made[0]
    prefix = wrapped.base_model.prefix  # a start may freeze one of the factors that it makes
    for name, parameter in wrapped.named_parameters():
        if parameter.requires_grad or prefix in name:
            dist.broadcast(parameter.data, src=0)
    if changes_the_base(config):
        for layer in wrapped.modules():
            if isinstance(layer, LoraLayer):
                dist.broadcast(cast(Any, layer.get_base_layer()).weight.data, src=0)
        remember_start(wrapped, config)
    return cast(CausalLM, wrapped)


def _ordinary(config: LoraConfig) -> LoraConfig:
    """An adapter of the same shape that starts as usual."""
    ordinary = copy.copy(config)
    if initialization(config) != "mica":  # by which PEFT also knows what of the adapter is trained
        ordinary.init_lora_weights = True
    ordinary.corda_config = ordinary.lora_ga_config = ordinary.eva_config = None
    ordinary.loftq_config = {}
    return ordinary
