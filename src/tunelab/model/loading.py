"""Loads the base model: dtype, quantisation, safetensors only, code of the checkpoint only where asked for."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from tunelab.config import DType, ModelConfig, Quantization
from tunelab.errors import ModelError, first_line
from tunelab.model.locating import reads_local_files_only, refuse_code, resolve_model
from tunelab.model.new_tokens import add_embeddings, new_token_ids
from tunelab.model.quantizing import compute_with_stored_weights, quantization_config
from tunelab.model.tokenizer import load_tokenizer
from tunelab.model.weights import check_weight_files


def check_base_model(config: ModelConfig, num_token_ids: int) -> Any:
    """Read only the architecture of the base model (no weights) and return it.

    Raises:
        ModelError: there is no causal language model, it needs code of its own, the tokenizer has more ids than it has
            embeddings, or a weight file of a folder is missing or damaged.
    """
    source = resolve_model(config.path, config.revision)
    try:
        architecture = AutoConfig.from_pretrained(
            source,
            revision=config.revision,
            trust_remote_code=config.trust_remote_code,
            local_files_only=reads_local_files_only(source),
        )
    except (OSError, ValueError, KeyError, TypeError, StrictDataclassError) as error:
        refuse_code(config.path, error)
        raise ModelError(f"model.path: {config.path!r} has no usable config.json ({first_line(error)}).") from error
    brings_code = "AutoModelForCausalLM" in (getattr(architecture, "auto_map", None) or {})
    known = type(architecture) in AutoModelForCausalLM._model_mapping  # pyright: ignore[reportPrivateUsage]
    if not known and brings_code and not config.trust_remote_code:
        refuse_code(config.path)
    if not known and not brings_code:
        raise ModelError(
            f"model.path: expected a causal language model, found {architecture.model_type!r} in {config.path!r}."
        )
    num_embeddings = getattr(architecture.get_text_config(), "vocab_size", None)  # code of a checkpoint may have none
    if num_embeddings is not None and num_token_ids - len(config.new_tokens) > num_embeddings:
        raise ModelError(
            f"model.path: the tokenizer of {config.path!r} has {num_token_ids} ids, the model only "
            f"{num_embeddings} embeddings; use the tokenizer that belongs to the weights."
        )
    if Path(source).is_dir():
        check_weight_files(Path(source))
    return architecture


def tuned_as_base(config: ModelConfig, folder: Path) -> ModelConfig:
    """A fully tuned model that was written to `folder`: float32, as it was while it trained, its new tokens in it."""
    return replace(
        config,
        path=str(folder),
        revision=None,
        dtype=DType.float32,
        quantization=Quantization.none,
        new_tokens=[],
    )


def load_base_model(config: ModelConfig, device: torch.device) -> PreTrainedModel:
    """Load the weights onto `device`, in train mode (they arrive in eval mode), with rows for `config.new_tokens`.

    Raises:
        ModelError: weights are missing or damaged, or the quantisation is not available here.
    """
    source = resolve_model(config.path, config.revision)
    here = {"local_files_only": reads_local_files_only(source)}
    options: dict[str, Any] = {"dtype": torch_dtype(config.dtype, device), "adapter_kwargs": here, **here}
    if config.quantization is not Quantization.none:
        options["quantization_config"] = quantization_config(config, device)
    if device.type != "cpu" or "quantization_config" in options:
        options["device_map"] = {"": device}
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source,
            revision=config.revision,
            trust_remote_code=config.trust_remote_code,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            f"model.path: the weights of {config.path!r} cannot be loaded ({first_line(error)})."
        ) from error
    model, info = cast(tuple[PreTrainedModel, dict[str, Any]], loaded)
    absent = sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]]))
    if absent:  # transformers only warns, and leaves them random
        raise ModelError(
            f"model.path: {len(absent)} weights of {config.path!r} are missing or of another shape, first "
            f"{absent[0]}; get the files again."
        )
    if config.new_tokens:
        add_embeddings(model, new_token_ids(load_tokenizer(config), config.new_tokens))
    compute_with_stored_weights(model, device)
    return model.train()


def load_unquantized(config: ModelConfig, device: torch.device) -> PreTrainedModel:
    """Load the weights in float32, whatever the run stores them in: what adapters are merged onto.

    Raises:
        ModelError: as `load_base_model`.
    """
    return load_base_model(replace(config, dtype=DType.float32, quantization=Quantization.none), device)


def enable_checkpointing(model: PreTrainedModel) -> None:
    """Recompute activations in the backward pass instead of keeping them (non-reentrant)."""
    # transformers 5.18 gave the method its new name; the old one warns.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def torch_dtype(dtype: DType, device: torch.device) -> torch.dtype | str:
    """`auto` keeps the checkpoint's type, except on the CPU, which computes fastest and most exactly in float32."""
    if dtype is DType.auto:
        return torch.float32 if device.type == "cpu" else "auto"
    return cast(torch.dtype, getattr(torch, dtype.value))
