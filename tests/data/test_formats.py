import pytest

from tunelab.config import ColumnsConfig, Format, read_keys
from tunelab.data.formats import decide_format, resolve_columns, to_example
from tunelab.data.records import Message, Role, Row
from tunelab.errors import DataError

USER = {"role": "user", "content": "hi"}
ASSISTANT = {"role": "assistant", "content": "hello"}
SYSTEM = {"role": "system", "content": "be kind"}


def example(fields, format_=Format.auto, **columns):
    config, row = ColumnsConfig(**columns), Row(fields, "a.jsonl:7")
    decided = decide_format(format_, config, row)
    return to_example(row, decided, resolve_columns(decided, config))


def turns(fields, format_=Format.auto, **columns):
    return [(m.role.value, m.content, m.trained) for m in example(fields, format_, **columns).messages]


def test_messages_train_every_answer():
    assert turns({"messages": [SYSTEM, USER, ASSISTANT, USER, ASSISTANT]}) == [
        ("system", "be kind", False),
        ("user", "hi", False),
        ("assistant", "hello", True),
        ("user", "hi", False),
        ("assistant", "hello", True),
    ]


def test_messages_with_a_system_column_of_another_name():
    fields = {"chat": [USER, ASSISTANT], "sys": "be kind"}
    assert turns(fields, messages="chat", system="sys")[0] == ("system", "be kind", False)


def test_alpaca_keeps_instruction_and_input_apart():
    fields = {"instruction": "Add", "input": "1, 2", "output": "3"}
    assert example(fields).messages == (
        Message(Role.USER, "Add\n\n1, 2", parts=("Add", "1, 2")),
        Message(Role.ASSISTANT, "3", trained=True),
    )


@pytest.mark.parametrize("extra", [{"input": ""}, {"input": None}, {}])
def test_alpaca_without_input(extra):
    assert example({"instruction": "Add", "output": "3", **extra}).messages[0] == Message(Role.USER, "Add")


def test_prompt_response_with_system():
    fields = {"prompt": "hi", "response": "hello", "system": "be kind"}
    assert turns(fields) == [
        ("system", "be kind", False),
        ("user", "hi", False),
        ("assistant", "hello", True),
    ]
    assert turns({**fields, "system": None})[0] == ("user", "hi", False)


@pytest.mark.parametrize(
    ("fields", "columns", "expected"),
    [
        ({"question", "answer"}, {"prompt": "question", "response": "answer"}, Format.prompt_response),
        ({"prompt", "answer"}, {"response": "answer"}, Format.prompt_response),
        ({"instruction", "answer"}, {"response": "answer"}, Format.alpaca),
        ({"q", "context", "a"}, {"prompt": "q", "input": "context", "response": "a"}, Format.alpaca),
        ({"messages", "prompt", "response"}, {}, Format.messages),
        ({"messages", "prompt", "response"}, {"prompt": "prompt"}, Format.prompt_response),
        ({"chat"}, {"messages": "chat"}, Format.messages),
        ({"instruction", "output"}, {}, Format.alpaca),
    ],
)
def test_auto(fields, columns, expected):
    row = Row(dict.fromkeys(fields, ""), "a.jsonl:1")
    assert decide_format(Format.auto, ColumnsConfig(**columns), row) is expected


def test_only_the_keys_of_the_chosen_format_are_read():
    config = ColumnsConfig(prompt="q", response="a", messages="unread")
    decide_format(Format.alpaca, config, Row({}, "x"))
    assert read_keys(config) == set()
    resolve_columns(Format.prompt_response, config)
    assert read_keys(config) == {"prompt", "response", "system"}


PAIR = {"prompt": "p", "response": "r"}
BAD = {
    "unknown layout": (
        {"question": "", "answer": ""},
        {},
        r"a\.jsonl:7: expected the columns of a known format \(messages: messages; "
        r"alpaca: instruction, output; prompt_response: prompt, response\), "
        r"found columns 'question', 'answer'; "
        r"set data\.columns\.prompt=<column> data\.columns\.response=<column>\.",
    ),
    "no columns": ({}, {}, r"found no columns"),
    "null": ({**PAIR, "prompt": None}, {}, r"a\.jsonl:7: expected text in column 'prompt', found null\."),
    "number": ({**PAIR, "response": 3}, {}, r"expected text in column 'response', found 3\."),
    "long": ({**PAIR, "response": ["x" * 99]}, {}, r"found \['x{55}…\."),
    "surrogate": (
        {**PAIR, "prompt": "a\ud83d"},
        {},
        r"found half a surrogate pair \(U\+D83D\) at character 1\.",
    ),
    "system": ({**PAIR, "system": 1}, {}, r"expected text in column 'system', found 1\."),
    "declared system": (
        PAIR,
        {"system": "sys"},
        r"expected a column 'sys', .*set data\.columns\.system=<column>\.",
    ),
    "not a list": ({"messages": "hi"}, {}, r"expected a list of messages in 'messages', found 'hi'\."),
    "empty list": ({"messages": []}, {}, r"expected a list of messages in 'messages', found \[\]\."),
    "not an object": ({"messages": ["hi"]}, {}, r"expected an object with role and content in messages\[0\]"),
    "no role": (
        {"messages": [{"content": ""}]},
        {},
        r"expected a role \(system, user, assistant\) .*, found null",
    ),
    "list role": ({"messages": [{"role": [], "content": ""}]}, {}, r"found \[\]\."),
    "foreign role": (
        {"messages": [USER, {"role": "gpt", "content": ""}]},
        {},
        r"in messages\[1\], found 'gpt'\.",
    ),
    "null content": (
        {"messages": [USER, {"role": "assistant", "content": None}]},
        {},
        r"a\.jsonl:7: expected text in messages\[1\]\.content, found null\.",
    ),
    "tool call": (
        {"messages": [USER, {**ASSISTANT, "tool_calls": [{}]}]},
        {},
        r"expected role and content alone in messages\[1\], found 'tool_calls' \(unsupported\)\.",
    ),
    "no answer": (
        {"messages": [USER]},
        {},
        r"a\.jsonl:7: expected a message of the assistant, found roles user\.",
    ),
    "system alone": (
        {"messages": [SYSTEM]},
        {},
        r"expected a message of the assistant, found roles system\.",
    ),
    "answer first": (
        {"messages": [ASSISTANT, USER]},
        {},
        r"in turn, the assistant last; found roles assistant, user",
    ),
    "question last": ({"messages": [USER, ASSISTANT, USER]}, {}, r"found roles user, assistant, user\."),
    "late system": ({"messages": [USER, SYSTEM, ASSISTANT]}, {}, r"found roles user, system, assistant\."),
    "two systems": (
        {"messages": [SYSTEM, USER, ASSISTANT], "system": "x"},
        {},
        r"found roles system, system, user",
    ),
    "two users": (
        {"messages": [USER, USER, ASSISTANT]},
        {},
        r"expected an optional system message, then user and",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_rows(case):
    fields, columns, message = BAD[case]
    with pytest.raises(DataError, match=message):
        example(fields, **columns)


def test_missing_column_names_the_override():
    with pytest.raises(
        DataError,
        match=r"a\.jsonl:7: expected a column 'output', found columns 'instruction'; set data\.columns\.resp",
    ):
        example({"instruction": "x"}, Format.alpaca)
