"""The size of a PEFT method: the key that decides it, and the parameters it would train, counted without weights."""

import copy
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, get_peft_model
from transformers.pytorch_utils import Conv1D

from tunelab.config import ModelConfig
from tunelab.model.adapter import build_peft_config, count_parameters
from tunelab.model.covering import fitted, linear_paths, outside_text
from tunelab.model.initializing import initialization
from tunelab.model.matching import attached_on_meta, empty_model
from tunelab.model.size_keys import size_key
from tunelab.model.targets import last_layers
from tunelab.model.tuning import read_tuning
from tunelab.model.virtual_tokens import with_own_tokenizer

_DIVIDES_WIDTHS = ("oft_block_size", "block_size")
_MULTIPLE_OF = {"GraloraConfig": "gralora_k"}  # the rank is cut into so many parts
_EVEN = ("HRAConfig",)  # reflections cancel in pairs at the start
_SCALES = ("lora_alpha", "alpha", "psoft_alpha")  # where one equals the rank, the method wants it so (PiSSA, LoftQ)
SMALL = 50_000_000  # parameters of a model that may be made in memory where PEFT cannot do without


@dataclass(frozen=True, slots=True)
class Knob:
    """The key of `peft` that sets a method's size, and the values it may take: `values`, or multiples of `step`."""

    key: str
    now: int
    step: int = 1
    values: tuple[int, ...] = ()
    also: Mapping[str, float] = field(default_factory=dict[str, float])  # keys that go with it, as parts of it

    def settings(self, value: int) -> dict[str, int]:
        """The keys of `peft` that make it so large."""
        return {self.key: value, **{key: max(1, round(value * part)) for key, part in self.also.items()}}


def knob_of(node: Mapping[str, Any], model: ModelConfig) -> Knob | None:
    """The knob of the method that `peft` names; None where it has none, or the adapter was made before.

    Raises:
        TunelabError: the method, a key of it, or the base model is not known.
    """
    tuning = read_tuning(node)
    if tuning.folder is not None:
        return None
    config: Any = build_peft_config(with_own_tokenizer(node, model))
    if config is None:
        layers = _num_layers(model) if tuning.num_layers else 0
        return Knob("num_layers", tuning.num_layers, values=tuple(range(1, layers + 1))) if tuning.num_layers else None
    kind, key = type(config).__name__, size_key(node)
    if key == "oft_block_size" and not config.oft_block_size:
        key = None  # the number of blocks was set
    if key is None or not hasattr(config, key):
        return None
    now = getattr(config, key)
    if key == "init_r":
        return Knob(key, now, also={"target_r": config.target_r / now})
    if key in _DIVIDES_WIDTHS:
        return Knob(key, now, values=_divisors(_common_width(model)))
    step = getattr(config, _MULTIPLE_OF[kind]) if kind in _MULTIPLE_OF else 2 if kind in _EVEN else 1
    return Knob(key, now or 1, step, also={name: 1.0 for name in _SCALES if now and getattr(config, name, None) == now})


def count_trainable(node: Mapping[str, Any], model: ModelConfig) -> int | None:
    """The parameters that a run with this `peft` would train; None where only loading can tell.

    `model.new_tokens` are not among them: they are trained beside every method alike.

    Raises:
        TunelabError: the method, a key of it, or the base model is not known.
    """
    tuning = read_tuning(node)
    config = build_peft_config(with_own_tokenizer(node, model))
    base = empty_model(model)
    if base is None:
        return None
    if config is None:
        trained = [base] if tuning.num_layers is None else last_layers(base, tuning.num_layers)
        outside = [base.get_submodule(path) for path in outside_text(base)] if tuning.num_layers is None else []
        return sum(map(_num_parameters, trained)) - sum(map(_num_parameters, outside))
    config = _countable(config)
    try:
        return count_parameters(_attached(config, base)).trainable - _num_frozen_later(config, base)
    except Exception:  # of a hundred kinds of layers some read the weights they are put on
        return _count_in_memory(config, model) if _num_parameters(base) <= SMALL else None


def _attached(config: PeftConfig, base: Any) -> Any:
    if not config.is_prompt_learning:
        return attached_on_meta(config, base)
    with torch.device("meta"):
        return get_peft_model(base, copy.deepcopy(config))


def _countable(config: Any) -> Any:
    """VeLoRA's projections train nothing, and cannot be made without memory."""
    config = copy.deepcopy(config)
    if getattr(config, "velora_config", None) is not None:
        config.velora_config = None
    return config


def _num_frozen_later(config: PeftConfig, base: Any) -> int:
    """MiCA fixes its B, which an adapter with the usual start trains."""
    if initialization(config) != "mica":
        return 0
    return sum(p.numel() for name, p in base.named_parameters() if p.requires_grad and ".lora_B." in name)


def _count_in_memory(config: Any, model: ModelConfig) -> int | None:
    """With weights that nobody reads."""
    base = empty_model(model)
    base = base.to_empty(device="cpu")
    config = copy.deepcopy(config)
    if isinstance(config, LoraConfig):
        config.init_lora_weights = True
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of kernels that training will build
            for parameter in base.parameters():
                parameter.normal_(std=0.02, generator=torch.Generator().manual_seed(0))
            return count_parameters(get_peft_model(base, fitted(config, base))).trainable
    except Exception:  # said when the adapter is made
        return None


def _num_layers(model: ModelConfig) -> int:
    base = empty_model(model)
    return int(base.config.get_text_config().num_hidden_layers) if base is not None else 1


def _common_width(model: ModelConfig) -> int:
    """The greatest number that divides all widths of the linear layers; 0 where they are not known."""
    base: Any = empty_model(model)
    modules = [base.get_submodule(path) for path in linear_paths(base)] if base is not None else []
    return math.gcd(*(width for module in modules for width in linear_widths(module)))


def linear_widths(module: Any) -> tuple[int, int]:
    """The inputs and outputs of a linear layer, in the order of its class."""
    first, second = module.weight.shape if isinstance(module, Conv1D) else (module.in_features, module.out_features)
    return int(first), int(second)


def _divisors(number: int) -> tuple[int, ...]:
    """From 2: a block of one entry turns nothing."""
    return tuple(each for each in range(2, number + 1) if number % each == 0)


def _num_parameters(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
