import json
from pathlib import Path

import pytest
from conftest import make_tokenizer
from format_rows import layout_of, read

from tunelab.config import DataConfig
from tunelab.data.exporting import to_row
from tunelab.data.preparing import prepare_data
from tunelab.errors import ConfigError, DataError

ROW = {"question": "what is two plus three?", "choices": ["five", "the answer is six", "two"], "answer": 0}
ARC = {"text": ROW["choices"], "label": ["A", "B", "C"]}


@pytest.mark.parametrize(
    "changes", [{}, {"answer": "five"}, {"choices": ARC, "answer": "A"}, {"choices": ARC, "answer": "five"}]
)
def test_the_right_answer_by_place_text_or_label(changes: dict):
    example = read({**ROW, **changes})
    assert [message.content for message in example.messages] == [ROW["question"], "five"]
    assert example.choices == tuple(ROW["choices"])


def test_what_is_exported_is_read_back():
    example = read({**ROW, "system": "be kind"})
    assert read(to_row(example)) == example


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer": 3}, r"expected one of the choices or its place from 0 to 2 in column 'answer', found the number 3"),
        ({"answer": -1}, r"found the number -1"),
        ({"answer": True}, r"found true"),
        ({"answer": "B"}, r"found the text 'B'"),
        ({"choices": ["five"]}, r"two or more different answers, none of them empty, in column 'choices'"),
        ({"choices": ["five", "five"]}, r"two or more different answers"),
        ({"choices": ["five", " "]}, r"two or more different answers"),
        ({"choices": "five, six"}, r"a list of texts in column 'choices', found the text"),
        ({"choices": ["five", 6]}, r"text in column 'choices' \[1\], found the number 6"),
        (
            {"choices": {**ARC, "label": ["A"]}},
            r"3 labels, one for each answer, in 'label' of column 'choices', found 1",
        ),
    ],
)
def test_rows_that_are_refused(changes: dict, message: str):
    with pytest.raises(DataError, match=rf"^a\.jsonl:7: .*{message}.*mend the row"):
        read({**ROW, **changes}, format="multiple_choice")


def test_choices_that_are_something_else_do_not_change_the_format():
    assert layout_of({"question": "q", "answer": "a", "choices": 3}).format == "prompt_completion"


def prepared(tmp_path: Path, rows: list[dict], **settings):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    tokenizer = make_tokenizer()
    config = DataConfig(path=str(path), test_path=str(path), validation_fraction=0, cache=False, **settings)
    return prepare_data(config, tokenizer), tokenizer


def test_choices_are_the_ids_that_follow_the_prompt(tmp_path: Path):
    data, tokenizer = prepared(tmp_path, [ROW])
    example = data.test[0]
    assert [choice.text for choice in example.choices] == ROW["choices"]
    for choice in example.choices:
        text = f"<|user|>{ROW['question']}<|end|><|assistant|>{choice.text}"
        assert example.prompt_ids + choice.token_ids == tokenizer.encode(text, add_special_tokens=False)
    assert not data.train.note(0).keys() - {"origin"}


def test_labels_of_all_rows_are_set_once(tmp_path: Path):
    rows = [{"prompt": "great!", "completion": "good"}, {"prompt": "awful", "completion": "bad"}]
    data, _ = prepared(tmp_path, rows, choices=["good", "bad"])
    assert [[choice.text for choice in example.choices] for example in data.test] == [["good", "bad"]] * 2
    with pytest.raises(
        DataError, match=r"one of data\.choices \('good', 'poor'\), found 'bad'; add it to data\.choices"
    ):
        prepared(tmp_path, rows, choices=["good", "poor"])


def test_choices_are_for_a_last_response_that_is_trained(tmp_path: Path):
    turns = [("user", "which?", 0), ("assistant", "good", 1), ("user", "sure?", 0), ("assistant", "bad", 0)]
    messages = [{"role": role, "content": text, "weight": weight} for role, text, weight in turns]
    with pytest.raises(DataError, match="expected the last response to be the trained one where there are choices"):
        prepared(tmp_path, [{"messages": messages}], choices=["good", "bad"])


@pytest.mark.parametrize("choices", [["good"], ["good", "good"], ["good", ""]])
def test_labels_that_make_no_choice(choices: list[str]):
    with pytest.raises(ConfigError, match=r"data\.choices: expected two or more different texts"):
        DataConfig(path="x", choices=choices)
