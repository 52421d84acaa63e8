"""Merges an adapter into its base model, and writes whole models that plain transformers reads."""

import warnings
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, PreTrainedModel

from tunelab.config import DType
from tunelab.errors import ModelError, first_line

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


def reload_model(folder: Path, device: torch.device) -> PreTrainedModel:
    """What plain transformers makes of the folder, in the type it was stored in."""
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        str(folder), dtype="auto", use_safetensors=True, local_files_only=True
    )
    return cast(PreTrainedModel, loaded.to(device).eval())
