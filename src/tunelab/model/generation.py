"""The generation_config.json that travels with what was trained: it ends where training taught the model to end."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HfHubHTTPError
from transformers import GenerationConfig, PreTrainedTokenizerBase

from tunelab.config import ModelConfig
from tunelab.model.locating import resolve_model
from tunelab.model.tokenizer import pad_token_id


def base_generation_config(config: ModelConfig) -> GenerationConfig:
    """The base model's own; an empty one where it has none."""
    source = resolve_model(config.path, config.revision)
    try:
        return GenerationConfig.from_pretrained(
            source, revision=config.revision or "main", local_files_only=Path(source).is_dir()
        )
    except (OSError, ValueError, HfHubHTTPError):
        return GenerationConfig()


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
