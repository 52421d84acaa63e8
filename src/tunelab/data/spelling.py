"""What tokens spell: the bytes behind each id, read off the vocabulary and tried on a few words."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase

from tunelab.data.upstream import added_token_settings, byte_alphabet, encode_texts, vocabulary

_PROBES = ("a b", "e t", "o n", "1 2", "the of")  # the space between is what vocabularies write in different ways

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Speller:
    """The bytes that each token stands for: `lengths[id]` of `letters` (uint8), from `starts[id]` on.

    Some tokenizers put a space before a text (`space_at_start`) and behind every added token (`space_in_sections`);
    it is not spelled: at `id + size` is the piece of `id` without it, where it begins in one.
    """

    letters: npt.NDArray[np.uint8]
    starts: Indices
    lengths: Indices
    added: npt.NDArray[np.bool_]
    space_at_start: bool = False
    space_in_sections: bool = False

    def spell(self, ids: npt.NDArray[np.int32], num_tokens: npt.NDArray[np.int64]) -> tuple[bytes, Indices]:
        """Return the bytes of texts end to end, and where each token ends in them; `num_tokens` of each text."""
        codes = ids
        if self.space_at_start or self.space_in_sections:
            codes = ids + self.added.size * self._put_in_front(ids, num_tokens)
        lengths = self.lengths[codes]
        ends = np.cumsum(lengths)
        places = np.repeat(self.starts[codes] - (ends - lengths), lengths)
        places += np.arange(places.size)
        return self.letters[places].tobytes(), ends

    def _put_in_front(self, ids: npt.NDArray[np.int32], num_tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Which tokens stand where the tokenizer puts a space."""
        added = self.added[ids]
        first = np.zeros(ids.size, dtype=bool)
        first[(np.cumsum(num_tokens) - num_tokens)[num_tokens > 0]] = True
        behind_added = np.concatenate([[False], added[:-1]]) & ~first
        return ~added & ((first & self.space_at_start) | (behind_added & self.space_in_sections))


def make_speller(tokenizer: PreTrainedTokenizerBase) -> Speller | None:
    """Read the vocabulary as byte-level BPE's or as sentencepiece's; None where its tokens spell nothing.

    Texts that are changed before they are encoded, by a normaliser or for want of tokens, are not spelled: whoever
    asks compares.
    """
    tokens = vocabulary(tokenizer)
    added = {token_id: token.content.encode() for token_id, token in added_token_settings(tokenizer).items()}
    readings: list[Callable[[str], bytes | None]] = [_read_byte_level, _read_sentencepiece]
    for read in readings:
        speller = _tried(
            _table({token_id: read(token) or b"" for token, token_id in tokens.items()} | added, added), tokenizer
        )
        if speller is not None:
            return speller
    return None


def _read_byte_level(token: str) -> bytes | None:
    """One character a byte, in the alphabet of byte-level BPE."""
    try:
        return token.translate(_LATIN).encode("latin-1")
    except UnicodeEncodeError:
        return None


def _read_sentencepiece(token: str) -> bytes | None:
    """`▁` for a space, `<0xE2>` for a byte without a character."""
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes.fromhex(token[3:5])
    return token.replace("▁", " ").encode()


# Byte-level BPE's characters to those with the code of their byte, and what is not among them out of latin-1.
_LATIN = dict.fromkeys(range(256), 0x2581) | {ord(letter): byte for letter, byte in byte_alphabet().items()}


def _table(spelled: dict[int, bytes], added: dict[int, bytes]) -> Speller:
    """What each id up to the highest spells."""
    size = max(spelled, default=-1) + 1
    pieces = [spelled.get(token_id, b"") for token_id in range(size)]
    pieces += [piece.removeprefix(b" ") for piece in pieces]
    lengths = np.array([len(piece) for piece in pieces], dtype=np.int64)
    is_added = np.zeros(size, dtype=bool)
    is_added[list(added)] = True
    return Speller(
        np.frombuffer(b"".join(pieces), dtype=np.uint8), np.cumsum(lengths) - lengths, lengths, added=is_added
    )


def _tried(speller: Speller, tokenizer: PreTrainedTokenizerBase) -> Speller | None:
    """Find out where the tokenizer puts spaces of its own; None where no probe is spelled then."""
    marker = next((token.content for token in added_token_settings(tokenizer).values() if not token.rstrip), "")
    for probe in _PROBES:
        texts = [probe, marker + probe]
        encoded = encode_texts(tokenizer, texts)
        plain, behind = (_spelled(speller, ids) for ids in encoded)
        tried = replace(
            speller,
            space_at_start=plain == f" {probe}".encode(),
            space_in_sections=bool(marker) and behind == f"{marker} {probe}".encode(),
        )
        if all(_spelled(tried, ids) == text.encode() for text, ids in zip(texts, encoded, strict=True)):
            return tried
    return None


def _spelled(speller: Speller, ids: Sequence[int]) -> bytes:
    return speller.spell(np.array(ids, dtype=np.int32), np.array([len(ids)], dtype=np.int64))[0]
