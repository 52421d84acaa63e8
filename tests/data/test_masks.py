"""Random conversations × layouts × tokenizers: the fast masks are those of slow and plain definitions."""

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mask_references import KINDS, LAYOUTS, mask_by_characters, slow_encoding

from tunelab.data.spelling import make_speller
from tunelab.data.tokenizing import Encoder

# Where text is lost, or a space put before every stretch of it, decoding does not give the text back.
LOSSY = {"GPT-2 with prefix space", "Llama 2", "Mistral", "unigram", "WordPiece", "Phi", "Qwen"}
SPELLED = {"bytes", "byte-level BPE", "byte-level BPE of words", "Llama 3", "Qwen", "GPT-2 with prefix space"}
SPELLED |= {"Llama 2", "Mistral", "unigram", "Phi"}

PIECES = st.sampled_from(
    [*"ab 1\n.<|>/é🙂日", "e\u0301", "  ", "the ", "<|end|>", "<|start|>", "</s>", "<s>", "<unk>", "[/INST]", "▁"]
)
TEXT = st.lists(PIECES, max_size=6).map("".join)
CONVERSATIONS = st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=3)


@cache
def made(kind: str, pad_is_eos: bool):
    tokenizer = KINDS[kind](**({"pad_token": "</s>"} if pad_is_eos else {}))
    return tokenizer, Encoder(tokenizer, add_bos=False)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(sorted(LAYOUTS)), CONVERSATIONS), min_size=1, max_size=3), st.booleans())
def test_ids_and_masks_are_those_of_the_definition(kind, drawn, pad_is_eos):
    tokenizer, encoder = made(kind, pad_is_eos)
    examples = [LAYOUTS[layout](pairs) for layout, pairs in drawn]
    for example, encoded in zip(examples, encoder.encode(examples), strict=True):
        ids, mask, num_apart = slow_encoding(example, tokenizer)
        assert encoded.input_ids.tolist() == ids
        assert encoded.loss_mask.tolist() == mask
        assert encoded.num_seams_apart == num_apart
        if not num_apart:
            by_characters = mask_by_characters(example, tokenizer)
            assert [found for found in by_characters if found is not None] == [
                wanted for wanted, found in zip(mask, by_characters, strict=True) if found is not None
            ]


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - LOSSY))
@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(LAYOUTS)), CONVERSATIONS, st.booleans())
def test_supervised_ids_decode_to_the_answers(kind, layout, pairs, pad_is_eos):
    tokenizer, encoder = made(kind, pad_is_eos)
    example = LAYOUTS[layout](pairs)
    (encoded,) = encoder.encode([example])
    supervised = "".join(segment.text for segment in example.segments if segment.supervised)
    assert tokenizer.decode(encoded.input_ids[encoded.loss_mask].tolist()) == supervised
    assert tokenizer.decode(encoded.input_ids.tolist()) == "".join(segment.text for segment in example.segments)


@pytest.mark.parametrize("kind", KINDS)
def test_which_vocabularies_spell(kind):
    """Where it is lost that a vocabulary spells its text, nothing fails but the speed."""
    assert (make_speller(KINDS[kind]()) is not None) == (kind in SPELLED)
