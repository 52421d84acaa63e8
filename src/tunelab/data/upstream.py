"""The calls that this package makes of a transformers tokenizer, typed where their results enter our code."""

import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, cast

from tokenizers import AddedToken
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerBase
from transformers.utils import chat_template_utils

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


def unknown_token(tokenizer: PreTrainedTokenizerBase) -> tuple[str, int] | None:
    """Text and id of the token that stands for what the vocabulary does not have, if there is one."""
    token, token_id = cast(Any, tokenizer).unk_token, cast(Any, tokenizer).unk_token_id
    return None if token is None or token_id is None else (str(token), int(token_id))


def adds_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer, left to itself, begins every text with its beginning-of-sequence token."""
    ids: list[int] = tokenizer("a")["input_ids"]
    return bos_token_id(tokenizer) is not None and ids[0] == bos_token_id(tokenizer)


def encode_texts(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Encode many texts at once: no special tokens but those spelled out, no truncation, no padding."""
    with plain_backend(tokenizer) as backend:
        return [encoding.ids for encoding in backend.encode_batch_fast(list(texts), add_special_tokens=False)]


def encode_with_offsets(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]
) -> tuple[list[list[int]], list[list[tuple[int, int]]]]:
    """As `encode_texts`, and for each token the characters [begin, end) that it came from."""
    with plain_backend(tokenizer) as backend:
        encodings = backend.encode_batch(list(texts), add_special_tokens=False)
    return [encoding.ids for encoding in encodings], [encoding.offsets for encoding in encodings]


@contextmanager
def plain_backend(tokenizer: PreTrainedTokenizerBase) -> Generator[Any]:
    """The backend without the truncation and padding that its file or an earlier call left in it.

    Inside of this context another one changes nothing, so that several threads may encode meanwhile.
    """
    backend = cast(Any, tokenizer).backend_tokenizer
    truncation, padding, splits = backend.truncation, backend.padding, backend.encode_special_tokens
    wants_split = bool(cast(Any, tokenizer).split_special_tokens)
    if truncation is not None:
        backend.no_truncation()
    if padding is not None:
        backend.no_padding()
    if splits != wants_split:
        backend.encode_special_tokens = wants_split
    try:
        yield backend
    finally:
        if truncation is not None:
            backend.enable_truncation(**truncation)
        if padding is not None:
            backend.enable_padding(**padding)
        if splits != wants_split:
            backend.encode_special_tokens = splits


def decode_texts(tokenizer: PreTrainedTokenizerBase, ids: Sequence[Sequence[int]]) -> list[str]:
    """Decode many sequences at once with all special tokens, spaces untouched."""
    return cast(Any, tokenizer).backend_tokenizer.decode_batch(list(map(list, ids)), skip_special_tokens=False)


def vocabulary(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """All tokens as the vocabulary writes them, added ones too, and their ids."""
    return cast(Any, tokenizer).backend_tokenizer.get_vocab(with_added_tokens=True)


def added_token_settings(tokenizer: PreTrainedTokenizerBase) -> dict[int, AddedToken]:
    """The tokens that are cut out of a text before all else, by id, with how they are matched."""
    return cast(Any, tokenizer).backend_tokenizer.get_added_tokens_decoder()


def token_id(tokenizer: PreTrainedTokenizerBase, text: str) -> int | None:
    """Id of the token that the vocabulary writes as `text`, if there is one."""
    return cast(Any, tokenizer).backend_tokenizer.token_to_id(text)


def decode(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    """Decode ids with all special tokens, spaces untouched."""
    return cast(Any, tokenizer).decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def token_bytes(tokenizer: PreTrainedTokenizerBase, token_id: int) -> bytes:
    """The bytes that a token stands for, where its text alone is no whole character.

    Understands the two ways in which vocabularies spell bytes: the alphabet of byte-level BPE, and `<0xE2>`.
    """
    piece = str(cast(Any, tokenizer).convert_ids_to_tokens(token_id))
    if re.fullmatch(r"<0x[0-9A-Fa-f]{2}>", piece):
        return bytes.fromhex(piece[3:5])
    alphabet = byte_alphabet()
    return bytes(alphabet[c] for c in piece) if alphabet.keys() >= set(piece) else piece.encode(errors="replace")


@cache
def byte_alphabet() -> dict[str, int]:
    """Byte-level BPE's character for each byte: itself where it can be seen, else those after U+0100 in order."""
    characters = sorted(ByteLevel.alphabet())
    seen = {character: ord(character) for character in characters if ord(character) < 256}
    others = [byte for byte in range(256) if byte not in seen.values()]
    return seen | dict(zip(characters[len(seen) :], others, strict=True))


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """What a chat template knows by name: `bos_token`, `eos_token` and so on, with their texts."""
    return {str(name): str(token) for name, token in cast(Any, tokenizer).special_tokens_map.items()}


def chat_template_text(tokenizer: PreTrainedTokenizerBase, tools: bool = False) -> str:
    """The chat template for conversations with or without tools. Raises DataError where none of several is for them."""
    try:
        return cast(Any, tokenizer).get_chat_template(tools=[] if tools else None)
    except ValueError as error:
        raise DataError(
            f"data.template: expected a chat template named 'default' in {describe(tokenizer)}, "
            f"found {', '.join(map(repr, cast(Any, tokenizer).chat_template))}; set data.template=<file>.jinja."
        ) from error


def set_chat_template(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    """Give the tokenizer a chat template; it is saved with the tokenizer."""
    cast(Any, tokenizer).chat_template = text


def compile_chat_template(text: str) -> Any:
    """Compile as transformers does, in its sandbox; None where this transformers keeps its compiler elsewhere."""
    compiler = getattr(chat_template_utils, "_compile_jinja_template", None)
    return None if compiler is None else compiler(text)


def render_chat_template(
    tokenizer: PreTrainedTokenizerBase, text: str, messages: Sequence[Any], tools: Any, generation_prompt: bool
) -> str:
    """Render through the tokenizer's public method."""
    return cast(Any, tokenizer).apply_chat_template(
        list(messages), tools=tools, chat_template=text, tokenize=False, add_generation_prompt=generation_prompt
    )


def tokenizer_state(tokenizer: PreTrainedTokenizerBase) -> str:
    """Everything that decides which ids a text gets, as text: the backend's own JSON and the special tokens."""
    splits = bool(cast(Any, tokenizer).split_special_tokens)
    return str([cast(Any, tokenizer).backend_tokenizer.to_str(), sorted(special_tokens(tokenizer).items()), splits])
