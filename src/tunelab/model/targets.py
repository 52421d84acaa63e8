"""Finds the modules of a base model that are named to be trained: by name, by pattern, or as the last layers."""

from collections.abc import Collection
from typing import Any

import torch
from peft import PeftConfig
from transformers import PreTrainedModel

from tunelab.config import ModelConfig
from tunelab.errors import ModelError
from tunelab.model.covering import (
    expert_stacks,
    has_name,
    last_names,
    linear_names,
    missing_targets,
    named_targets,
)
from tunelab.model.matching import empty_model
from tunelab.model.trying import require_fit, require_patterns_and_experts, require_token_ids
from tunelab.suggesting import did_you_mean


def check_modules(config: PeftConfig | None, num_layers: int | None, base: ModelConfig) -> None:
    """Check, without weights, that the base model has the modules that are named to be trained.

    Raises:
        ModelError: a name or a pattern fits no module, or there are fewer layers.
    """
    targets = named_targets(config)
    saved: Any = getattr(config, "modules_to_save", None) or ()
    parameters: Any = getattr(config, "target_parameters", None) or ()
    model: Any = empty_model(base) if config is not None or num_layers else None
    if model is None:
        return
    if num_layers is not None:
        last_layers(model, num_layers)
    require_modules(model, saved)
    _require_parameters(model, parameters)
    missing = missing_targets(model, targets)
    if missing:
        if isinstance(targets, str) and not missing_targets(model, [targets]):
            raise ModelError(
                "peft.target_modules: expected a list of names, or a pattern of whole paths, found the "
                f"name {targets!r}; set 'peft.target_modules=[{targets}]'."
            )
        linear = linear_names(model)
        raise ModelError(
            f"peft.target_modules: expected modules of this model (its linear ones are {', '.join(linear)}), found "
            f"{missing[0]!r}{did_you_mean(missing[0], linear) or '.'}{_hint_of_experts(model)}"
        )
    if config is not None:
        _require_layers(model, config)
        require_token_ids(config, base)
        require_patterns_and_experts(config, base)
        require_fit(config, base)


def _require_layers(model: PreTrainedModel, config: PeftConfig) -> None:
    """Refuse numbers in `layers_to_transform` that no layer has, which PEFT passes over where another fits."""
    given: Any = getattr(config, "layers_to_transform", None)
    wanted: list[Any] = [] if given is None else list(given) if isinstance(given, list | tuple) else [given]
    count = int(getattr(model.config.get_text_config(), "num_hidden_layers", 0))
    wrong = [each for each in wanted if count and not (type(each) is int and 0 <= each < count)]
    if wrong:
        raise ModelError(
            f"peft.layers_to_transform: expected numbers of decoder layers, from 0 to {count - 1}, found {wrong[0]!r}; "
            f"set 'peft.layers_to_transform=[{count - 1}]' for the last."
        )


def _hint_of_experts(model: PreTrainedModel) -> str:
    names = last_names(expert_stacks(model))
    stacks = f"'peft.target_parameters=[{','.join(names)}]'"
    return f" The experts lie in one tensor a layer: name them by {stacks}." if names else ""


def _require_parameters(model: PreTrainedModel, wanted: Collection[str]) -> None:
    """Refuse names in `target_parameters` that fit no parameter, which PEFT passes over where another fits."""
    known = [path for path, _ in model.named_parameters()]
    for name in wanted:
        if not has_name(name, known):
            stacks = last_names(expert_stacks(model))
            there = f" (the experts' are {', '.join(stacks)})" if stacks else ""
            raise ModelError(f"peft.target_parameters: expected parameters of this model{there}, found {name!r}.")


def last_layers(model: PreTrainedModel, num_layers: int) -> torch.nn.ModuleList:
    """The last `num_layers` decoder layers.

    Raises:
        ModelError: there are fewer, or none that can be told.
    """
    layers = _decoder_layers(model)
    if num_layers > len(layers):
        raise ModelError(
            f"peft.num_layers: expected at most the {len(layers)} decoder layers of this model, found {num_layers}; "
            f"set peft.num_layers={len(layers)}, or peft=none to train everything."
        )
    return layers[-num_layers:]


def _decoder_layers(model: PreTrainedModel) -> torch.nn.ModuleList:
    """The outermost list of as many modules as the configuration has layers: a list of experts may be as long."""
    count = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    lists = [(name, module) for name, module in model.named_modules() if isinstance(module, torch.nn.ModuleList)]
    fitting = [(name.count("."), module) for name, module in lists if len(module) == count]
    if not fitting:
        raise ModelError(
            f"peft.num_layers: expected a list of the decoder layers ({count}) in {type(model).__name__}, found none; "
            "use peft=none to train everything."
        )
    return min(fitting, key=lambda each: each[0])[1]


def require_targets(model: Any, wanted: object) -> None:
    """Refuse names in `target_modules` that none of the adapted modules has: PEFT is content where one of several fits.

    Raises:
        ModelError: the first of them.
    """
    found: list[str] = list(getattr(model, "targeted_module_names", ()))
    for name in sorted(wanted) if isinstance(wanted, set | list) and found else ():
        if not has_name(name, found):
            hint = did_you_mean(name, last_names(found)) or "."
            raise ModelError(f"peft.target_modules: expected names of modules, found {name!r}{hint}")


def require_modules(model: PreTrainedModel, wanted: Collection[str]) -> None:
    """Refuse names in `modules_to_save` that no module has, which PEFT passes over.

    Raises:
        ModelError: the first of them.
    """
    known = last_names(name for name, _ in model.named_modules() if name)
    for name in wanted:
        if name.rpartition(".")[2] not in known:
            raise ModelError(
                f"peft.modules_to_save: expected names of modules, found {name!r}{did_you_mean(name, known) or '.'}"
            )
