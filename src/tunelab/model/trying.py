"""Tries, without weights, whether an adapter goes on a base model: usual modules, experts, patterns of ranks."""

import copy
import re
from typing import Any

from peft import LNTuningConfig, LoraConfig, PeftConfig
from transformers import PreTrainedModel

from tunelab.config import ModelConfig
from tunelab.errors import ModelError, first_line
from tunelab.model.adapter_folder import trained_token_ids
from tunelab.model.covering import expert_stacks, has_name, last_names, linear_names, text_paths
from tunelab.model.matching import attached_on_meta, empty_model
from tunelab.suggesting import did_you_mean

# What LoRA has to be where PEFT puts it on the experts that lie in one tensor a layer.
ON_EXPERTS: dict[str, tuple[Any, ...]] = {
    "lora_dropout": (0.0,),
    "use_dora": (False,),
    "lora_bias": (False,),
    "velora_config": (None,),
    "init_lora_weights": (True, False, "gaussian"),
}


def require_fit(config: PeftConfig, base: ModelConfig) -> None:
    """Refuse what PEFT refuses on this base whatever its weights: no module to be on, or sizes that do not go into it.

    Raises:
        ModelError: with the names there are.
    """
    model: Any = None if config.is_prompt_learning else empty_model(base)
    if model is None:
        return
    names = ", ".join(_norms(model) if isinstance(config, LNTuningConfig) else linear_names(model))
    usual = getattr(config, "target_modules", ()) is None
    try:
        wrapped = attached_on_meta(config, model)
    except ValueError as error:
        reason = first_line(error).rstrip(".!")
        said = _no_usual(config, model, reason, names) if usual else _misfit(config, reason, names)
        raise ModelError(said) from error
    except Exception:  # of PEFT's many kinds, some need weights: said when the adapter is made
        return
    if usual:
        _require_usual(wrapped, names)


def _no_usual(config: PeftConfig, model: Any, reason: str, names: str) -> str:
    return (
        f"peft: {type(config).__name__} has no usual modules in models of type {model.config.model_type!r} ({reason}); "
        f"{_naming(names)}, or use peft=lora."
    )


def _naming(names: str) -> str:
    return f"name them by peft.target_modules=[…] (there are {names})"


def _misfit(config: PeftConfig, reason: str, names: str) -> str:
    """One sentence for PEFT's `reason`, with the key that it is about."""
    if not getattr(config, "target_modules", True):
        return f"peft.target_modules: expected modules of this model, found none named; {_naming(names)}."
    if "exclude" in reason:
        return (
            "peft.exclude_modules: expected modules that are left for the adapter, found all of peft.target_modules "
            f"excluded by {getattr(config, 'exclude_modules', None)!r}; exclude fewer, or leave it out."
        )
    key = next((key for key in re.findall(r"\w+", reason) if "_" in key and hasattr(config, key)), None)
    if key is None:
        return f"peft: the adapter does not fit this model ({reason}); its linear modules are {names}."
    found = getattr(config, key)
    return f"peft.{key}: expected what fits this model, found {found!r} ({reason}); set peft.{key}=<value>."


def _require_usual(wrapped: Any, names: str) -> None:
    """Raises ModelError where a base has one of PEFT's usual modules for its type and lacks another."""
    found: list[str] = list(getattr(wrapped, "targeted_module_names", ()))
    usual: Any = wrapped.peft_config["default"].target_modules or ()
    for name in [usual] if isinstance(usual, str) else sorted(usual):  # TrainableTokens: the path of the embeddings
        if found and not has_name(name, found):
            raise ModelError(
                f"peft.target_modules: expected modules of this model, found {name!r} among PEFT's usual ones for its "
                f"type; {_naming(names)}."
            )


def require_token_ids(config: PeftConfig, base: ModelConfig) -> None:
    """Refuse ids of single tokens to be trained for which the embeddings have no row.

    Raises:
        ModelError: the first of them.
    """
    key = "token_indices" if hasattr(config, "token_indices") else "trainable_token_indices"
    ids = getattr(config, "token_indices", None) or trained_token_ids(config)
    model: Any = empty_model(base) if ids else None
    if model is None:
        return
    count = model.get_input_embeddings().weight.shape[0] + len(base.new_tokens)
    wrong = next((each for each in ids if type(each) is not int or not 0 <= each < count), None)
    if wrong is not None:
        raise ModelError(
            f"peft.{key}: expected ids of tokens from 0 to {count - 1}, found {wrong!r}; set 'peft.{key}=[<id>,<id>]'."
        )


def require_patterns_and_experts(config: PeftConfig, base: ModelConfig) -> None:
    """Refuse patterns that fit nothing, and what LoRA cannot do (dropout, DoRA, …) on experts in one tensor a layer.

    Raises:
        ModelError: for experts with the names of the other layers.
    """
    patterns = getattr(config, "rank_pattern", None) or getattr(config, "alpha_pattern", None)
    model: Any = empty_model(base) if isinstance(config, LoraConfig) and config.init_lora_weights != "eva" else None
    if model is None or not (patterns or expert_stacks(model)):
        return
    others = ",".join(linear_names(model))
    plain = copy.deepcopy(config)
    vars(plain).update({key: usual for key, (usual, *_) in ON_EXPERTS.items()})
    try:
        wrapped = attached_on_meta(plain, model)
    except Exception:  # of PEFT's many kinds: said when the adapter is made
        return
    special = [key for key, usual in ON_EXPERTS.items() if getattr(config, key) not in usual]
    if special and wrapped.targeted_parameter_names:
        raise ModelError(
            f"peft.{special[0]}: expected {ON_EXPERTS[special[0]][0]!r} on experts that lie in one tensor a layer, "
            f"found {getattr(config, special[0])!r}; set 'peft.target_modules=[{others}]', or peft=lora."
        )
    require_patterns(wrapped, config)


def require_patterns(model: Any, config: PeftConfig) -> None:
    """Refuse a pattern of ranks or alphas that no adapted module or parameter has: PEFT knows of modules alone.

    Raises:
        ModelError: the first of them.
    """
    names = [*getattr(model, "targeted_module_names", ()), *getattr(model, "targeted_parameter_names", ())]
    for key in ("rank_pattern", "alpha_pattern"):
        for pattern in getattr(config, key, None) or ():
            if not any(re.match(rf"(.*\.)?({pattern})$", name) for name in names):
                known = last_names(names)
                raise ModelError(
                    f"peft.{key}: expected patterns of adapted modules ({', '.join(known)}), found {pattern!r}"
                    f"{did_you_mean(pattern, known) or '.'}"
                )


def _norms(model: PreTrainedModel) -> list[str]:
    found = [path for path in text_paths(model) if "norm" in type(model.get_submodule(path)).__name__.lower()]
    return last_names(found)
