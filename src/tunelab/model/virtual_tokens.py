"""Virtual tokens: what a prompt method trains in front of every row, as inputs or as keys and values of each layer.

The model itself is called, not PEFT's wrapper: it takes positions of its own, an expanded prompt instead of a copy for
each row, and hidden states instead of logits. That both compute the same is a test.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftConfig, PeftModel, PeftType, PromptTuningConfig
from transformers import DynamicCache, PreTrainedModel

from tunelab.config import Attention, ModelConfig
from tunelab.errors import ConfigError, ModelError
from tunelab.model.adapter_folder import is_adapter_folder, read_adapter_config
from tunelab.model.locating import resolve_model

IN_CACHE = (PeftType.PREFIX_TUNING, PeftType.CARTRIDGE)
IN_INPUT = (PeftType.PROMPT_TUNING, PeftType.P_TUNING)


def check_prompt_method(config: PeftConfig) -> None:
    """Refuse a prompt method that cannot be trained here, or without a token to train; pass other methods.

    Raises:
        ConfigError: its class or a number does not do.
    """
    if not config.is_prompt_learning:
        return
    name = type(config).__name__
    if config.peft_type not in (*IN_CACHE, *IN_INPUT):
        raise ConfigError(
            f"peft._target_: {name} needs more than the examples (task ids, or the types of the tokens of a context); "
            "use peft=prompt_tuning, p_tuning, prefix_tuning or cartridge."
        )
    for key in ("num_virtual_tokens", "encoder_hidden_size"):
        number = getattr(config, key, None)
        if (number is not None or key == "num_virtual_tokens") and (type(number) is not int or number < 1):
            raise ConfigError(f"peft.{key}: expected an integer of at least 1, found {number!r}; set peft.{key}=20.")
    if isinstance(config, PromptTuningConfig) and config.prompt_tuning_init not in ("RANDOM", "SAMPLE_VOCAB", "TEXT"):
        raise ConfigError(
            f"peft.prompt_tuning_init: expected RANDOM, SAMPLE_VOCAB or TEXT, found {config.prompt_tuning_init!r}."
        )


def check_prompt_training(adapter: PeftConfig | None, attention: Attention, checkpointing: bool) -> None:
    """Refuse what does not go together with virtual tokens.

    Raises:
        ConfigError: padding-free rows, or recomputed activations where the tokens are keys and values.
    """
    if attention is Attention.varlen:
        raise ConfigError(
            "model.attention: padding-free training was asked for, but virtual tokens stand in front of each example, "
            "one a row; set model.attention=auto or padded."
        )
    if checkpointing and keeps_tokens_in_cache(adapter):
        raise ConfigError(
            "trainer.gradient_checkpointing: expected false for virtual tokens that are keys and values, which "
            "recomputed layers do not see, found true; set it to false, or use peft=prompt_tuning or p_tuning."
        )


def check_positions(architecture: Any, longest: int, num_virtual: int) -> None:
    """Check that `num_virtual` tokens and an example of `longest` tokens fit the positions of the base model.

    Raises:
        ConfigError: there are too few positions; the message says which number does.
    """
    num_positions: int | None = getattr(architecture, "max_position_embeddings", None)
    window: int | None = getattr(architecture, "sliding_window", None)
    if num_virtual >= (reach := min(filter(None, (num_positions, window)), default=num_virtual + 1)):
        raise ConfigError(
            f"peft.num_virtual_tokens: expected fewer than the {reach} positions that a token of the base model sees, "
            f"found {num_virtual}; set peft.num_virtual_tokens=20."
        )
    if num_positions is None or num_virtual + longest <= num_positions:
        return
    free = num_positions - num_virtual
    taken = f", {num_virtual} of them for peft.num_virtual_tokens" if num_virtual else ""
    raise ConfigError(
        f"data.max_length: expected at most {free} tokens ({num_positions} positions of the base model{taken}), found "
        f"an example of {longest}; set data.max_length={free}."
    )


def with_own_tokenizer(node: Mapping[str, Any], model: ModelConfig) -> Mapping[str, Any]:
    """The `peft` section, with the tokenizer of the base model where a text is to be the first value of the prompt.

    Raises:
        ConfigError: the text is missing, would be ignored, or is to be read by another tokenizer.
    """
    text, wanted = node.get("prompt_tuning_init_text"), node.get("prompt_tuning_init") == "TEXT"
    if node.get("tokenizer_name_or_path") or node.get("tokenizer_kwargs"):
        raise ConfigError(
            "peft.tokenizer_name_or_path: expected none, since the text chooses embeddings of the base model by "
            "the ids of its own tokenizer; remove it, and peft.tokenizer_kwargs."
        )
    if wanted != bool(text):
        found = "it without a text" if wanted else "a text"
        remedy = "peft.prompt_tuning_init_text=<text>" if wanted else "peft.prompt_tuning_init=TEXT"
        raise ConfigError(f"peft.prompt_tuning_init: expected TEXT together with a text, found {found}; set {remedy}.")
    if not wanted:
        return node
    source = resolve_model(model.path, model.revision)
    options = {} if Path(source).is_dir() else {"revision": model.revision}
    return cast(Any, node) | {"tokenizer_name_or_path": source, "tokenizer_kwargs": options}


def num_virtual_tokens(adapter: PeftConfig | torch.nn.Module | None) -> int:
    """Virtual tokens that an adapter, or the active adapter of a model, puts in front of every row; often 0."""
    config = _config(adapter)
    return int(config.num_virtual_tokens) if getattr(config, "is_prompt_learning", False) else 0


def num_virtual_tokens_of_folder(folder: Path) -> int:
    """As `num_virtual_tokens`, of an adapter on disk; 0 where there is none.

    Raises:
        ModelError: its configuration cannot be read.
    """
    return num_virtual_tokens(read_adapter_config(folder)) if is_adapter_folder(folder) else 0


def keeps_tokens_in_cache(adapter: PeftConfig | torch.nn.Module | None) -> bool:
    """True for virtual tokens that are keys and values of each layer, False for inputs of the first and for none."""
    return getattr(_config(adapter), "peft_type", None) in IN_CACHE


def put_in_front(model: torch.nn.Module, inputs: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Put the virtual tokens of `model`, if any, in front of the rows of `inputs`, the arguments of its base model.

    Takes `input_ids`, `attention_mask` and `position_ids`, each (rows, width). Returns the arguments, and how many
    positions in front of each row of the output belong to no token.

    Raises:
        ModelError: rows that hold several examples, in front of each of which they would have to stand.
    """
    count = num_virtual_tokens(model)
    if not count:
        return inputs, 0
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    if mask is None:
        raise ModelError("model.attention: virtual tokens stand in front of one example a row; set it to padded.")
    rows = ids.shape[0]
    positions = inputs["position_ids"] + count
    fronted = inputs | {"attention_mask": torch.cat([mask.new_ones(rows, count), mask], dim=1)}
    if keeps_tokens_in_cache(model):
        return fronted | {"position_ids": positions, "past_key_values": prompt_cache(model, rows), "use_cache": True}, 0
    del fronted["input_ids"]
    embedded = _base(model).get_input_embeddings()(ids)
    prompt = prompt_embeddings(model).to(embedded.dtype).expand(rows, -1, -1)
    fronted["inputs_embeds"] = torch.cat([prompt, embedded], dim=1)
    front = torch.arange(count, device=positions.device).expand(rows, -1)
    return fronted | {"position_ids": torch.cat([front, positions], dim=1)}, count


def prompt_embeddings(model: torch.nn.Module) -> torch.Tensor:
    """The virtual tokens as inputs of the first layer, (1, virtual tokens, hidden size)."""
    return cast(PeftModel, model).get_prompt(batch_size=1)


def prompt_cache(model: torch.nn.Module, rows: int) -> DynamicCache:
    """A new cache that holds the virtual tokens: keys and values (rows, heads, virtual tokens, head size) a layer."""
    cache: Any = cast(PeftModel, model).get_prompt(batch_size=1)
    for layer in cache.layers:
        if layer.is_initialized:
            layer.keys, layer.values = (t.expand(rows, -1, -1, -1) for t in (layer.keys, layer.values))
    return cache


def _config(adapter: PeftConfig | torch.nn.Module | None) -> Any:
    return adapter.active_peft_config if isinstance(adapter, PeftModel) else adapter


def _base(model: torch.nn.Module) -> PreTrainedModel:
    return cast(PreTrainedModel, cast(PeftModel, model).get_base_model())
