"""Attaches a PEFT adapter to the base model, and says what will be trained."""

import inspect
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from peft import (
    AdaptionPromptConfig,
    LNTuningConfig,
    LoraConfig,
    PeftConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    load_peft_weights,
    prepare_model_for_kbit_training,
)
from peft.tuners.lora.layer import LoraLayer
from peft.tuners.tuners_utils import _maybe_include_all_linear_layers  # pyright: ignore[reportPrivateUsage]
from safetensors import SafetensorError
from transformers import PreTrainedModel

from tunelab.components import build_component, resolve_target
from tunelab.errors import ConfigError, ModelError, first_line
from tunelab.model.adapter_folder import is_adapter_folder
from tunelab.model.arguments import check_types, require_names_of_layers
from tunelab.model.budget import stand_ins
from tunelab.model.continuing import continued_config
from tunelab.model.covering import fitted, is_foreign_linear, linear_names, outside_text
from tunelab.model.initializing import (
    Batch,
    finish_initialization,
    initialization,
    look_at_examples,
    needs_examples,
    remember_start,
)
from tunelab.model.lowrank import add_low_rank_in_place
from tunelab.model.targets import (
    last_layers,
    require_modules,
    require_targets,
)
from tunelab.model.trying import require_patterns
from tunelab.model.tuning import OWN_KEYS, Tuning, check_numbers, read_tuning, refuse_unsupported
from tunelab.model.virtual_tokens import check_prompt_method

CausalLM = PreTrainedModel | PeftModel


@dataclass(frozen=True, slots=True)
class ParameterCount:
    """Numbers of parameters; quantised ones count as what they stand for."""

    trainable: int
    total: int

    def __str__(self) -> str:
        share = self.trainable / self.total
        return f"{self.trainable:,} trainable of {self.total:,} parameters ({share:.2%})"


@dataclass(frozen=True, slots=True)
class Start:
    """What an adapter is made from besides its configuration and the seed."""

    tuning: Tuning = field(default_factory=Tuning)
    batches: Sequence[Batch] = ()  # training examples, for a start computed from data
    revision: str | None = None  # of a base from the hub, for a start computed from its files


def build_peft_config(node: Mapping[str, Any]) -> PeftConfig | None:
    """Build the PEFT configuration that `peft` names; None for full fine-tuning.

    Raises:
        ConfigError: unknown class or argument, or a value the class refuses.
    """
    folder = read_tuning(node).folder
    if folder is not None:
        return continued_config(folder)
    if node.get("_target_") is None:
        return None
    node = {key: node[key] for key in node if key not in OWN_KEYS}  # which counts all the others as read
    if node.get("task_type", "CAUSAL_LM") != "CAUSAL_LM":
        raise ConfigError(f"peft.task_type: expected 'CAUSAL_LM', found {node['task_type']!r}; remove it.")
    parameters = inspect.signature(resolve_target(str(node["_target_"]), "peft", PeftConfig)).parameters
    if "total_step" in parameters:
        if "r" in node:
            raise ConfigError("peft.r: this method prunes peft.init_r to peft.target_r; set these instead.")
        node = {**stand_ins(node), **node}
    require_names_of_layers(node)
    config = build_component({"task_type": "CAUSAL_LM", **node}, "peft", PeftConfig)
    check_prompt_method(config)
    refuse_unsupported(config)
    check_numbers(config)
    check_types(config, node)
    return config


def trains_b_matrices(config: PeftConfig | None) -> bool:
    """True where the adapter is a product of two matrices, A and B, as LoRA's are."""
    return isinstance(config, LoraConfig)


def hands_on_float32(config: PeftConfig | None) -> bool:
    """True where modules of the base meet float32 that PEFT does not convert: whole trained modules, and prompts."""
    whole = isinstance(config, LNTuningConfig) or bool(getattr(config, "modules_to_save", None))
    return whole or isinstance(config, AdaptionPromptConfig)


def attach_adapter(
    model: PreTrainedModel, config: PeftConfig | None, seed: int, start: Start | None = None
) -> CausalLM:
    """Wrap `model` with a fresh adapter initialised from `seed`; without a config every weight becomes trainable.

    Adapter weights are float32 whatever the base is stored in; a quantised base is frozen and its norms made float32.

    Raises:
        ModelError: the adapter names no module of this model, or does not fit it.
    """
    start = start or Start()
    torch.manual_seed(seed)  # adapters are initialised when they are created
    if config is None:
        return _unfreeze(model.float(), start.tuning.num_layers)
    model = ready_for_adapter(model)
    folder = start.tuning.folder
    wrapped = load_adapter(model, folder, trainable=True) if folder else _new_adapter(model, config, start)
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    if folder is None:
        remember_start(wrapped, config)
    add_low_rank_in_place(wrapped)
    return wrapped.train()


def _new_adapter(model: PreTrainedModel, config: PeftConfig, start: Start) -> PeftModel:
    """Raises ModelError where the adapter fits no module."""
    require_modules(model, getattr(config, "modules_to_save", None) or [])
    config, name = fitted(config, model), initialization(config)
    names = linear_names(model)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The following .* keys did not match")  # checked below
            warnings.filterwarnings("ignore", message="lora with eva initialization used with low_cpu_mem_usage")
            warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False")  # PEFT sets it right itself
            warnings.filterwarnings("ignore", message="Model has `tie_word_embeddings=True`")  # said in our words
            if needs_examples(config):
                config = _maybe_include_all_linear_layers(config, model)
                look_at_examples(model, cast(LoraConfig, config), start.batches)
            if name == "loftq":
                vars(config).update(init_lora_weights=True, loftq_config={})  # starts as usual, and is replaced below
            wrapped = get_peft_model(model, config)
            require_patterns(wrapped, config)
            finish_initialization(wrapped, name, start.batches, start.revision)
    except ModelError:
        raise
    except Exception as error:  # PEFT raises many kinds for names and patterns that fit no module
        raise ModelError(
            f"peft: the adapter does not fit this model ({first_line(error)}); "
            f"its linear modules are {', '.join(names)}."
        ) from error
    require_targets(wrapped, getattr(config, "target_modules", None))
    return wrapped


def _unfreeze(model: PreTrainedModel, num_layers: int | None) -> PreTrainedModel:
    """Train everything that text passes, or the last `num_layers` decoder layers."""
    if num_layers is None:
        model.requires_grad_(True)
        for path in outside_text(model):
            model.get_submodule(path).requires_grad_(False)
        return model
    layers = last_layers(model, num_layers)
    model.requires_grad_(False)
    for layer in layers:
        layer.requires_grad_(True)
    return model


def load_adapter(model: PreTrainedModel, folder: Path, trainable: bool = False) -> PeftModel:
    """Put the adapter of a PEFT folder on `model`, frozen unless `trainable`.

    Raises:
        ModelError: the folder holds no adapter, or one made for another base model.
    """
    if not is_adapter_folder(folder):
        raise ModelError(f"adapter: expected a PEFT folder with adapter_config.json, found none in {str(folder)!r}.")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Found missing adapter keys")  # refused below, in a sentence
            warnings.filterwarnings("ignore", message="The following .* keys did not match")  # of experts: no modules
            loaded = PeftModel.from_pretrained(
                ready_for_adapter(model), str(folder), is_trainable=trainable, use_safetensors=True
            )
        given = load_peft_weights(str(folder), device="cpu")
        require_all_weights(loaded, given)
        _undo_rounding(loaded, given)
    except (RuntimeError, ValueError, OSError, LookupError, TypeError, SafetensorError) as error:
        raise ModelError(f"adapter: {str(folder)!r} does not fit this base model ({first_line(error)}).") from error
    check_prompt_method(loaded.active_peft_config)
    return loaded


def require_all_weights(model: PeftModel, given: Mapping[str, torch.Tensor], name: str = "default") -> None:
    """PEFT only warns of weights that a file lacks, and leaves them as they were initialised.

    Raises:
        ValueError: the adapter `name` of `model` has weights that `given`, its file, lacks, or that are no numbers.
    """
    wanted = set(get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False))
    if wanted - given.keys():
        raise ValueError(f"{len(wanted - given.keys())} of its weights are missing, first {min(wanted - given.keys())}")
    odd = [name for name, tensor in given.items() if not torch.isfinite(tensor).all()]
    if odd:
        raise ValueError(f"{len(odd)} of its weights are not finite, first {min(odd)}")


def _undo_rounding(model: PeftModel, given: Mapping[str, torch.Tensor]) -> None:
    """Put what is `given` in float32 in the place of what PEFT rounded to the base's type: the run measured that.

    PEFT makes the weights of its layers float32 before it loads them; not whole modules, biases and adaption prompts.
    """
    state = model.state_dict(keep_vars=True)
    held = get_peft_model_state_dict(model, state_dict=state, save_embedding_layers=False)
    for name in held.keys() & given.keys():
        rounded = held[name].dtype in (torch.float16, torch.bfloat16) and given[name].dtype == torch.float32
        if rounded and isinstance(held[name], torch.nn.Parameter):
            held[name].data = given[name].to(held[name].device)


def ready_for_adapter(model: PreTrainedModel) -> PreTrainedModel:
    """A quantised base gets its norms and head in float32, for training and for measuring alike."""
    quantised = getattr(model, "is_quantized", False)
    return prepare_model_for_kbit_training(model, use_gradient_checkpointing=False) if quantised else model


def skip_input_casts(model: CausalLM) -> None:
    """Stop PEFT from copying every LoRA input to float32: under autocast the copy is cast straight back.

    Other adapters do more than matrix products, some of which (Fourier transforms) half types do not have.
    """
    for module in model.modules():
        if isinstance(module, LoraLayer):
            setattr(module, "cast_input_dtype_enabled", False)  # noqa: B010 (a plain attribute of PEFT's, untyped)


def base_of(model: CausalLM) -> PreTrainedModel:
    """The transformers model inside, adapter layers included."""
    return cast(PreTrainedModel, model.get_base_model()) if isinstance(model, PeftModel) else model


def count_parameters(model: torch.nn.Module) -> ParameterCount:
    """Count parameters; a 4-bit weight holds two values a byte, and packages that keep weights in buffers are known."""
    trainable, total = 0, sum(map(_num_in_buffers, model.modules()))
    for parameter in model.parameters():
        count = parameter.numel()
        if type(parameter).__name__ == "Params4bit":
            count *= 2 * parameter.element_size()
        total += count
        trainable += count if parameter.requires_grad else 0
    return ParameterCount(trainable=trainable, total=total)


def _num_in_buffers(module: Any) -> int:
    """What a quantised layer stands for that has its weight in no parameter, as those for GPTQ and AWQ."""
    has_weight = isinstance(getattr(module, "weight", None), torch.nn.Parameter)
    return 0 if has_weight or not is_foreign_linear(module) else module.in_features * module.out_features
