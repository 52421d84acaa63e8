"""Tells from the files alone, before any weights are loaded, whether an adapter was made for a base model."""

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import AdaLoraConfig, LoraConfig, PeftConfig, get_peft_model, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerBase

from tunelab.config import ModelConfig
from tunelab.embedded import locate
from tunelab.errors import ModelError
from tunelab.model.adapter_folder import Shapes, read_adapter_config, read_shapes
from tunelab.model.covering import fitted, missing_targets, named_targets
from tunelab.model.locating import reads_local_files_only, resolve_model
from tunelab.model.origin import RECORD


def check_adapter(folder: Path, base: ModelConfig, other_base: bool = False, key: str = "adapter") -> PeftConfig:
    """Compare the files of a PEFT folder with those of the base model, and return the adapter's configuration.

    Compared are the name of the base (its last part: a folder may have moved), unless `other_base`, and the names and
    shapes of all weights. `key` is the one that errors name.

    Raises:
        ModelError: the folder is no whole adapter, or the adapter was made for another base model.
    """
    config = read_adapter_config(folder, key)
    recorded = config.base_model_name_or_path
    if recorded and not other_base and not _same_base(recorded, base.path):
        raise ModelError(
            f"{key}: expected an adapter for model.path={base.path}, found one for {recorded!r} in {str(folder)!r}; "
            f"set model.path={recorded}, or other_base=true where the two are the same weights."
        )
    given = read_shapes(folder, key)
    _require_targets(config, base, folder, key)
    expected = _expected_shapes(config, base)
    wrong = next((name for name in sorted(given) if expected and not _fits(name, given, expected)), None)
    if wrong is not None:
        wanted = f"of shape {expected[wrong]}" if wrong in expected else "of no such name"
        raise ModelError(
            f"{key}: {str(folder)!r} does not fit this base model: expected a weight {wanted}, found "
            f"{wrong} of shape {given[wrong]}; set model.path=<the base it was trained on>."
        )
    missing = expected.keys() - given.keys()
    if missing:
        raise ModelError(
            f"{key}: {str(folder)!r} is incomplete: {len(missing)} of its weights are missing, first {min(missing)}; "
            "export it again."
        )
    return config


def check_whole(folder: Path, base: ModelConfig, architecture: Any, other_base: bool = False) -> None:
    """Compare the files of a fully tuned model with the base that it is measured against.

    Compared are the name of the base where export.json has it (as for adapters), unless `other_base`, and the sizes.
    `architecture` is the configuration of the base.

    Raises:
        ModelError: the model was tuned from another base.
    """
    recorded = _base_of_export(folder)
    if recorded and not other_base and not _same_base(recorded, base.path):
        raise ModelError(
            f"adapter: expected a model tuned from model.path={base.path}, found one from {recorded!r} in "
            f"{str(folder)!r}; set model.path={recorded}, or other_base=true where the two are the same weights."
        )
    sizes, expected = _read_json(folder / "config.json"), architecture.to_dict()
    keys = ("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads")
    other = next((key for key in keys if key in sizes and key in expected and sizes[key] != expected[key]), None)
    if other is not None:
        raise ModelError(
            f"adapter: expected a model tuned from model.path={base.path}, whose {other} is {expected[other]!r}, found "
            f"{sizes[other]!r} in {str(folder)!r}; set model.path=<the base it was trained on>."
        )


def _base_of_export(folder: Path) -> str | None:
    found: Any = _read_json(folder / RECORD).get("base_model")
    path: Any = found.get("path") if isinstance(found, dict) else None
    return path if isinstance(path, str) else None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def check_vocabulary(
    saved: PreTrainedTokenizerBase, base: PreTrainedTokenizerBase, folder: Path, key: str = "adapter"
) -> None:
    """Compare the tokenizer beside an adapter with that of the base; it may have tokens more, none other.

    Raises:
        ModelError: a token of the base is missing, or has another id.
    """
    ours, theirs = saved.get_vocab(), base.get_vocab()
    other = [token for token, number in theirs.items() if ours.get(token) != number]
    if other:
        first = min(other, key=lambda token: theirs[token])
        raise ModelError(
            f"{key}: the tokenizer in {str(folder)!r} is not that of the base model: expected {first!r} with the id "
            f"{theirs[first]}, found {ours.get(first)}; set model.path=<the base it was trained on>."
        )


def refuse_unmergeable(config: PeftConfig, base: ModelConfig) -> None:
    """Refuse an adapter that cannot become part of the base weights, where its kind tells.

    Raises:
        ModelError: it adds virtual tokens, or PEFT has no merging for it.
    """
    name = type(config).__name__.removesuffix("Config")
    if config.is_prompt_learning:
        raise ModelError(
            f"kind: expected an adapter inside the base weights for kind=merged, found {name}, whose virtual tokens "
            "cannot be merged; set kind=adapter."
        )
    wrapped: Any = on_meta(config, base)
    layers = [module for module in wrapped.modules() if isinstance(module, BaseTunerLayer)] if wrapped else []
    if any(type(layer).merge is BaseTunerLayer.merge for layer in layers) or (
        wrapped is not None and not callable(getattr(wrapped.base_model, "merge_and_unload", None))
    ):
        raise ModelError(f"kind: expected an adapter that PEFT can merge, found {name}; set kind=adapter.")


def _same_base(recorded: str, path: str) -> bool:
    if recorded == path or Path(locate(recorded)).expanduser().resolve() == Path(locate(path)).expanduser().resolve():
        return True
    return _last_name(recorded) == _last_name(path)


def _last_name(path: str) -> str:
    """The last part of a folder or hub name; of a folder in the hub's cache, that of the name it stands for."""
    parts = Path(locate(path)).parts
    cached = next((part for part in parts if part.startswith("models--")), None)
    return (cached.rpartition("--")[2] if cached else parts[-1] if parts else "").lower()


def _require_targets(config: PeftConfig, base: ModelConfig, folder: Path, key: str) -> None:
    """Raises ModelError where the base lacks a module that the adapter is on."""
    model, targets = empty_model(base), named_targets(config)
    missing = missing_targets(model, targets) if model is not None else []
    if missing and on_meta(config, base) is None:
        raise ModelError(
            f"{key}: {str(folder)!r} does not fit this base model: expected a module {missing[0]!r} in "
            f"{type(model).__name__}, found none; set model.path=<the base it was trained on>."
        )


def _expected_shapes(config: PeftConfig, base: ModelConfig) -> Shapes:
    """What an adapter of this configuration has on this base; empty where only loading can tell."""
    wrapped: Any = on_meta(config, base)
    if wrapped is None or isinstance(config, AdaLoraConfig):  # which saves the ranks that are left
        return {}
    state = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def on_meta(config: PeftConfig, base: ModelConfig) -> Any:
    """The base with an adapter of this configuration, without memory; None where that cannot be made."""
    if config.is_prompt_learning:
        return None
    model = empty_model(base)
    try:
        return attached_on_meta(config, model) if model is not None else None
    except Exception:  # of a hundred kinds of layers some cannot be made so: loading checks them
        return None


def attached_on_meta(config: PeftConfig, model: Any) -> Any:
    """The `empty_model` with a fresh adapter on it, which starts as usual; whatever PEFT raises passes through."""
    config = copy.deepcopy(config)
    if isinstance(config, LoraConfig):
        config.init_lora_weights = True  # others compute with the base weights
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an initialisation that is not wanted here
        return get_peft_model(model, fitted(config, model), low_cpu_mem_usage=True)


def empty_model(base: ModelConfig) -> Any:
    """The modules of the base model without memory for weights; None where only loading can make them.

    Raises:
        ModelError: there is no such model.
    """
    source = resolve_model(base.path, base.revision)
    try:
        architecture = AutoConfig.from_pretrained(
            source,
            revision=base.revision,
            trust_remote_code=False,
            local_files_only=reads_local_files_only(source),
        )
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(architecture)
    except Exception:  # said in a sentence when the architecture is checked, or the checkpoint's own code is needed
        return None


def _fits(name: str, given: Shapes, expected: Shapes) -> bool:
    """Whether a weight has its shape; rows of embeddings may have been added."""
    if name not in expected:
        return _is_extra(name)
    ours, theirs = given[name], expected[name]
    return ours == theirs or (len(ours) == len(theirs) and _is_extra(name) and ours[1:] == theirs[1:])


def _is_extra(name: str) -> bool:
    """Embeddings and heads, which come with new tokens."""
    return any(part in name for part in ("embed", "wte", "lm_head", "token"))
