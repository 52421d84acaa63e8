"""The embedded base model: size, tokenizer, chat template and held-out perplexity."""

from pathlib import Path
from typing import cast

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from tunelab.assets import probing
from tunelab.assets import tokenizer as recipe

FOLDER = Path(recipe.__file__).parent / "tiny"
MAX_PERPLEXITY = 2.7
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi, this is Zoë."},
    {"role": "assistant", "content": '{"a": "b"}'},
    {"role": "user", "content": "Thanks."},
    {"role": "assistant", "content": "Bye."},
]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return cast(PreTrainedTokenizerFast, AutoTokenizer.from_pretrained(FOLDER))


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return cast(LlamaForCausalLM, AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32))


def ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "a  b\n\n\tc",
        "Zoë Müller, 14 März",
        "漢字 かな",
        "🙂👩‍👩‍👧 e\u0301",
        '{"x": null}\r\n',
        "don’t I'm",
        "\x00\x7f",
        "ǅ ß ﬁ",
    ],
)
def test_any_text_survives_the_tokenizer(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(ids(tokenizer, text)) == text


@pytest.mark.parametrize("value", ["Marelda Voss", "KT-48213", "7398-163", "2024-03-14", "149.90 EUR", "Oak Tea Pot"])
def test_a_value_has_the_same_tokens_wherever_it_stands(tokenizer: PreTrainedTokenizerFast, value: str) -> None:
    bare = ids(tokenizer, value)
    for text in (f"is {value}.", f'{{"x": "{value}"}}', f"({value})", f": {value}\n", f"'{value}', "):
        found = ids(tokenizer, text)
        assert any(found[i : i + len(bare)] == bare for i in range(len(found))), text


def test_special_tokens_are_distinct(tokenizer: PreTrainedTokenizerFast) -> None:
    assert len(tokenizer) == recipe.VOCABULARY_SIZE
    assert (tokenizer.pad_token, tokenizer.bos_token, tokenizer.eos_token) == (
        recipe.PAD,
        recipe.BOS,
        recipe.EOS,
    )
    special = [tokenizer.convert_tokens_to_ids(token) for token in recipe.SPECIAL_TOKENS]
    assert len(set(special)) == len(recipe.SPECIAL_TOKENS)
    assert all(ids(tokenizer, token) == [id_] for token, id_ in zip(recipe.SPECIAL_TOKENS, special, strict=True))


def test_the_chat_template_is_prefix_stable(tokenizer: PreTrainedTokenizerFast) -> None:
    whole = tokenizer.apply_chat_template(CHAT, tokenize=False)
    for end in range(1, len(CHAT)):
        prompt = CHAT[end]["role"] == "assistant"
        part = tokenizer.apply_chat_template(CHAT[:end], tokenize=False, add_generation_prompt=prompt)
        assert whole.startswith(part)
        assert ids(tokenizer, whole)[: len(ids(tokenizer, part))] == ids(tokenizer, part)


def test_the_chat_template_refuses_unknown_roles(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(Exception, match="unknown role tool"):
        tokenizer.apply_chat_template([{"role": "tool", "content": ""}], tokenize=False)


def test_the_model_is_small(model: LlamaForCausalLM) -> None:
    assert 2e6 < model.num_parameters() < 4e6
    assert (FOLDER / "model.safetensors").stat().st_size < 8e6
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


def test_generation_stops_at_the_end_of_a_turn(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    ends = [tokenizer.convert_tokens_to_ids(token) for token in (recipe.EOS, recipe.END)]
    assert model.generation_config.eos_token_id == ends
    assert not model.generation_config.do_sample


def test_held_out_perplexity(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    assert probing.held_out_perplexity(model, tokenizer, num_documents=32) < MAX_PERPLEXITY


def test_values_never_seen_are_copied(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    accuracy = probing.copy_accuracy(model, tokenizer, num_messages=16)
    assert min(accuracy.values()) > 0.8
