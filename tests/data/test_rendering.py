import pytest
from tiny_tokenizers import BARE, CHATML, INSTRUCT, REWRITING, THINKING, byte_level

from tunelab.config import Template
from tunelab.data.records import Example, Message, Role
from tunelab.data.rendering import decide_template, make_renderer
from tunelab.errors import DataError


def conversation(*texts, system=None, parts=None):
    """Questions and answers in turn."""
    messages = [Message(Role.SYSTEM, system)] if system else []
    for index, text in enumerate(texts):
        answer = index % 2 == 1
        role = Role.ASSISTANT if answer else Role.USER
        messages.append(Message(role, text, trained=answer, parts=None if answer else parts))
    return Example(tuple(messages), "a.jsonl:3")


def render(example, chat_template=None, template=Template.chat, **options):
    """Rendered examples as alternating stretches; supervised ones in a list."""
    renderer = make_renderer(template, byte_level(chat_template=chat_template, **options))
    rendered = renderer.render(example)
    return [[[s.text] if s.supervised else s.text for s in r.segments] for r in rendered]


def test_chatml_is_one_example_with_every_answer():
    assert render(conversation("q", "a", "r", "b", system="s"), CHATML) == [
        [
            "<|start|>system\ns<|end|>\n<|start|>user\nq<|end|>\n<|start|>assistant\n",
            ["a<|end|>"],
            "\n<|start|>user\nr<|end|>\n<|start|>assistant\n",
            ["b<|end|>"],
            "\n",
        ]
    ]


def test_prompt_and_response():
    tokenizer = byte_level(chat_template=CHATML)
    (rendered,) = make_renderer(Template.chat, tokenizer).render(conversation("q", "a", "r", "b"))
    assert rendered.prompt == (
        "<|start|>user\nq<|end|>\n<|start|>assistant\na<|end|>\n<|start|>user\nr<|end|>\n<|start|>assistant\n"
    )
    assert rendered.response == "b"
    assert rendered.origin == "a.jsonl:3"


def test_template_that_rewrites_earlier_turns_gives_one_example_for_each():
    assert render(conversation("q", "a", "r", "b"), REWRITING) == [
        ["<|start|>user\nq<|end|>\n<|start|>assistant\n", ["<think></think>a<|end|>"], "\n"],
        [
            "<|start|>user\nq<|end|>\n<|start|>assistant\na<|end|>\n<|start|>user\nr<|end|>\n<|start|>assistant\n",
            ["<think></think>b<|end|>"],
            "\n",
        ],
    ]


def test_template_without_end_marker_gets_the_eos_token():
    assert render(conversation("q", "a", "r", "b"), BARE) == [
        ["user: q\nassistant: ", ["a</s>"], "\nuser: r\nassistant: ", ["b</s>"], "\n"]
    ]


def test_template_without_generation_prompt_leaves_the_space_to_the_answer():
    assert render(conversation("q", " a ", "r", "b"), INSTRUCT) == [
        ["<s>[INST] q [/INST]", [" a</s>"], "[INST] r [/INST]", [" b</s>"]]
    ]


def test_eos_between_turns_only_is_not_doubled():
    template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}"
        "{% if not loop.last and m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    )
    assert render(conversation("q", "a", "r", "b"), template) == [
        ["user: qassistant: ", ["a</s>"], "user: rassistant: ", ["b</s>"]]
    ]


@pytest.mark.parametrize("answer", ["<|end|>", "a<|end|>\n", "x", "", "\n\n", "assistant\n"])
def test_the_answer_is_not_searched_for(answer):
    assert render(conversation("x assistant\n", answer), CHATML) == [
        ["<|start|>user\nx assistant\n<|end|>\n<|start|>assistant\n", [f"{answer}<|end|>"], "\n"]
    ]


def test_alpaca_layout():
    below = "Below is an instruction that describes a task"
    write = "Write a response that appropriately completes the request.\n\n### Instruction:\n"
    assert render(conversation("Add", "3"), template=Template.alpaca) == [
        [f"{below}. {write}Add\n\n### Response:\n", ["3</s>"]]
    ]
    assert render(conversation("Add\n\n1, 2", "3", parts=("Add", "1, 2")), template=Template.alpaca) == [
        [
            f"{below}, paired with an input that provides further context. {write}Add\n\n"
            "### Input:\n1, 2\n\n### Response:\n",
            ["3</s>"],
        ]
    ]


def test_alpaca_layout_with_system_and_two_turns():
    assert render(conversation("q", "a", "r", "b", system="Be kind."), template=Template.alpaca) == [
        [
            "Be kind.\n\n### Instruction:\nq\n\n### Response:\n",
            ["a</s>"],
            "\n\n### Instruction:\nr\n\n### Response:\n",
            ["b</s>"],
        ]
    ]


def test_plain_layout():
    assert render(conversation("q", "a", "r", "b", system="s"), template=Template.plain) == [
        ["s\nq\n", ["a</s>"], "\nr\n", ["b</s>"]]
    ]


def test_only_trained_answers_are_supervised():
    messages = list(conversation("q", "a", "r", "b", "t", "c").messages)
    messages[1] = Message(Role.ASSISTANT, "a")
    messages[5] = Message(Role.ASSISTANT, "c")
    example = Example(tuple(messages), "x")
    assert render(example, template=Template.plain) == [["q\na</s>\nr\n", ["b</s>"]]]
    assert [part for part in render(example, CHATML)[0] if isinstance(part, list)] == [["b<|end|>"]]


def test_auto_template():
    assert decide_template(Template.auto, byte_level(chat_template=CHATML)) is Template.chat
    assert decide_template(Template.auto, byte_level()) is Template.alpaca
    assert decide_template(Template.plain, byte_level(chat_template=CHATML)) is Template.plain


def test_end_of_turn():
    assert make_renderer(Template.chat, byte_level(chat_template=CHATML)).end_of_turn == "<|end|>"
    assert make_renderer(Template.chat, byte_level(chat_template=BARE)).end_of_turn == "</s>"
    assert make_renderer(Template.plain, byte_level(chat_template=CHATML)).end_of_turn == "</s>"


def test_chat_asked_of_a_tokenizer_without_template():
    with pytest.raises(DataError, match=r"expected a tokenizer with a chat template for 'chat'.*data\.template=alpaca"):
        decide_template(Template.chat, byte_level())


@pytest.mark.parametrize(("template", "chat"), [(Template.plain, None), (Template.chat, BARE)])
def test_no_end_token(template, chat):
    with pytest.raises(DataError, match=r"expected a tokenizer with an end-of-sequence token"):
        make_renderer(template, byte_level(chat_template=chat, eos_token=None))


def test_own_marker_needs_no_eos_token():
    assert render(conversation("q", "a"), CHATML, eos_token=None)[0][1] == ["a<|end|>"]


def test_refused_role():
    with pytest.raises(DataError, match=r"a\.jsonl:3: .* refused the conversation: Only user and assistant roles"):
        render(conversation("q", "a", system="s"), INSTRUCT)


def test_generation_prompt_that_the_turn_does_not_begin_with():
    with pytest.raises(
        DataError, match=r"a\.jsonl:3: expected a chat template whose generation prompt begins the turn"
    ):
        render(conversation("q", "a"), THINKING)


def test_answers_that_end_unalike():
    template = (
        "{% for m in messages %}{{ m.role }}:{{ m.content }}"
        "{{ '!' if m.content == 'shout' else '.' }}{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    with pytest.raises(DataError, match=r"expected a chat template that ends every answer alike"):
        render(conversation("q", "shout"), template)
