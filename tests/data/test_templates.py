import pytest
from tiny_tokenizers import byte_level

from tunelab.data.records import Conversation, Message, Role
from tunelab.data.rendering.plain import PLAIN_TEMPLATES, PlainRenderer, chatml_text
from tunelab.errors import DataError


def conversation(*texts, system=None, parts=None):
    """Questions and answers in turn."""
    messages = [Message(Role.SYSTEM, system)] if system else []
    for index, text in enumerate(texts):
        answer = index % 2 == 1
        role = Role.ASSISTANT if answer else Role.USER
        messages.append(Message(role, text, trained=answer, parts=None if answer else parts))
    return Conversation(tuple(messages), "a.jsonl:3")


def render(example, name="plain"):
    """Alternating stretches; supervised ones in a list."""
    (rendered,) = PlainRenderer(PLAIN_TEMPLATES[name], "</s>").render(example)
    return [[s.text] if s.supervised else s.text for s in rendered.segments]


def trained(example, *indices):
    """The same conversation with exactly these messages trained."""
    messages = [Message(m.role, m.content, trained=i in indices, parts=m.parts) for i, m in enumerate(example.messages)]
    return Conversation(tuple(messages), example.origin)


BELOW = "Below is an instruction that describes a task"
WRITE = "Write a response that appropriately completes the request.\n\n### Instruction:\n"


def test_alpaca_layout():
    assert render(conversation("Add", "3"), "alpaca") == [f"{BELOW}. {WRITE}Add\n\n### Response:\n", ["3</s>"]]
    assert render(conversation("Add\n\n1, 2", "3", parts=("Add", "1, 2")), "alpaca") == [
        f"{BELOW}, paired with an input that provides further context. {WRITE}Add\n\n"
        "### Input:\n1, 2\n\n### Response:\n",
        ["3</s>"],
    ]


def test_alpaca_layout_with_system_and_two_turns():
    assert render(conversation("q", "a", "r", "b", system="Be kind."), "alpaca") == [
        "Be kind.\n\n### Instruction:\nq\n\n### Response:\n",
        ["a</s>"],
        "\n\n### Instruction:\nr\n\n### Response:\n",
        ["b</s>"],
    ]


def test_plain_layout():
    assert render(conversation("q", "a", "r", "b", system="s")) == ["s\nq\n", ["a</s>"], "\nr\n", ["b</s>"]]


def test_greeting():
    greeting = [Message(Role.ASSISTANT, "hello", True), Message(Role.USER, "q"), Message(Role.ASSISTANT, "a", True)]
    example = Conversation(tuple(greeting), "x")
    assert render(example) == [["hello</s>"], "\nq\n", ["a</s>"]]
    assert render(example, "alpaca")[1:] == [["hello</s>"], "\n\n### Instruction:\nq\n\n### Response:\n", ["a</s>"]]


def test_only_trained_answers_are_supervised_and_nothing_after_them_stays():
    example = conversation("q", "a", "r", "b", "t", "c")
    assert render(trained(example, 3)) == ["q\na</s>\nr\n", ["b</s>"]]
    assert render(trained(example)) == ["q\na</s>\nr\nb</s>\nt\nc</s>"]


def test_trained_questions():
    assert render(trained(conversation("q", "a", "r", "b"), 0, 1, 2, 3)) == [
        ["q"], "\n", ["a</s>"], "\n", ["r"], "\n", ["b</s>"],
    ]  # fmt: skip
    example = trained(conversation("Add\n\n1, 2", "3", parts=("Add", "1, 2")), 0, 1)
    assert render(example, "alpaca")[1] == ["Add\n\n### Input:\n1, 2"]


def test_what_must_be_found_again():
    (rendered,) = PlainRenderer(PLAIN_TEMPLATES["plain"], "</s>").render(conversation("q", " a ", "r", "b\n"))
    assert rendered.trained == ("a", "b")
    assert rendered.end_of_turn == "</s>"
    assert rendered.prompt == "q\n a </s>\nr\n"
    assert rendered.response == "b\n"


TOOL_CALL = Message(Role.ASSISTANT, "", True, extra={"tool_calls": [{"function": {"name": "f"}}]})
QUESTION, ANSWER = Message(Role.USER, "q"), Message(Role.ASSISTANT, "a", True)


@pytest.mark.parametrize(
    ("messages", "found"),
    [
        ((QUESTION, TOOL_CALL), "a tool call or its result"),
        ((QUESTION, Message(Role.TOOL, "t"), ANSWER), "a tool call or its result"),
        ((QUESTION, Message(Role.ASSISTANT, "a", True, extra={"reasoning_content": "r"})), "reasoning_content"),
        ((QUESTION, ANSWER, Message(Role.SYSTEM, "s"), QUESTION, ANSWER), "a later system message"),
        ((Message(Role.SYSTEM, "s", True), QUESTION, ANSWER), "a trained system message"),
        ((QUESTION, QUESTION, ANSWER), "two messages of the user in a row"),
    ],
)
def test_what_a_plain_template_would_lose_is_refused(messages, found):
    with pytest.raises(DataError, match=rf"x:1: .*template 'plain', found {found}; set data\.template=chat"):
        render(Conversation(messages, "x:1"))


def test_tools_are_refused():
    with pytest.raises(DataError, match="found tools"):
        render(Conversation((QUESTION, ANSWER), "x:1", tools=({"name": "f"},)))


def test_chatml_text():
    tokenizer = byte_level(chat_template=chatml_text(None, bos=True))
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert text == "<s><|im_start|>user\nq</s>\n<|im_start|>assistant\na</s>\n<|im_start|>assistant\n"
