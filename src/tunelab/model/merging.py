"""Merges an adapter into its base model, and writes whole models that plain transformers reads."""

import warnings
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from peft.utils.integrations import dequantize_bnb_weight
from transformers import AutoModelForCausalLM, PreTrainedModel

from tunelab.config import DType, ModelConfig
from tunelab.errors import ModelError, first_line
from tunelab.model.loading import load_base_model, load_unquantized
from tunelab.model.quantizing import stored_method

SHARD_SIZE = "5GB"


def merge_adapter(model: PeftModel) -> PreTrainedModel:
    """The base model with the adapter's change added to its weights, in their type; `model` is used up.

    Raises:
        ModelError: PEFT cannot merge this adapter, or the sum holds numbers that are not finite.
    """
    tuner: Any = model.base_model
    try:
        with warnings.catch_warnings():
            # Whether tied weights were merged right is shown by the comparison of the logits afterwards.
            warnings.filterwarnings("ignore", message="Model has `tie_word_embeddings=True`")
            return cast(PreTrainedModel, tuner.merge_and_unload(safe_merge=True))
    except torch.OutOfMemoryError:
        raise
    except (ValueError, TypeError, NotImplementedError, RuntimeError) as error:  # how PEFT's methods refuse
        kind = type(model.active_peft_config).__name__.removesuffix("Config")
        raise ModelError(
            f"kind: expected an adapter that PEFT can merge, found {kind} ({first_line(error)}); set kind=adapter."
        ) from error


@torch.no_grad()
def load_dequantized(config: ModelConfig, device: torch.device) -> PreTrainedModel:
    """The base in float32, where 4-bit weights with the values that they stand for.

    Raises:
        ModelError: as `load_base_model`.
    """
    model, stored = load_unquantized(config, device), load_base_model(config, device)
    for name, module in stored.named_modules():
        if type(module).__name__ == "Linear4bit":
            model.get_parameter(f"{name}.weight").copy_(dequantize_bnb_weight(cast(Any, module).weight))
    return model


def refuse_quantized_checkpoint(config: ModelConfig, architecture: Any) -> None:
    """Refuse to merge into weights that are stored quantised: nobody has the others.

    Raises:
        ModelError: with what to do instead.
    """
    method = stored_method(architecture)
    if method is not None:
        raise ModelError(
            f"kind: expected a base whose weights are not quantised for kind=merged, found {config.path!r}, stored by "
            f"{method}; set kind=adapter, or name its unquantised weights: adapter=<PEFT folder> model.path=<them> "
            "other_base=true."
        )


def stored_dtype(dtype: DType, architecture: Any) -> torch.dtype:
    """The type to store in; `auto` is the base checkpoint's own (float32 where it names none)."""
    if dtype is not DType.auto:
        return cast(torch.dtype, getattr(torch, dtype.value))
    named = getattr(architecture, "dtype", None) or getattr(architecture.get_text_config(), "dtype", None)
    return named if isinstance(named, torch.dtype) else torch.float32


def write_model(model: PreTrainedModel, dtype: torch.dtype, generation: Any, folder: Path) -> None:
    """Write the weights in `dtype`, in safetensors of at most 5 GB each, with the configuration."""
    model.generation_config = generation
    for parameter in model.parameters():  # buffers stay: transformers computes rotary angles in float32
        parameter.data = parameter.data.to(dtype)
    model.save_pretrained(str(folder), max_shard_size=SHARD_SIZE)


def reload_model(folder: Path, device: torch.device, trust_remote_code: bool = False) -> PreTrainedModel:
    """What plain transformers makes of the folder, in the type it was stored in."""
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        str(folder), dtype="auto", use_safetensors=True, local_files_only=True, trust_remote_code=trust_remote_code
    )
    return cast(PreTrainedModel, loaded.to(device).eval())
