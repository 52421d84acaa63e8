import json

import pytest
from family_templates import DATED, GEMMA, PHI4, QWEN25, family_tokenizer
from tiny_tokenizers import BARE, CHATML, byte_level

from tunelab.data.records import Conversation, Message, Passage, Role, Segment
from tunelab.data.rendering import decide_template, make_renderer, rejected_of
from tunelab.errors import DataError

QUESTION, ANSWER = Message(Role.USER, "q"), Message(Role.ASSISTANT, "a", trained=True)
EXAMPLE = Conversation((QUESTION, ANSWER), "a.jsonl:3")


def render(tokenizer, example=EXAMPLE, template="auto"):
    """Alternating stretches of the one rendered example; supervised ones in a list."""
    (rendered,) = make_renderer(decide_template(template, tokenizer), tokenizer).render(example)
    return [[s.text] if s.supervised else s.text for s in rendered.segments]


def test_auto():
    chat = decide_template("auto", byte_level(chat_template=CHATML))
    assert (chat.name, chat.text, chat.policy, chat.writes_bos) == ("chat", CHATML, (), True)
    alpaca = decide_template("auto", byte_level())
    assert (alpaca.name, alpaca.writes_bos) == ("alpaca", False)
    assert alpaca.policy == ("The tokenizer 'this tokenizer' has no chat template: the template is alpaca.",)
    assert decide_template("plain", byte_level(chat_template=CHATML)).name == "plain"


def test_different_templates_have_different_keys():
    tokenizer = byte_level(chat_template=CHATML)
    texts = {decide_template(name, tokenizer).text for name in ("chat", "alpaca", "plain", "chatml")}
    assert len(texts) == 4


def test_end_of_turn():
    def end(template, chat_template):
        tokenizer = byte_level(chat_template=chat_template)
        return make_renderer(decide_template(template, tokenizer), tokenizer).end_of_turn

    assert end("chat", CHATML) == "<|end|>"
    assert end("chat", BARE) == "</s>"
    assert end("plain", CHATML) == "</s>"


def test_chat_asked_of_a_tokenizer_without_template():
    with pytest.raises(DataError, match=r"expected a tokenizer with a chat template for 'chat'.*data\.template=alpaca"):
        decide_template("chat", byte_level())


@pytest.mark.parametrize(("template", "chat"), [("plain", None), ("chat", BARE), ("chatml", None)])
def test_no_end_token(template, chat):
    tokenizer = byte_level(chat_template=chat, eos_token=None)
    with pytest.raises(DataError, match=r"expected a tokenizer with an end-of-sequence token.*set eos_token in its"):
        make_renderer(decide_template(template, tokenizer), tokenizer)


def test_own_marker_needs_no_eos_token():
    assert render(byte_level(chat_template=CHATML, eos_token=None))[1] == ["a<|end|>"]


@pytest.mark.parametrize(("name", "meant"), [("alpacca", "alpaca"), ("chat_ml", "chatml"), ("Plain", "plain")])
def test_unknown_name(name, meant):
    with pytest.raises(DataError, match=rf"found '{name}'; did you mean '{meant}'\?; set data\.template="):
        decide_template(name, byte_level())


def policy(**options):
    return decide_template("auto", family_tokenizer(options.pop("chat_template", PHI4), **options)).policy


def test_policy_of_pad_tokens():
    assert policy() == ()
    assert policy(pad_token=None) == (
        "The tokenizer has no pad token: any id may fill padded rows, because padding never enters the loss.",
    )
    (sentence,) = policy(pad_token="</s>")
    assert sentence.startswith("The pad token is the end-of-sequence token </s>: masks are made by position")


def test_policy_of_chat_templates():
    (bare,) = policy(chat_template=BARE)
    assert "the end-of-sequence token </s> is put after each trained response" in bare
    (dated,) = policy(chat_template=DATED)
    assert "it is always 1 January 2025" in dated
    (gemma,) = policy(chat_template=GEMMA)
    assert "refuses or leaves out system messages" in gemma
    (several,) = policy(chat_template={"default": PHI4, "tool_use": QWEN25})
    assert "'tool_use' renders conversations with tools" in several


def test_the_pad_token_has_no_say_in_the_rendering():
    expected = render(family_tokenizer(PHI4))
    assert render(family_tokenizer(PHI4, pad_token="</s>")) == expected
    assert render(family_tokenizer(PHI4, pad_token=None)) == expected


def test_template_file_becomes_the_chat_template(tmp_path):
    file = tmp_path / "mine.jinja"
    file.write_bytes(b"\xef\xbb\xbf" + CHATML.encode())  # with a byte order mark
    tokenizer = byte_level(chat_template=BARE)
    chosen = decide_template(str(file), tokenizer)
    assert (chosen.name, chosen.text, tokenizer.chat_template) == ("mine.jinja", CHATML, CHATML)
    assert chosen.policy == (
        f"The chat template is {file}; it replaces the tokenizer's own, and it is saved with the adapter.",
    )
    assert render(tokenizer, template=str(file))[1] == ["a<|end|>"]
    tokenizer.save_pretrained(tmp_path / "saved")
    assert type(tokenizer).from_pretrained(tmp_path / "saved").chat_template == CHATML


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"expected a readable UTF-8 file at '.*mine\.jinja', found an error \(No such file or directory\)"),
        (b"", "found an empty file"),
        (b" \n", "found an empty file"),
        (b"\xff\xfe{\x00{\x00", r"found an error \('utf-8' codec can't decode"),
        (b"a\n{% for m in messages %}", r"found an error in its line 2: Unexpected end of template"),
        (b"{{ messages[ }}", r"found an error in its line 1"),
        (b"{% include 'other.jinja' %}", r"refused the conversation"),
        (b"no loop", r"data\.template"),
    ],
)
def test_unusable_template_file(tmp_path, content, message):
    file = tmp_path / "mine.jinja"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(DataError, match=message):
        render(byte_level(), template=str(file))


def test_a_folder_is_no_template(tmp_path):
    (tmp_path / "folder.j2").mkdir()
    with pytest.raises(DataError, match="Is a directory"):
        decide_template(str(tmp_path / "folder.j2"), byte_level())


def test_chatml_of_a_tokenizer_that_knows_its_tokens():
    tokenizer = family_tokenizer(None)
    assert render(tokenizer, template="chatml") == [
        "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n", ["a<|im_end|>"], "\n",
    ]  # fmt: skip
    assert tokenizer.apply_chat_template([{"role": "user", "content": "q"}], tokenize=False) == (
        "<|im_start|>user\nq<|im_end|>\n"
    )


def test_chatml_of_a_tokenizer_without_its_tokens():
    tokenizer = byte_level()
    chosen = decide_template("chatml", tokenizer)
    assert "its end-of-sequence token </s> ends each turn instead" in chosen.policy[0]
    assert render(tokenizer, template="chatml") == [
        "<|im_start|>user\nq</s>\n<|im_start|>assistant\n", ["a</s>"], "\n",
    ]  # fmt: skip


def test_several_chat_templates():
    templates = {"default": PHI4, "tool_use": QWEN25}
    tokenizer = family_tokenizer(templates)
    tools = ({"type": "function", "function": {"name": "add", "parameters": {}}},)
    with_tools = Conversation(EXAMPLE.messages, "x", tools=tools)
    assert render(tokenizer)[0].startswith("<|im_start|>user<|im_sep|>")
    assert render(tokenizer, with_tools)[0].startswith("<|im_start|>system\nYou help.\n<tools>")
    assert decide_template("auto", tokenizer).text == json.dumps(templates, sort_keys=True)
    with pytest.raises(DataError, match=r"expected a chat template named 'default'.*found 'rag'"):
        decide_template("auto", family_tokenizer({"rag": PHI4}))


def passage(*segments, windowed=False):
    return Passage(tuple(Segment(text, supervised) for text, supervised in segments), "x:1", windowed)


@pytest.mark.parametrize("chat_template", [None, CHATML])
def test_passages_need_no_template(chat_template):
    tokenizer = byte_level(chat_template=chat_template)
    assert render(tokenizer, passage((" a ", True), windowed=True)) == [[" a </s>"]]
    assert render(tokenizer, passage(("p", False), ("r", True), windowed=True)) == ["p", ["r</s>"]]
    assert render(tokenizer, passage(("r", True), ("p", False), windowed=True)) == [["r"], "p", ["</s>"]]
    assert render(tokenizer, passage(("p", False), ("r", True), ("s", False))) == ["p", ["r"], "s"]


def test_what_is_known_of_passages():
    renderer = make_renderer(decide_template("auto", byte_level()), byte_level())
    (document,) = renderer.render(passage((" a ", True), windowed=True))
    assert (document.windowed, document.trained, document.end_of_turn) == (True, ("a",), None)
    (segments,) = renderer.render(passage(("p", False), (" r", True)))
    assert (segments.windowed, segments.trained, segments.end_of_turn) == (False, ("r",), None)
    assert (segments.prompt, segments.response) == ("p", " r")
    (masked,) = renderer.render(passage(("p", False)))
    assert (masked.trained, masked.prompt, masked.response) == ((), "p", "")


def test_rejected_of():
    call = Message(Role.ASSISTANT, "c", trained=True)
    tool, other = Message(Role.TOOL, "t"), Message(Role.ASSISTANT, "no", trained=False)
    pair = Conversation((QUESTION, call, tool, ANSWER), "x", rejected=(other,))
    rejected = rejected_of(pair)
    assert rejected.messages == (QUESTION, Message(Role.ASSISTANT, "no", trained=True))
    assert rejected.rejected == ()
    history = Conversation((QUESTION, Message(Role.ASSISTANT, "h"), QUESTION, ANSWER), "x", rejected=(other,))
    assert [m.content for m in rejected_of(history).messages] == ["q", "h", "q", "no"]
