"""Tokens that a run adds to a base model: in the tokenizer, as rows of the embeddings, trained and exported."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftConfig, PeftType
from tokenizers import AddedToken
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tunelab.errors import ConfigError, ModelError
from tunelab.model.adapter_folder import added_tokens, is_adapter_folder, read_adapter_config, trained_token_ids


def add_tokens(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[str]) -> None:
    """Add `tokens` behind the present ones, matched exactly as written; they are ordinary text: completions show them.

    Raises:
        ConfigError: the tokenizer has one already.
    """
    known: dict[str, int] = cast(Any, tokenizer).get_vocab()
    present = [token for token in tokens if token in known]
    if present:
        raise ConfigError(
            f"model.new_tokens: expected tokens that the tokenizer lacks, found {present[0]!r} with the id "
            f"{known[present[0]]}; remove it from the list."
        )
    added: list[Any] = [AddedToken(token, normalized=False, special=False) for token in tokens]
    tokenizer.add_tokens(added)


def new_token_ids(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[str]) -> list[int]:
    """Ids of `tokens`, in their order."""
    found: Any = tokenizer.convert_tokens_to_ids(list(tokens))
    return [int(token_id) for token_id in found]


@torch.no_grad()
def add_embeddings(model: PreTrainedModel, ids: Sequence[int]) -> None:
    """Give the new tokens `ids` rows in embeddings and head: the mean of the rows before them, the same in every run.

    With the mean the head gives a new token no more probability than the average one has (Hewitt 2021, "Initializing
    New Word Embeddings for Pretrained Language Models"). Where the matrix has spare rows, these are used.
    """
    embeddings: Any = model.get_input_embeddings()
    if max(ids) >= embeddings.weight.shape[0]:
        model.resize_token_embeddings(max(ids) + 1, mean_resizing=False)
        embeddings = model.get_input_embeddings()
    head: Any = model.get_output_embeddings()
    bias = getattr(head, "bias", None)
    rows = [embeddings.weight, *([] if head.weight is embeddings.weight else [head.weight])]
    for present in [*rows, *([] if bias is None else [bias])]:
        present[list(ids)] = present[: min(ids)].mean(dim=0, dtype=torch.float32).to(present.dtype)


def check_new_tokens(adapter: PeftConfig | None, num_layers: int | None) -> None:
    """Refuse an adapter that cannot train single rows of the embeddings, and `num_layers`, which trains none of them.

    Raises:
        ConfigError: it is not LoRA, or names tokens itself, or only the last layers are trained.
    """
    if num_layers is not None:
        raise ConfigError(
            f"model.new_tokens: expected none beside peft.num_layers={num_layers}, with which their embeddings would "
            "not be trained; set model.new_tokens=[], or use peft=lora or peft=none."
        )
    if adapter is None:
        return
    if not isinstance(adapter, LoraConfig) or adapter.peft_type is not PeftType.LORA:
        raise ConfigError(
            f"model.new_tokens: expected an adapter that trains single embeddings, found {type(adapter).__name__}; use "
            "peft=lora, or peft=none, which trains all of them."
        )
    if adapter.trainable_token_indices is not None:
        raise ConfigError(
            "peft.trainable_token_indices: expected null beside model.new_tokens, which are trained by themselves, "
            f"found {adapter.trainable_token_indices!r}; remove one of the two."
        )


def train_new_tokens(adapter: PeftConfig | None, model: PreTrainedModel, ids: Sequence[int]) -> None:
    """Have `adapter` train the rows `ids` of the embeddings of `model`, and of its head where that is another matrix.

    Raises:
        ModelError: PEFT would lose the bias of this head.
    """
    if adapter is None or not ids:
        return
    embeddings, head = model.get_input_embeddings(), cast(Any, model.get_output_embeddings())
    if getattr(head, "bias", None) is not None:
        raise ModelError(
            "model.new_tokens: expected a head without bias, which PEFT would leave out, found one; use peft=none."
        )
    tied = head.weight is cast(Any, embeddings).weight
    trained = [embeddings] if tied else [embeddings, head]  # PEFT adapts a tied head together with the embeddings
    names = [name for name, module in model.named_modules() if any(module is each for each in trained)]
    cast(Any, adapter).trainable_token_indices = {name: list(ids) for name in names}


def require_known_tokens(folder: Path, num_token_ids: int) -> None:
    """Refuse to measure an adapter with a tokenizer that lacks tokens which the adapter of `folder` has trained.

    Raises:
        ModelError: with the tokens to add.
    """
    if not is_adapter_folder(folder):
        return
    ids = trained_token_ids(read_adapter_config(folder))
    names = [name for number, name in sorted(added_tokens(folder).items()) if number >= num_token_ids]
    if ids and max(ids) >= num_token_ids:
        raise ModelError(
            f"adapter: {str(folder)!r} has trained tokens that the tokenizer of the base model lacks; set "
            f"'model.new_tokens={json.dumps(names, ensure_ascii=False)}'."  # as a shell takes it
        )
