"""The generation_config.json that travels with what was trained: it ends where training taught the model to end."""

import copy
from collections.abc import Sequence
from typing import Any

from huggingface_hub.errors import HfHubHTTPError
from transformers import AutoConfig, GenerationConfig, PreTrainedTokenizerBase

from tunelab.config import ModelConfig
from tunelab.model.locating import reads_local_files_only, resolve_model
from tunelab.model.tokenizer import end_token_ids, pad_token_id, token_id


def completion_ends(config: ModelConfig, tokenizer: PreTrainedTokenizerBase, end_of_turn: str) -> tuple[int, ...]:
    """Ids at which completions end: the end of turn that training taught, and the base model's own, sorted.

    The one answer for samples, scores, conversations and what is exported.
    """
    own = end_token_ids(tokenizer, base_generation_config(config))
    return tuple(sorted({*own, token_id(tokenizer, end_of_turn)}))


def base_generation_config(config: ModelConfig) -> GenerationConfig:
    """The base model's own; where it has no file of its own for that, what its config.json says, as transformers."""
    source = resolve_model(config.path, config.revision)
    local = reads_local_files_only(source)
    try:
        return GenerationConfig.from_pretrained(source, revision=config.revision or "main", local_files_only=local)
    except (OSError, ValueError, HfHubHTTPError):
        architecture = AutoConfig.from_pretrained(
            source, revision=config.revision, trust_remote_code=config.trust_remote_code, local_files_only=local
        )
        return GenerationConfig.from_model_config(architecture)


def taught_generation(base: Any, ends: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> GenerationConfig:
    """The base's settings (a GenerationConfig or None) with the end tokens `ends`.

    Where transformers would refuse to save the base's settings, because they contradict each other, only the tokens
    are kept.
    """
    settings = copy.deepcopy(base) if isinstance(base, GenerationConfig) else GenerationConfig()
    try:
        settings.validate(strict=True)
    except ValueError:
        settings = GenerationConfig(bos_token_id=settings.bos_token_id)
    setattr(settings, "_from_model_config", False)  # noqa: B010 (transformers would derive it anew from config.json)
    settings.eos_token_id = list(ends)
    settings.pad_token_id = pad_token_id(tokenizer)
    return settings
