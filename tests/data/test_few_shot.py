"""Worked examples before a prompt: the ids are those of the conversation that they make, and nothing is cut."""

import json
from dataclasses import replace

import pytest
from conftest import make_tokenizer

from tunelab.config import DataConfig
from tunelab.data.few_shot import few_shot
from tunelab.data.preparing import open_stage, prepare_data
from tunelab.errors import DataError

SYSTEM = {"role": "system", "content": "be short"}


@pytest.fixture
def rows(tmp_path):
    """Forty rows; those that are held out have a system message, and so has every second training row."""
    path, test = tmp_path / "rows.jsonl", tmp_path / "test.jsonl"
    turns = [
        [
            {"role": "user", "content": f"what is {n}?"},
            {"role": "assistant", "content": f"number {n}" + " and no more" * (n == 35)},
        ]
        for n in range(40)
    ]
    lines = [{"messages": [SYSTEM, *each] if n % 2 else each} for n, each in enumerate(turns)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines[:30]))
    test.write_text("".join(json.dumps(line) + "\n" for line in lines[30:]))
    return {int(line["messages"][-2]["content"][8:-1]): line["messages"] for line in lines}, DataConfig(
        path=str(path), test_path=str(test), cache=False, validation_fraction=0.1
    )


def worked(config: DataConfig, count: int = 3, seed: int = 0, num_positions: int | None = None):
    tokenizer = make_tokenizer()
    data = prepare_data(config, tokenizer)
    examples = data.test[:]
    return examples, few_shot(open_stage(config, tokenizer), "test", examples, count, seed, num_positions)


def test_prompts_are_those_of_the_chat_template_with_earlier_turns(rows):
    messages, config = rows
    examples, found = worked(config)
    tokenizer = make_tokenizer()
    numbers = [int(origin.rpartition(":")[2]) - 1 for origin in found.origins]
    assert len(set(numbers)) == 3
    earlier = [turn for number in numbers for turn in messages[number] if turn["role"] != "system"]
    for number, (alone, example) in enumerate(zip(examples, found.examples, strict=True), start=30):
        *prompt, answer = messages[number]
        system = [turn for turn in prompt if turn["role"] == "system"]
        asked = [*system, *earlier, *(turn for turn in prompt if turn["role"] != "system")]
        text = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        assert example.prompt_ids == tokenizer(text, add_special_tokens=False)["input_ids"]
        assert example.tokenized.input_ids.tolist()[: len(example.prompt_ids)] == example.prompt_ids
        supervised = example.tokenized.input_ids[example.tokenized.loss_mask].tolist()
        assert tokenizer.decode(supervised) == answer["content"] + "<|end|>"
        assert not example.tokenized.loss_mask[: len(example.prompt_ids)].any()
        assert (example.prompt, example.response, example.origin) == (alone.prompt, alone.response, alone.origin)
    assert tokenizer(found.first_prompt, add_special_tokens=False)["input_ids"] == found.examples[0].prompt_ids


def test_a_plain_template_writes_blocks(rows):
    _, config = rows
    _, found = worked(replace(config, template="plain"), count=2)
    blocks = found.first_prompt.split("<|end|>\n")
    assert len(blocks) == 3
    assert all(block.startswith("what is ") and "?\nnumber " in block for block in blocks[:2])
    assert blocks[2].startswith("what is 30?\n")


def test_the_seed_draws(rows):
    _, config = rows
    drawn = [worked(config, seed=seed)[1].origins for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_what_does_not_fit_is_left_out_and_counted(rows):
    _, config = rows
    examples, whole = worked(config)
    lengths = sorted(example.tokenized.num_tokens for example in whole.examples)
    _, found = worked(config, num_positions=lengths[4])
    kept = [example is not None for example in found.examples]
    assert kept == [example.tokenized.num_tokens <= lengths[4] for example in whole.examples]
    assert found.num_left_out == kept.count(False) > 0
    with pytest.raises(
        DataError, match=r"expected prompts that leave room for 3 examples .* found none of 10 \(9 positions\)"
    ):
        worked(config, num_positions=9)
    longest = max(example.tokenized.num_supervised_tokens for example in examples)
    _, cut = worked(replace(config, max_length=longest - 1))
    assert [number for number, example in enumerate(cut.examples) if example is None] == [5]  # its response was cut


def test_data_without_turns_and_too_few_rows(rows, tmp_path):
    _, config = rows
    with pytest.raises(DataError, match="expected 28 training examples to show, found 2"):
        worked(config, count=28)
    text = tmp_path / "text.jsonl"
    text.write_text("".join(json.dumps({"text": f"a story of {n}"}) + "\n" for n in range(40)))
    with pytest.raises(DataError, match="with prompts to put examples before, found one without turns"):
        worked(DataConfig(path=str(text), test_fraction=0.3, cache=False))
