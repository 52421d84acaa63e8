"""The calls that this package makes of a transformers tokenizer, typed where their results enter our code."""

from collections.abc import Sequence
from typing import Any, cast

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from tunelab.data.records import Message
from tunelab.errors import DataError


def describe(tokenizer: PreTrainedTokenizerBase) -> str:
    """The tokenizer's name or folder, for messages."""
    return repr(str(cast(Any, tokenizer).name_or_path or "this tokenizer"))


def has_chat_template(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer can render conversations itself."""
    return bool(cast(Any, tokenizer).chat_template)


def eos_token(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Text of the end-of-sequence token, if any."""
    token = cast(Any, tokenizer).eos_token
    return None if token is None else str(token)


def require_eos_token(tokenizer: PreTrainedTokenizerBase) -> str:
    """Text of the end-of-sequence token. Raises DataError where the tokenizer has none."""
    token = eos_token(tokenizer)
    if not token:
        raise DataError(
            "model.path: expected a tokenizer with an end-of-sequence token to end responses with, "
            f"found none in {describe(tokenizer)}; set eos_token in its tokenizer_config.json."
        )
    return token


def bos_token_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Id of the beginning-of-sequence token, if any."""
    token_id = cast(Any, tokenizer).bos_token_id
    return None if token_id is None else int(token_id)


def adds_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer, left to itself, begins every text with its beginning-of-sequence token."""
    ids: list[int] = tokenizer("a")["input_ids"]
    return bos_token_id(tokenizer) is not None and ids[0] == bos_token_id(tokenizer)


def encode_texts(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Encode many texts at once: no special tokens but those spelled out, no truncation, no padding."""
    return _encode(tokenizer, texts, offsets=False)["input_ids"] if texts else []


def encode_with_offsets(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]
) -> tuple[list[list[int]], list[list[tuple[int, int]]]]:
    """As `encode_texts`, and for each token the characters [begin, end) that it came from."""
    encoded = _encode(tokenizer, texts, offsets=True)
    return encoded["input_ids"], encoded["offset_mapping"]


def _encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], offsets: bool) -> Any:
    return tokenizer(
        list(texts),
        add_special_tokens=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        return_offsets_mapping=offsets,
        verbose=False,  # no warning about the model's length: `fitting` sees to that
    )


def decode(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    """Decode ids with all special tokens, spaces untouched."""
    return cast(Any, tokenizer).decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def apply_chat_template(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    origin: str,
    generation_prompt: bool = False,
) -> str:
    """Render messages with the tokenizer's chat template. Raises DataError where it refuses them."""
    turns = [{"role": message.role.value, "content": message.content} for message in messages]
    try:
        return cast(Any, tokenizer).apply_chat_template(turns, tokenize=False, add_generation_prompt=generation_prompt)
    except (TemplateError, TypeError, ValueError) as error:
        raise DataError(
            f"{origin}: the tokenizer's chat template refused the conversation: {error}; "
            "set data.template=alpaca or data.template=plain."
        ) from error
