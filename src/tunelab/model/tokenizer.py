"""The tokenizer and its policy for pad and end-of-turn tokens: stated, never guessed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from tunelab.config import ModelConfig
from tunelab.errors import ModelError, first_line
from tunelab.model.locating import reads_local_files_only, refuse_code, resolve_model
from tunelab.model.new_tokens import add_tokens

# A pad token is never read by the model (padding is masked out), so any id will do; eos is the usual choice.
# Masks are made by position, never by id, so pad == eos cannot hide an end-of-turn token from the loss.


def load_tokenizer(config: ModelConfig) -> PreTrainedTokenizerBase:
    """Load the tokenizer beside the base model, give it a pad token where it has none, and the run's new tokens.

    Raises:
        ModelError: there is none, it is no fast tokenizer, or it has no end-of-text token.
        ConfigError: a new token is not new.
    """
    source = resolve_model(config.path, config.revision)
    try:
        loaded = AutoTokenizer.from_pretrained(
            source,
            revision=config.revision,
            trust_remote_code=config.trust_remote_code,
            local_files_only=reads_local_files_only(source),
        )
    except (OSError, ValueError, KeyError, TypeError, StrictDataclassError) as error:
        refuse_code(config.path, error)
        raise ModelError(
            f"model.path: no usable tokenizer at {config.path!r} ({first_line(error)}); "
            "expected tokenizer.json and tokenizer_config.json beside the weights."
        ) from error
    tokenizer = cast(PreTrainedTokenizerBase, loaded)
    if not tokenizer.is_fast:
        raise ModelError(f"model.path: {config.path!r} has no fast tokenizer (tokenizer.json), which offsets need.")
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"model.path: the tokenizer of {config.path!r} names no eos_token; add it to tokenizer_config.json."
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    add_tokens(tokenizer, config.new_tokens)
    return tokenizer


def load_saved_tokenizer(
    folder: Path, trust_remote_code: bool = False, key: str = "adapter"
) -> PreTrainedTokenizerBase:
    """Load the tokenizer that an export holds, chat template included; `key` is the one that errors name.

    Raises:
        ModelError: its files cannot be read.
    """
    try:
        loaded = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=trust_remote_code, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, StrictDataclassError) as error:
        raise ModelError(
            f"{key}: no usable tokenizer in {str(folder)!r} ({first_line(error)}); export it again."
        ) from error
    return cast(PreTrainedTokenizerBase, loaded)


def end_token_ids(tokenizer: PreTrainedTokenizerBase, generation_config: Any) -> list[int]:
    """Ids that end a completion: the tokenizer's eos and whatever the model's generation config adds (end of turn)."""
    listed = getattr(generation_config, "eos_token_id", None)
    extra: list[Any] = listed if isinstance(listed, list) else [listed]
    own: Any = tokenizer.eos_token_id
    return sorted({int(i) for i in [own, *extra] if i is not None})


def pad_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that fills padded rows."""
    pad: Any = tokenizer.pad_token_id
    return int(pad)


def completion_text(tokenizer: Any, token_ids: Sequence[int]) -> str:
    """What a model wrote, as it wrote it: cleaning up would change it ("a ." to "a.")."""
    return str(tokenizer.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def token_id(tokenizer: PreTrainedTokenizerBase, token: str) -> int:
    """The id of one token, by its text."""
    found: Any = tokenizer.convert_tokens_to_ids(token)
    return int(found)
