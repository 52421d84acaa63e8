"""A new format is one function and one test: this is what docs/add-a-dataset.md shows."""

import re
from pathlib import Path

import pytest
from format_rows import layout_of, read

from tunelab.data.formats import Fields, data_format, forget_format, known_formats
from tunelab.data.formats.order import converse
from tunelab.data.formats.registry import FORMATS
from tunelab.data.records import Conversation, Message, Role
from tunelab.errors import ConfigError, DataError

PAGE = Path(__file__).parents[2] / "docs" / "add-a-dataset.md"


@pytest.fixture
def dialogue():
    @data_format(
        "dialogue", required={"prompt": "ask", "response": "reply"}, optional={"system": "persona"}, by_role=True
    )
    def read_dialogue(fields: Fields) -> Conversation:
        question = Message(Role.USER, fields.text("prompt"))
        return converse(fields, [question, Message(Role.ASSISTANT, fields.text("response"), trained=True)])

    yield
    forget_format("dialogue")


def test_a_format_of_ones_own(dialogue):
    fields = {"ask": "hi", "reply": "hello", "persona": "be kind"}
    assert layout_of(fields).format == "dialogue"
    assert [message.content for message in read(fields).messages] == ["be kind", "hi", "hello"]
    assert read({"q": "hi", "reply": "hello"}, format="dialogue", prompt="q").messages[0].content == "hi"
    with pytest.raises(DataError, match=r"^a\.jsonl:7: expected text in column 'ask', found null; mend the row"):
        read({**fields, "ask": None})


def test_a_name_is_registered_once_and_forgotten_entirely(dialogue):
    with pytest.raises(ConfigError, match=r"found 'dialogue', which is taken; forget_format\('dialogue'\) frees it"):
        data_format("dialogue", required={"prompt": "x", "response": "y"})(lambda fields: None)
    forget_format("dialogue")
    assert "dialogue" not in known_formats()
    with pytest.raises(ConfigError, match="found 'dialogue'"):
        layout_of({"ask": "hi", "reply": "hello"}, format="dialogue")


def test_the_page_followed_literally(tmp_path):
    """The function and the test of the page, run as they stand there."""
    function, test = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    namespace: dict = {}
    before = list(FORMATS)
    forget_format("faq")  # somebody may have followed the page for good
    try:
        exec(compile(function, "page, function", "exec"), namespace)
        exec(compile(test, "page, test", "exec"), namespace)
        names = [name for name in namespace if name.startswith("test_")]
        assert names
        for name in names:
            namespace[name]()
    finally:
        FORMATS[:] = before
