import json
import signal
import threading

import family_templates as odd
import pytest
from family_templates import FAMILIES, WITH_TOOLS, family_tokenizer, with_family_tokens
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_tokenizers import BARE, CHATML, INSTRUCT, REWRITING, THINKING, byte_level, sentencepiece_like

from tunelab.data.records import Conversation, Message, Role
from tunelab.data.rendering import limiting
from tunelab.data.rendering.chat import ChatRenderer, TemplateRenderer
from tunelab.data.rendering.jinja import load_chat_template
from tunelab.data.rendering.turns import to_turns
from tunelab.data.upstream import chat_template_text, render_chat_template
from tunelab.errors import DataError

U, A, S, T = Role.USER, Role.ASSISTANT, Role.SYSTEM, Role.TOOL


def conversation(*messages, trained=None, **options):
    """Pairs of role and content; the assistant's are trained unless indices are given."""
    made = [
        Message(role, content, role is A if trained is None else index in trained)
        for index, (role, content) in enumerate(messages)
    ]
    return Conversation(tuple(made), "a.jsonl:3", **options)


def talk(*texts, **options):
    """Questions and answers in turn."""
    return conversation(*((A if index % 2 else U, text) for index, text in enumerate(texts)), **options)


def render(example, chat_template, **options):
    """Rendered examples as alternating stretches; supervised ones in a list."""
    rendered = ChatRenderer(family_tokenizer(chat_template, **options)).render(example)
    return [[[s.text] if s.supervised else s.text for s in r.segments] for r in rendered]


def supervised(example, chat_template):
    return [[stretch[0] for stretch in one if isinstance(stretch, list)] for one in render(example, chat_template)]


def test_chatml_is_one_example_with_every_answer():
    assert render(conversation((S, "s"), (U, "q"), (A, "a"), (U, "r"), (A, "b")), CHATML) == [
        [
            "<|start|>system\ns<|end|>\n<|start|>user\nq<|end|>\n<|start|>assistant\n",
            ["a<|end|>"],
            "\n<|start|>user\nr<|end|>\n<|start|>assistant\n",
            ["b<|end|>"],
            "\n",
        ]
    ]


def test_prompt_response_and_what_must_be_found_again():
    (rendered,) = ChatRenderer(byte_level(chat_template=CHATML)).render(talk("q", " a", "r", "b\n"))
    assert rendered.prompt == (
        "<|start|>user\nq<|end|>\n<|start|>assistant\n a<|end|>\n<|start|>user\nr<|end|>\n<|start|>assistant\n"
    )
    assert (rendered.response, rendered.origin) == ("b\n", "a.jsonl:3")
    assert (rendered.trained, rendered.end_of_turn) == (("a", "b"), "<|end|>")


def test_template_that_rewrites_earlier_turns_gives_one_example_for_each():
    assert render(talk("q", "a", "r", "b"), REWRITING) == [
        ["<|start|>user\nq<|end|>\n<|start|>assistant\n", ["<think></think>a<|end|>"], "\n"],
        [
            "<|start|>user\nq<|end|>\n<|start|>assistant\na<|end|>\n<|start|>user\nr<|end|>\n<|start|>assistant\n",
            ["<think></think>b<|end|>"],
            "\n",
        ],
    ]


def test_template_without_end_marker_gets_the_eos_token():
    assert render(talk("q", "a", "r", "b"), BARE) == [
        ["user: q\nassistant: ", ["a</s>"], "\nuser: r\nassistant: ", ["b</s>"], "\n"]
    ]


def test_template_without_generation_prompt_leaves_the_space_to_the_answer():
    assert render(talk("q", " a ", "r", "b"), INSTRUCT) == [
        ["<s>[INST] q [/INST]", [" a</s>"], "[INST] r [/INST]", [" b</s>"]]
    ]


def test_eos_between_turns_only_is_not_doubled():
    template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}"
        "{% if not loop.last and m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    )
    assert render(talk("q", "a", "r", "b"), template) == [
        ["user: qassistant: ", ["a</s>"], "user: rassistant: ", ["b</s>"]]
    ]


@pytest.mark.parametrize("answer", ["<|end|>", "a<|end|>\n", "x", "", "\n\n", "assistant\n", "\ue0001\ue001"])
def test_the_answer_is_not_searched_for(answer):
    assert render(talk("x assistant\n", answer), CHATML) == [
        ["<|start|>user\nx assistant\n<|end|>\n<|start|>assistant\n", [f"{answer}<|end|>"], "\n"]
    ]


def test_whatever_is_trained_is_supervised_up_to_its_end_of_turn():
    example = conversation((S, "s"), (U, "q"), (A, "a"), trained={0, 1, 2})
    assert render(example, CHATML) == [
        [
            "<|start|>system\n", ["s<|end|>"], "\n<|start|>user\n", ["q<|end|>"], "\n<|start|>assistant\n",
            ["a<|end|>"], "\n",
        ]
    ]  # fmt: skip
    assert supervised(example, FAMILIES["mistral-v3"]) == [["s", "q", "a</s>"]]
    assert supervised(example, FAMILIES["qwen3"]) == [
        ["s<|im_end|>", "q<|im_end|>", "<think>\n\n</think>\n\na<|im_end|>"]
    ]


def test_only_what_is_trained_is_supervised():
    assert supervised(talk("q", "a", "r", "b", trained={1}), CHATML) == [["a<|end|>"]]
    assert supervised(talk("q", "a", "r", "b", trained={2}), CHATML) == [["r<|end|>"]]
    assert render(talk("q", "a", trained=()), CHATML) == [["<|start|>user\nq<|end|>\n<|start|>assistant\na<|end|>\n"]]


def test_trained_questions_of_a_template_that_rewrites_go_with_the_next_answer():
    assert supervised(talk("q", "a", "r", "b", trained={0, 1, 2, 3}), REWRITING) == [
        ["q<|end|>", "<think></think>a<|end|>"],
        ["r<|end|>", "<think></think>b<|end|>"],
    ]


def test_neighbours_with_nothing_between_them_are_one_stretch():
    (rendered,) = ChatRenderer(family_tokenizer(FAMILIES["dense"])).render(talk("q", " a ", trained={0, 1}))
    assert [segment.text for segment in rendered.segments] == ["q</s> a </s>"]
    assert rendered.trained == ("q</s> a",)


def test_greeting():
    example = conversation((A, "hi"), (U, "q"), (A, "a"))
    for name, template in FAMILIES.items():
        if name in ("mistral-v1", "gemma"):
            with pytest.raises(DataError, match=r"a\.jsonl:3: .*Roles must alternate"):
                render(example, template)
        else:
            found = [text.strip() for one in supervised(example, template) for text in one]
            assert ["hi" in found[0], "a" in found[1], len(found)] == [True, True, 2], name


@pytest.mark.parametrize("name", FAMILIES)
def test_families_supervise_exactly_the_answers(name):
    end = ChatRenderer(family_tokenizer(FAMILIES[name])).end_of_turn
    frames = ("<think>", "</think>", "<quick>", end)
    answers = [text for one in supervised(talk("ask", "one", "again", "two"), FAMILIES[name]) for text in one]
    for answer, content in zip(answers, ["one", "two"], strict=True):
        assert answer.endswith(end)
        for frame in frames:
            answer = answer.replace(frame, "")
        assert answer.strip() == content


CALL = {"id": "abcdef123", "type": "function", "function": {"name": "add", "arguments": {"who": 'an "ä"', "n": 3}}}
AS_TEXT = {**CALL, "function": {"name": "add", "arguments": json.dumps(CALL["function"]["arguments"])}}
TOOLS = ({"type": "function", "function": {"name": "add", "description": "d", "parameters": {"type": "object"}}},)


def with_tools(call=CALL, content="", result='say "ö"', tools=TOOLS):
    return Conversation(
        (
            Message(U, "ask"),
            Message(A, content, True, extra={"tool_calls": [call]}),
            Message(T, result, extra={"tool_call_id": "abcdef123", "name": "add"}),
            Message(A, "done", True),
        ),
        "a.jsonl:3",
        tools=tools,
    )


@pytest.mark.parametrize("call", [CALL, AS_TEXT])
@pytest.mark.parametrize("name", WITH_TOOLS)
def test_tool_calls(name, call):
    tokenizer = family_tokenizer(FAMILIES[name])
    rendered = ChatRenderer(tokenizer).render(with_tools(call))
    first, second = [s.text for r in rendered for s in r.segments if s.supervised]
    assert '"n": 3' in first
    assert 'an \\"ä\\"' in first
    assert '\\\\"' not in first
    assert first.endswith(("<|im_end|>", "</s>", "<|eom|>"))
    assert first.count("add") == 1
    assert second.endswith(("done<|im_end|>", "done</s>", "done<|eot|>"))
    whole = "".join(s.text for s in rendered[-1].segments)
    turns = to_turns(with_tools().messages)
    assert whole == tokenizer.apply_chat_template(turns, tools=list(TOOLS), tokenize=False)


def test_arguments_as_text_where_the_template_wants_them():
    template = CHATML.replace(
        "{{ m.content }}",
        "{{ m.content }}{% for c in m.tool_calls or [] %}{{ c.function.name + c.function.arguments }}{% endfor %}",
    )
    for call in (CALL, AS_TEXT):
        assert supervised(with_tools(call, tools=()), template)[0][0] == ('add{"who": "an \\"ä\\"", "n": 3}<|end|>')


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in WITH_TOOLS])
def test_templates_that_lose_tools_are_refused(name):
    alternating = name in ("mistral-v1", "gemma")
    expected = "Roles must alternate" if alternating else r"expected the tool call of message 2 .* \('add'\)"
    with pytest.raises(DataError, match=rf"a\.jsonl:3: .*{expected}.*set data\.template="):
        render(with_tools(), FAMILIES[name])
    with pytest.raises(DataError, match=r"expected the tool in what the chat template writes.*\('add'\)"):
        render(talk("q", "a", tools=TOOLS), FAMILIES[name])


def test_content_beside_a_tool_call_that_is_lost():
    assert "I look" in supervised(with_tools(content="I look"), FAMILIES["qwen3"])[0][0]
    with pytest.raises(DataError, match=r"expected message 2 \(assistant\) .*left out or changed \('I look'\)"):
        render(with_tools(content="I look"), FAMILIES["mistral-v3"])


def thinking(*thoughts):
    messages = []
    for thought in thoughts:
        messages += [Message(U, "q"), Message(A, "answer", True, extra={"reasoning_content": thought})]
    return Conversation(tuple(messages), "a.jsonl:3")


def test_reasoning_is_learned_where_the_template_writes_it():
    assert supervised(thinking("so", "thus"), FAMILIES["qwen3"]) == [
        ["<think>\nso\n</think>\n\nanswer<|im_end|>"],
        ["<think>\nthus\n</think>\n\nanswer<|im_end|>"],
    ]
    with pytest.raises(DataError, match=r"expected message 2 \(assistant\).*left out or changed \('so'\)"):
        render(thinking("so"), FAMILIES["phi-4"])


def test_thoughts_within_the_content():
    content = "<think>so</think>answer"
    assert (
        supervised(talk("q", content, "r", content), FAMILIES["qwen3"])
        == [["<think>\nso\n</think>\n\nanswer<|im_end|>"]] * 2
    )
    with pytest.raises(DataError, match=r"left out or changed \('lost'\)"):
        render(talk("q", "lost<think>so</think>answer"), FAMILIES["qwen3"])


def test_prompt_that_depends_on_what_is_said():
    assert supervised(talk("q", "a"), odd.SWITCHED) == [["<quick>a<|im_end|>"]]
    assert supervised(talk("q /quick", "a"), odd.SWITCHED) == [["a<|im_end|>"]]


def test_refused_role():
    with pytest.raises(DataError, match=r"a\.jsonl:3: .* refused the conversation: Only user and assistant roles"):
        render(conversation((S, "s"), (U, "q"), (A, "a")), INSTRUCT)


def test_generation_prompt_that_the_turn_does_not_begin_with():
    with pytest.raises(
        DataError, match=r"a\.jsonl:3: expected a chat template whose generation prompt begins the turn"
    ):
        render(talk("q", "a"), THINKING)


def test_answers_that_end_unalike():
    template = (
        "{% for m in messages %}{{ m.role }}:{{ m.content }}"
        "{{ '!' if m.content == 'shout' else '.' }}{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    with pytest.raises(DataError, match=r"expected a chat template that ends every answer alike"):
        render(talk("q", "shout"), template)


LONG = conversation((S, "the rules of it"), (U, "a"), (A, "an answer of more than twenty characters"))


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (odd.UPPERCASE, "expected a chat template that .* writes it unchanged"),
        (odd.SHORTENS, "expected a chat template that .* writes it unchanged"),
        (odd.DROPS_SYSTEM, r"expected message 1 \(system\).*left out or changed \('the rules of it'\)"),
        (odd.DROPS_QUESTION, r"expected message 2 \(user\).*left out or changed"),
        (odd.ATTRIBUTES, "access to attribute '__class__' of 'str' object is unsafe"),
        (odd.RECURSIVE, "recurses without end"),
        (odd.GIGANTIC, "writes more than 20,000,000 characters"),
        (odd.MULTIPLIED, "writes more than 20,000,000 characters"),
        (odd.RANDOM, "expected a template that renders alike every time"),
        (odd.ODD_TURNS, "refused the conversation: odd"),
        (odd.DIVIDES, "refused the conversation: integer division or modulo by zero"),
    ],
)
def test_odd_templates_are_refused(template, message):
    with pytest.raises(DataError, match=rf"{message}.*set data\.template="):
        render(LONG, template)


def test_odd_templates_that_can_be_proved():
    assert supervised(LONG, odd.TWICE) == [["an answer of more than twenty characters<|im_end|>"]]
    assert supervised(talk("q", "a"), odd.ALWAYS_PROMPTING) == [["a<|im_end|>"]]


def test_a_lost_message_is_found_out_again_and_again():
    renderer = ChatRenderer(family_tokenizer(odd.DROPS_QUESTION))
    for _ in range(2):  # "a" stands in "assistant": only marks show that it is lost
        with pytest.raises(DataError, match=r"expected message 1 \(user\)"):
            renderer.render(talk("a", "a"))


def test_endless_template(monkeypatch):
    monkeypatch.setattr(limiting, "LIMIT_SECONDS", 0.1)
    monkeypatch.setattr(limiting, "_TICK_SECONDS", 0.05)
    with pytest.raises(DataError, match=r"data\.template: expected the chat template to render .* within 0\.1 seconds"):
        ChatRenderer(family_tokenizer(odd.ENDLESS))
    slow = CHATML + "{% if 'slow' in messages[0].content %}" + odd.ENDLESS + "{% endif %}"
    renderer = ChatRenderer(family_tokenizer(slow))
    with pytest.raises(DataError, match=r"a\.jsonl:3: expected the chat template to render"):
        renderer.render(talk("slow", "a"))


def test_the_clock_stops_and_leaves_the_timer_of_others_alone(monkeypatch):
    limiting._CLOCK._stop()
    clock = limiting._Clock()
    monkeypatch.setattr(limiting, "_CLOCK", clock)
    renderer = ChatRenderer(family_tokenizer(CHATML))
    clock._stop()
    before = signal.getsignal(signal.SIGALRM)
    signal.setitimer(signal.ITIMER_REAL, 1000)
    try:
        renderer.render(talk("q", "a"))
        assert not clock.ticking
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 900
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    renderer.render(talk("q", "a"))
    assert clock.ticking
    signal.setitimer(signal.ITIMER_REAL, 0)  # somebody took it away …
    clock.last_tick -= 100
    renderer.render(talk("q", "a"))
    assert signal.getitimer(signal.ITIMER_REAL)[0] > 0  # … and it is back
    clock._tick(0, None)  # nobody is at work
    assert (clock.ticking, signal.getitimer(signal.ITIMER_REAL)[0]) == (False, 0.0)
    assert signal.getsignal(signal.SIGALRM) == before


def test_other_threads_render_too():
    renderer = ChatRenderer(family_tokenizer(CHATML))
    found = []
    thread = threading.Thread(target=lambda: found.extend(renderer.render(talk("q", "a"))))
    thread.start()
    thread.join()
    assert found == renderer.render(talk("q", "a"))


def test_without_transformers_compiler(monkeypatch):
    example = talk("q", " a ", "r", "b")
    expected = ChatRenderer(family_tokenizer(CHATML)).render(example)
    monkeypatch.setattr("tunelab.data.rendering.jinja.compile_chat_template", lambda text: None)
    assert ChatRenderer(family_tokenizer(CHATML)).render(example) == expected


# Contents made of what could be mistaken for something else.
PIECES = [
    "a",
    "ä",
    "🙂",
    " ",
    "\n",
    "\u00a0",
    "x",
    "y",
    "user",
    "assistant\n",
    "<|im_end|>",
    "</s>",
    "<|start|>",
    "[/INST]",
]
PIECES += [
    "/quick",
    "<think>",
    "</think>",
    "{{ x }}",
    "{% if %}",
    "\ue0000\ue001",
    "\ue0001\ue001",
    "<b>&amp;",
    '"',
    "\\n",
]
CONTENTS = st.lists(st.sampled_from(PIECES), max_size=6).map("".join)
LETTERS = st.text(alphabet="abc xy\n", max_size=8)
TEMPLATES = {
    **FAMILIES,
    "chatml": CHATML,
    "rewriting": REWRITING,
    "bare": BARE,
    "instruct": INSTRUCT,
    "twice": odd.TWICE,
}
TOKENIZERS = {
    "byte-level": byte_level,
    "sentencepiece": lambda **options: sentencepiece_like(
        ["what is two plus three? five. the answer is"] * 4, **options
    ),
}


def renderer_of(template, kind, cache={}):  # noqa: B006 (made once)
    if (template, kind) not in cache:
        tokenizer = with_family_tokens(TOKENIZERS[kind](chat_template=TEMPLATES[template]))
        loaded = load_chat_template(chat_template_text(tokenizer), tokenizer)
        cache[template, kind] = tokenizer, TemplateRenderer(loaded)
    return cache[template, kind]


@st.composite
def conversations(draw, contents):
    system = draw(st.booleans())
    roles = [S] * system + [U, A] * draw(st.integers(1, 3))
    flags = [draw(st.booleans()) if draw(st.booleans()) else role is A for role in roles]
    return Conversation(
        tuple(Message(role, draw(contents), flag) for role, flag in zip(roles, flags, strict=True)), "a.jsonl:3"
    )


def render_or_refuse(render, example):
    try:
        return render(example)
    except DataError as error:
        return str(error)


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("template", TEMPLATES)
@settings(max_examples=15, deadline=None)
@given(example=st.one_of(conversations(LETTERS), conversations(CONTENTS)))
def test_masks(template, kind, example):
    tokenizer, renderer = renderer_of(template, kind)
    rendered = render_or_refuse(renderer.render, example)
    assert rendered == render_or_refuse(renderer.exactly, example)
    if isinstance(rendered, str):
        return
    learned = [index for index, message in enumerate(example.messages) if message.trained]
    found = "\n".join(text for one in rendered for text in one.trained)
    contents = [example.messages[index].content.strip() for index in learned]
    assert all(content in found for content in contents if "think>" not in content)
    for one in rendered:
        texts = [segment.text for segment in one.segments if segment.supervised]
        assert len(one.trained) == len(texts)
        assert all(trained in text for trained, text in zip(one.trained, texts, strict=True))
        assert one.end_of_turn is None or all(text.endswith(one.end_of_turn) for text in texts)
    last = max(learned, default=len(example.messages) - 1)
    answers = [index for index in learned if example.messages[index].role is A]
    ends = [last] if len(rendered) == 1 else sorted({*answers, last})
    for one, end in zip(rendered, ends, strict=True):
        if not renderer.grammar.template.dated:
            check_against_the_tokenizer(one, to_turns(example.messages[: end + 1]), tokenizer, renderer.grammar)


def check_against_the_tokenizer(one, turns, tokenizer, grammar):
    """The template's own renderings, through the tokenizer's public method."""
    template = grammar.template.text
    whole = "".join(segment.text for segment in one.segments)
    text = render_chat_template(tokenizer, template, turns, None, False)
    if grammar.ends_turns or not one.trained:
        assert whole == text
    else:  # end tokens were put in
        assert whole.replace("</s>", "") == text.replace("</s>", "")
    if one.trained and turns[-1]["role"] == "assistant" and grammar.ends_turns and len(turns) > 1:
        prompt = render_chat_template(tokenizer, template, turns[:-1], None, True)
        before_last = one.segments[-1 if one.segments[-1].supervised else -2]
        joined = grammar.template.text == FAMILIES["dense"]  # one stretch may hold several messages
        assert joined or whole.startswith(prompt + before_last.text)
        assert joined or one.prompt == prompt
