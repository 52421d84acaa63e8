"""What `prepare` writes is read back, by us and by `datasets`, as the same examples."""

import json
from pathlib import Path

import pytest
from conftest import make_tokenizer
from datasets import load_from_disk
from hypothesis import given
from hypothesis import strategies as st

from tunelab.config import Action, ColumnsConfig, DataConfig, QualityConfig, TagsConfig, TrainOn
from tunelab.data.exporting import data_card, export_rows, to_row
from tunelab.data.formats import decide_layout, to_example
from tunelab.data.preparing import open_stage
from tunelab.data.records import Conversation, Message, Passage, Role, Row, Segment, TokenSequence
from tunelab.errors import DataError

words = st.text("abc é😀<|end|>", min_size=1, max_size=8).filter(str.strip)


def read_back(example):
    row = Row(json.loads(json.dumps(to_row(example))), example.origin)
    layout = decide_layout("auto", ColumnsConfig(), TagsConfig(), [row])
    return to_example(row, layout, TrainOn.responses)


@st.composite
def conversations(draw) -> Conversation:
    turns = draw(st.lists(st.tuples(words, words, st.booleans()), min_size=1, max_size=3))
    messages = [Message(Role.SYSTEM, draw(words))] if draw(st.booleans()) else []
    for question, answer, trained in turns:
        messages += [Message(Role.USER, question), Message(Role.ASSISTANT, answer, trained=trained)]
    return Conversation(tuple(messages), "a.jsonl:1")


@given(conversations())
def test_a_conversation_comes_back_with_its_training_flags(example):
    assert read_back(example) == example


def test_preference_kto_text_segments_and_ids_come_back():
    user, answer = Message(Role.USER, "2+2"), Message(Role.ASSISTANT, "4", trained=True)
    other = Message(Role.ASSISTANT, "5", trained=True)
    pair = read_back(Conversation((user, answer), "o", rejected=(other,)))
    assert [m.content for m in pair.messages] == ["2+2", "4"]
    assert [m.content for m in pair.rejected] == ["5"]
    for desirable in (True, False):
        labelled = read_back(Conversation((user, answer), "o", desirable=desirable))
        assert labelled.desirable is desirable
        assert [m.content for m in labelled.messages] == ["2+2", "4"]
    document = read_back(Passage((Segment("a document", True),), "o", windowed=True))
    assert document == Passage((Segment("a document", True),), "o", windowed=True)
    laid_out = Passage((Segment("Q: ", False), Segment("A", True)), "o")
    assert read_back(laid_out) == laid_out
    ids = TokenSequence((3, 4, 5), (False, True, True), "o")
    assert read_back(ids) == ids


def test_tools_and_calls_come_back():
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": {"a": 2}}}
    messages = (
        Message(Role.USER, "2+2"),
        Message(Role.ASSISTANT, "", trained=True, extra={"tool_calls": [call]}),
        Message(Role.TOOL, "4", extra={"tool_call_id": "1"}),
        Message(Role.ASSISTANT, "4", trained=True),
    )
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
    back = read_back(Conversation(messages, "o", tools=(tool,)))
    assert [m.role for m in back.messages] == [m.role for m in messages]
    assert back.messages[1].extra["tool_calls"][0]["function"]["name"] == "add"
    assert [dict(t) for t in back.tools] == [tool]


def write(folder: Path, count: int) -> str:
    rows = [{"prompt": f"{i // 2}", "response": f"answer {i // 2}"} for i in range(count)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / "rows.jsonl")


def test_the_files_hold_what_the_checks_left_in(tmp_path):
    config = DataConfig(
        path=write(tmp_path, 400), test_fraction=0.2, quality=QualityConfig(exact_duplicates=Action.drop)
    )
    out = tmp_path / "out"
    out.mkdir()
    exported = export_rows(open_stage(config, make_tokenizer()), out)
    lines = {split: (out / f"{split}.jsonl").read_text().splitlines() for split in exported.num_rows}
    assert {split: len(found) for split, found in lines.items()} == exported.num_rows
    assert len(set(lines["train"])) == len(lines["train"])
    assert exported.num_dropped == {"train: exact_duplicate": len(lines["train"])}
    arrow = load_from_disk(str(out / "arrow"))
    for split, found in lines.items():
        assert [row["messages"][1]["content"] for row in arrow[split]] == [
            json.loads(line)["messages"][1]["content"] for line in found
        ]
    card = data_card("mine", exported, "python -m tunelab prepare to=out")
    assert f"| train | {exported.num_rows['train']:,} | `train.jsonl` |" in card
    assert all(digest in card for digest in exported.sources[0]["sha256"].values())


def test_nothing_left_is_an_error(tmp_path):
    config = DataConfig(path=write(tmp_path, 2), test_fraction=0.9, validation_fraction=0.09)
    with pytest.raises(DataError, match="expected training examples, found none"):
        export_rows(open_stage(config, make_tokenizer()), tmp_path)


@pytest.mark.parametrize("kind", ["preference", "kto"])
def test_an_answer_of_several_turns_and_a_prompt_with_answers_come_back(kind):
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}
    prompt = [
        {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"},
        {"role": "user", "content": "2+2"},
    ]  # fmt: skip
    answer = [
        {"role": "assistant", "content": "", "tool_calls": [call]}, {"role": "tool", "content": "4"},
        {"role": "assistant", "content": "it is 4"},
    ]  # fmt: skip
    rejected = [{"role": "assistant", "content": "no"}]
    parts = {"preference": {"chosen": answer, "rejected": rejected}, "kto": {"completion": answer, "label": False}}
    row = Row({"prompt": prompt, **parts[kind]}, "o")
    example = to_example(row, decide_layout("auto", ColumnsConfig(), TagsConfig(), [row]), TrainOn.responses)
    assert read_back(example) == example
