"""What each format makes of its rows."""

import json

import pytest
from format_rows import ASSISTANT, GOOD_ROWS, GPT, HUMAN, OTHER_GPT, SYSTEM, USER, read, turns
from hypothesis import given
from hypothesis import strategies as st

from tunelab.data.records import Message, Passage, Role, Segment, TokenSequence

CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {}}}
LATER = [{"role": "user", "content": "more"}, {"role": "assistant", "content": "no"}]


@pytest.mark.parametrize("case", GOOD_ROWS)
def test_auto_and_the_name_read_the_same(case):
    name, fields = GOOD_ROWS[case]
    assert read(fields) == read(fields, format=name)
    assert read(fields).origin == "a.jsonl:7"


# alpaca


def test_alpaca_keeps_instruction_and_input_apart():
    assert read({"instruction": "Add", "input": "1, 2", "output": "3"}).messages == (
        Message(Role.USER, "Add\n\n1, 2", parts=("Add", "1, 2")),
        Message(Role.ASSISTANT, "3", trained=True),
    )


@pytest.mark.parametrize("extra", [{"input": ""}, {"input": None}, {}, {"history": None}, {"history": []}])
def test_alpaca_without_input(extra):
    assert read({"instruction": "Add", "output": "3", **extra}).messages[0] == Message(Role.USER, "Add")


def test_alpaca_with_input_alone():
    assert read({"instruction": "", "input": "1, 2", "output": "3"}).messages[0] == Message(Role.USER, "1, 2")


def test_alpaca_with_system_and_history():
    fields = {"instruction": "c", "output": "C", "system": "s", "history": [["a", "A"], ["b", "B"]]}
    assert turns(fields) == [
        ("system", "s", False),
        ("user", "a", False),
        ("assistant", "A", True),
        ("user", "b", False),
        ("assistant", "B", True),
        ("user", "c", False),
        ("assistant", "C", True),
    ]
    assert [trained for _, _, trained in turns(fields, train_on="last_response")] == [False] * 6 + [True]


# what is trained


@pytest.mark.parametrize(
    ("train_on", "expected"),
    [
        ("responses", [False, False, True, False, True]),
        ("last_response", [False, False, False, False, True]),
        ("all", [True] * 5),
    ],
)
@pytest.mark.parametrize("format", ["messages", "sharegpt"])
def test_train_on(train_on, expected, format):
    conversation = [SYSTEM, USER, ASSISTANT, *LATER]
    if format == "sharegpt":
        names = {"system": "system", "user": "human", "assistant": "gpt"}
        conversation = [{"from": names[turn["role"]], "value": turn["content"]} for turn in conversation]
    found = turns({"conversations": conversation}, format=format, train_on=train_on)
    assert [trained for _, _, trained in found] == expected


@pytest.mark.parametrize("train_on", ["responses", "last_response", "all"])
@pytest.mark.parametrize(
    ("flag", "expected"), [({"train": True}, True), ({"weight": 0}, False), ({"weight": 1.0}, True)]
)
def test_a_flag_decides_before_train_on(train_on, flag, expected):
    conversation = [{**USER, **flag}, {**ASSISTANT, **flag}, {**LATER[0], **flag}, {**LATER[1], **flag}]
    assert {trained for _, _, trained in turns({"messages": conversation}, train_on=train_on)} == {expected}


def test_a_null_flag_decides_nothing_and_two_may_agree():
    quiet = {**ASSISTANT, "train": None, "weight": None}
    assert turns({"messages": [USER, quiet]})[1][2] is True
    assert turns({"messages": [USER, {**ASSISTANT, "train": False, "weight": 0}]})[1][2] is False


@pytest.mark.parametrize(
    ("train_on", "expected"),
    [
        ("responses", [False, False, False, True]),
        ("last_response", [False, False, False, True]),
        ("all", [True, True, True, True]),
    ],
)
def test_of_a_prompt_nothing_is_trained_but_by_all(train_on, expected):
    fields = {"prompt": [USER, ASSISTANT, LATER[0]], "completion": [LATER[1]]}
    assert [trained for _, _, trained in turns(fields, train_on=train_on)] == expected


def test_a_flag_trains_an_answer_within_the_prompt():
    fields = {"prompt": [USER, {**ASSISTANT, "train": True}, LATER[0]], "completion": "no"}
    assert [trained for _, _, trained in turns(fields)] == [False, True, False, True]


# messages and sharegpt


def test_messages_with_a_system_column_of_another_name():
    fields = {"chat": [USER, ASSISTANT], "sys": "be kind"}
    assert turns(fields, messages="chat", system="sys")[0] == ("system", "be kind", False)


def test_a_developer_is_a_system_and_text_parts_are_joined():
    parts = [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]
    found = turns({"messages": [{"role": "developer", "content": "s"}, {"role": "user", "content": parts}, ASSISTANT]})
    assert found[:2] == [("system", "s", False), ("user", "hi", False)]


def test_tool_calls_are_normalised_and_kept():
    openai = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    asked = {"role": "assistant", "content": None, "tool_calls": [openai], "reasoning_content": "hm", "name": None}
    result = {"role": "tool", "content": "2", "tool_call_id": "1", "name": "add"}
    fields = {"messages": [USER, asked, result, ASSISTANT], "tools": json.dumps([TOOL])}
    example = read(fields)
    assert example.messages[1:3] == (
        Message(Role.ASSISTANT, "", True, extra={"reasoning_content": "hm", "tool_calls": [{**CALL, "id": "1"}]}),
        Message(Role.TOOL, "2", extra={"tool_call_id": "1", "name": "add"}),
    )
    assert example.tools == (TOOL,)


@pytest.mark.parametrize(
    "tools", [[TOOL], [TOOL["function"]], json.dumps([TOOL]), [json.dumps(TOOL)], json.dumps([TOOL["function"]])]
)
def test_all_ways_to_write_tools(tools):
    assert read({"messages": [USER, ASSISTANT], "tools": tools}).tools == (TOOL,)


@pytest.mark.parametrize("tools", [None, "", []])
def test_no_tools(tools):
    assert read({"messages": [USER, ASSISTANT], "tools": tools}).tools == ()


@pytest.mark.parametrize(
    "call",
    [
        '{"name": "add", "arguments": {"a": 1}}',
        '[{"name": "add", "arguments": "{\\"a\\": 1}"}]',
        {"name": "add", "arguments": {"a": 1}},
    ],
)
def test_sharegpt_calls_are_messages_calls(call):
    result = {"from": "observation", "value": "2"}
    sharegpt = {"conversations": [HUMAN, {"from": "function_call", "value": call}, result, GPT]}
    asked = {"role": "assistant", "content": "", "tool_calls": [CALL]}
    openai = {"messages": [USER, asked, {"role": "tool", "content": "2"}, ASSISTANT]}
    assert read(sharegpt) == read(openai)


def test_a_call_may_be_the_answer_and_may_follow_a_result():
    asked = {"role": "assistant", "content": "", "tool_calls": [CALL, CALL]}
    result = {"role": "tool", "content": "2"}
    assert [role for role, _, _ in turns({"messages": [USER, asked, result, result, asked]})] == [
        "user",
        "assistant",
        "tool",
        "tool",
        "assistant",
    ]


def test_tags_name_keys_and_speakers():
    fields = {"chat": [{"who": "me", "what": "hi"}, {"who": "bot", "what": "hello"}]}
    tags = {"role": "who", "content": "what", "user": "me", "assistant": "bot"}
    expected = [("user", "hi", False), ("assistant", "hello", True)]
    assert turns(fields, format="sharegpt", messages="chat", tags=tags) == expected
    assert turns(fields, messages="chat", tags=tags) == expected


def test_tags_name_calls_and_results():
    call = {"from": "action", "value": '{"name": "add", "arguments": {"a": 1}}'}
    conversation = [HUMAN, call, {"from": "output", "value": "2"}, GPT]
    messages = read({"conversations": conversation}, tags={"tool_call": "action", "tool": "output"}).messages
    assert messages[1].extra == {"tool_calls": [CALL]}
    assert messages[2].role is Role.TOOL


# what no template touches


def test_text_is_one_document():
    assert read({"text": "a\nb"}) == Passage((Segment("a\nb", True),), "a.jsonl:7", windowed=True)


def test_segments_are_kept_as_they_are():
    found = read({"segments": [{"label": False, "text": "a "}, {"label": True, "text": ""}]})
    assert found == Passage((Segment("a ", False), Segment("", True)), "a.jsonl:7")


@pytest.mark.parametrize(
    ("more", "mask"),
    [
        ({}, (True, True, True)),
        ({"labels": [-100, 6, 7]}, (False, True, True)),
        ({"labels": [-100, -100, -100]}, (False, False, False)),
        ({"loss_mask": [0, 1, 0]}, (False, True, False)),
        ({"loss_mask": [False, True, False], "labels": [-100, 6, -100]}, (False, True, False)),
        ({"attention_mask": [1, 1, 1], "labels": None}, (True, True, True)),
    ],
)
def test_pretokenized(more, mask):
    assert read({"input_ids": [5, 6, 7], **more}) == TokenSequence((5, 6, 7), mask, "a.jsonl:7")


# preferences


PAIR_CASES = [name for name, (format, _) in GOOD_ROWS.items() if format == "preference"]


@pytest.mark.parametrize("case", PAIR_CASES)
@pytest.mark.parametrize("train_on", ["responses", "last_response", "all"])
def test_of_a_pair_only_the_answers_are_trained(case, train_on):
    example = read(GOOD_ROWS[case][1], train_on=train_on)
    assert [message.trained for message in (*example.messages, *example.rejected)] == [False, True, True]


@pytest.mark.parametrize("case", ["preference as sharegpt", "preference, whole", "preference, whole with prompt"])
def test_all_ways_to_write_a_pair_of_turns(case):
    example = read(GOOD_ROWS[case][1])
    assert example.messages == (Message(Role.USER, "hi"), Message(Role.ASSISTANT, "hello", True))
    assert example.rejected == (Message(Role.ASSISTANT, "go away", True),)


def test_whole_conversations_are_split_where_they_differ_and_equal_ones_before_the_answer():
    long = [HUMAN, GPT, {"from": "human", "value": "more"}]
    example = read({"chosen": [*long, GPT], "rejected": [*long, OTHER_GPT]})
    assert [message.trained for message in example.messages] == [False, False, False, True]
    assert read({"chosen": [HUMAN, GPT], "rejected": [HUMAN, GPT]}).rejected == (
        Message(Role.ASSISTANT, "hello", True),
    )


def test_a_pair_with_system_and_history():
    fields = {"prompt": "b", "chosen": "B", "rejected": "x", "system": "s", "history": [["a", "A"]]}
    assert [trained for _, _, trained in turns(fields)] == [False] * 4 + [True]


@pytest.mark.parametrize("case", [name for name, (format, _) in GOOD_ROWS.items() if format == "kto"])
@pytest.mark.parametrize("label", [True, False])
def test_kto(case, label):
    fields = GOOD_ROWS[case][1]
    name = "label" if "label" in fields else "kto_tag"
    example = read({**fields, name: label})
    assert example.desirable is label
    assert [message.trained for message in example.messages] == [False, True]


# the same conversation, however it is written

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@given(
    system=st.none() | TEXTS.filter(bool),
    exchanges=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4),
    train_on=st.sampled_from(["responses", "last_response", "all"]),
)
def test_the_same_conversation_in_every_format(system, exchanges, train_on):
    spoken = [(role, text) for pair in exchanges for role, text in zip(("user", "assistant"), pair, strict=True)]
    if system is not None:
        spoken.insert(0, ("system", system))
    openai = [{"role": role, "content": text} for role, text in spoken]
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    expected = read({"messages": openai}, train_on=train_on)
    assert [(message.role.value, message.content) for message in expected.messages] == spoken
    sharegpt = [{"from": names[role], "value": text} for role, text in spoken]
    assert read({"conversations": sharegpt}, train_on=train_on) == expected
    history = [list(pair) for pair in exchanges[:-1]]
    question, answer = exchanges[-1]
    alpaca = {"instruction": question, "output": answer, "history": history, "system": system}
    assert read(alpaca, train_on=train_on) == expected
    if train_on != "responses" or len(exchanges) == 1:  # answers within a prompt are not responses
        split = {"prompt": openai[:-1], "completion": openai[-1:]}
        assert read(split, train_on=train_on) == expected
        assert read({**split, "completion": answer}, train_on=train_on) == expected
