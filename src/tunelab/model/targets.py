"""Finds the modules of a base model that are named to be trained: by name, by pattern, or as the last layers."""

import re
from collections.abc import Collection
from typing import Any

import torch
from peft import LoraConfig, PeftConfig
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tunelab.config import ModelConfig
from tunelab.errors import ModelError, first_line
from tunelab.model.covering import expert_stacks, is_all_linear, is_under, linear_paths, outside_text
from tunelab.model.matching import attached_on_meta, empty_model
from tunelab.suggesting import did_you_mean


def check_modules(config: PeftConfig | None, num_layers: int | None, base: ModelConfig) -> None:
    """Check, without weights, that the base model has the modules that are named to be trained.

    Raises:
        ModelError: a name or a pattern fits no module, or there are fewer layers.
    """
    targets: Any = getattr(config, "target_modules", None) or ()
    saved: Any = getattr(config, "modules_to_save", None) or ()
    parameters: Any = getattr(config, "target_parameters", None) or ()
    model: Any = empty_model(base) if num_layers or targets or saved or parameters else None
    if model is None:
        return
    if num_layers is not None:
        last_layers(model, num_layers)
    require_modules(model, saved)
    _require_parameters(model, parameters)
    missing = _missing_targets(model, () if is_all_linear(config) else targets)
    if missing:
        if isinstance(targets, str) and not _missing_targets(model, [targets]):
            raise ModelError(
                "peft.target_modules: expected a list of names, or a pattern of whole paths, found the "
                f"name {targets!r}; set 'peft.target_modules=[{targets}]'."
            )
        linear = linear_names(model)
        raise ModelError(
            f"peft.target_modules: expected modules of this model (its linear ones are {', '.join(linear)}), found "
            f"{missing[0]!r}{did_you_mean(missing[0], linear) or '.'}{_hint_of_experts(model)}"
        )
    _try_on_meta(config, model)


def _hint_of_experts(model: PreTrainedModel) -> str:
    names = sorted({path.rpartition(".")[2] for path in expert_stacks(model)})
    stacks = f"'peft.target_parameters=[{','.join(names)}]'"
    return f" The experts lie in one tensor a layer: name them by {stacks}." if names else ""


def _require_parameters(model: PreTrainedModel, wanted: Collection[str]) -> None:
    """Refuse names in `target_parameters` that fit no parameter, which PEFT passes over where another fits."""
    known = [path for path, _ in model.named_parameters()]
    for name in wanted:
        if not any(path == name or path.endswith(f".{name}") for path in known):
            stacks = sorted({path.rpartition(".")[2] for path in expert_stacks(model)})
            there = f" (the experts' are {', '.join(stacks)})" if stacks else ""
            raise ModelError(f"peft.target_parameters: expected parameters of this model{there}, found {name!r}.")


def _try_on_meta(config: PeftConfig | None, model: PreTrainedModel) -> None:
    """Refuse patterns that fit nothing, and what LoRA cannot do (dropout, DoRA, …) on experts in one tensor a layer.

    Raises:
        ModelError: for experts with the names of the other layers.
    """
    patterns = getattr(config, "rank_pattern", None) or getattr(config, "alpha_pattern", None)
    if not isinstance(config, LoraConfig) or not (patterns or expert_stacks(model)):
        return
    others = sorted({path.rpartition(".")[2] for path in linear_paths(model)})
    try:
        wrapped = attached_on_meta(config, model)
    except Exception as error:  # others of PEFT's many kinds are said when the adapter is made
        if "ParamWrapper" not in str(error):
            return
        raise ModelError(
            "peft.target_modules: expected layers that this adapter goes on, found experts that lie in one tensor a "
            f"layer ({first_line(error).rstrip('.')}); set 'peft.target_modules=[{','.join(others)}]', or use plain "
            "LoRA without dropout."
        ) from error
    require_patterns(wrapped, config)


def _missing_targets(model: PreTrainedModel, targets: Any) -> list[str]:
    """Those of `targets`, a pattern or names, that fit no module, by PEFT's rules."""
    names = _paths(model)
    if not isinstance(targets, str):
        return [t for t in sorted(map(str, targets)) if not any(n == t or n.endswith(f".{t}") for n in names)]
    try:
        return [] if any(re.fullmatch(targets, name) for name in names) else [targets]
    except re.error:
        return [targets]


def linear_names(model: PreTrainedModel) -> list[str]:
    """Last names of the linear modules of `model`, in order."""
    kinds = (torch.nn.Linear, Conv1D)
    return sorted({p.rpartition(".")[2] for p in _paths(model) if isinstance(model.get_submodule(p), kinds)})


def _paths(model: PreTrainedModel) -> list[str]:
    """Paths of the modules of the text model, which alone is trained."""
    outside = outside_text(model)
    return [path for path, _ in model.named_modules() if path and not is_under(path, outside)]


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
        if not any(module == name or module.endswith(f".{name}") for module in found):
            known = {module.rpartition(".")[2] for module in found}
            raise ModelError(
                f"peft.target_modules: expected names of modules, found {name!r}{did_you_mean(name, sorted(known))}."
            )


def require_patterns(model: Any, config: PeftConfig) -> None:
    """Refuse a pattern of ranks or alphas that no adapted module or parameter has: PEFT knows of modules alone.

    Raises:
        ModelError: the first of them.
    """
    names = [*getattr(model, "targeted_module_names", ()), *getattr(model, "targeted_parameter_names", ())]
    for key in ("rank_pattern", "alpha_pattern"):
        for pattern in getattr(config, key, None) or ():
            if not any(re.match(rf"(.*\.)?({pattern})$", name) for name in names):
                known = sorted({name.rpartition(".")[2] for name in names})
                raise ModelError(
                    f"peft.{key}: expected patterns of adapted modules ({', '.join(known)}), found {pattern!r}"
                    f"{did_you_mean(pattern, known) or '.'}"
                )


def require_modules(model: PreTrainedModel, wanted: Collection[str]) -> None:
    """Refuse names in `modules_to_save` that no module has, which PEFT passes over.

    Raises:
        ModelError: the first of them.
    """
    known = {name.rpartition(".")[2] for name, _ in model.named_modules()} - {""}
    for name in wanted:
        if name.rpartition(".")[2] not in known:
            raise ModelError(
                f"peft.modules_to_save: expected names of modules, found {name!r}"
                f"{did_you_mean(name, sorted(known)) or '.'}"
            )
