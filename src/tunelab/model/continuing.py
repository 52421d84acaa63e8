"""Trains on an adapter that was trained before (`peft.from_adapter`): what can be continued, and on which base."""

import json
from pathlib import Path

from peft import PeftConfig
from transformers import PreTrainedTokenizerBase

from tunelab.config import ModelConfig
from tunelab.embedded import locate
from tunelab.errors import ModelError
from tunelab.model.adapter_folder import (
    added_tokens,
    has_tokenizer,
    is_adapter_folder,
    read_adapter_config,
    read_shapes,
    trained_token_ids,
)
from tunelab.model.initializing import changes_the_base, initialization
from tunelab.model.matching import check_adapter, check_vocabulary
from tunelab.model.new_tokens import new_token_ids
from tunelab.model.origin import read_origin, require_same_quantization
from tunelab.model.tokenizer import load_saved_tokenizer, load_tokenizer
from tunelab.model.tuning import refuse_unsupported

KEY = "peft.from_adapter"


def continued_config(folder: Path) -> PeftConfig:
    """The configuration of the adapter in a PEFT folder, ready to be trained on.

    Raises:
        ModelError: there is no adapter, it is half-written, or it cannot be trained on.
    """
    if not is_adapter_folder(folder):
        raise ModelError(
            f"{KEY}: expected a PEFT folder with adapter_config.json, or a run folder, found neither in "
            f"{str(folder)!r}."
        )
    config = read_adapter_config(folder, KEY)
    read_shapes(folder, KEY)
    if config.is_prompt_learning:
        raise ModelError(
            f"{KEY}: {str(folder)!r} holds virtual tokens, which PEFT does not train on; start new ones "
            "with peft=prompt_tuning."
        )
    if hasattr(config, "total_step"):
        raise ModelError(
            f"{KEY}: {str(folder)!r} holds an adapter whose ranks were pruned, which cannot be trained on; "
            "start a new one with peft=adalora."
        )
    if changes_the_base(config):
        raise ModelError(
            f"{KEY}: {str(folder)!r} ({initialization(config)}) belongs to changed base weights; "
            "save it as plain LoRA first, as runs of tunelab do (PEFT: path_initial_model_for_weight_conversion)."
        )
    refuse_unsupported(config)
    config.inference_mode = False
    return config


def check_continued(folder: Path, adapter: PeftConfig, base: ModelConfig) -> list[str]:
    """Compare the adapter of `folder` with the base model it is to be trained on; what is to be said of the two.

    Another name of the base is only said: training on a tuned or moved base is ordinary.

    Raises:
        ModelError: a weight has another name or shape than it would have here, or the tokens are others.
    """
    require_same_quantization([folder], [read_origin(folder)], base)
    tokenizer = load_tokenizer(base)
    _require_same_tokens(folder, adapter, base, tokenizer)
    if has_tokenizer(folder):
        check_vocabulary(load_saved_tokenizer(folder, base.trust_remote_code, KEY), tokenizer, folder, KEY)
    check_adapter(folder, base, other_base=True, key=KEY)
    named = str(adapter.base_model_name_or_path)
    if named in (base.path, locate(base.path)):
        return []
    return [f"it names another base model: {named}, not {base.path}"]


def _require_same_tokens(
    folder: Path, adapter: PeftConfig, base: ModelConfig, tokenizer: PreTrainedTokenizerBase
) -> None:
    """The new tokens of an adapter are those of `model.new_tokens`, in their order, or there are none."""
    present = len(tokenizer) - len(base.new_tokens)
    trained = [number for number in trained_token_ids(adapter) if number >= present]
    named = added_tokens(folder)
    known = all(number in named for number in trained)
    names = [named[number] for number in trained] if known else None
    if trained == new_token_ids(tokenizer, base.new_tokens) and names in (None, base.new_tokens):
        return
    if names is None:
        expected, remedy = f"{len(trained)} tokens", "set model.new_tokens to the tokens it was trained with"
    else:
        text = json.dumps(names, ensure_ascii=False)
        expected, remedy = text if names else "none", f"set 'model.new_tokens={text}'"  # as a shell takes it
    raise ModelError(
        f"model.new_tokens: expected {expected}, which the adapter in {str(folder)!r} has trained, found "
        f"{json.dumps(base.new_tokens, ensure_ascii=False)}; {remedy}."
    )
