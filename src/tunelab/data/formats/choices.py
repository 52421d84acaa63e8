"""The format of multiple-choice questions: one of several answers is right, and a model can be asked to choose."""

from typing import Any, cast

from tunelab.data.formats.conversations import PROMPT
from tunelab.data.formats.fields import Fields, shown
from tunelab.data.formats.order import converse
from tunelab.data.formats.registry import data_format
from tunelab.data.records import Conversation, Message, Role


@data_format(
    "multiple_choice",
    required={"prompt": PROMPT, "choices": "choices", "response": ("answer", "answerKey", "completion", "response")},
    optional={"system": "system"},
)
def read_multiple_choice(fields: Fields) -> Conversation:
    """A question, the possible answers, and which is right: its text, its place from 0, or its label.

    `choices` is a list of texts, or an object with the lists `text` and `label`, as ARC has it.
    """
    texts, labels = _choices(fields)
    answer = Message(Role.ASSISTANT, texts[_right(fields, texts, labels)], trained=True)
    return converse(fields, [Message(Role.USER, fields.text("prompt")), answer], choices=texts)


def _choices(fields: Fields) -> tuple[list[str], list[str]]:
    value, name = fields.value("choices"), f"column {fields.column('choices')!r}"
    labels: list[str] = []
    if isinstance(value, dict):
        lists = cast("dict[str, Any]", value)
        labels = _texts(fields, lists.get("label"), f"'label' of {name}")
        value = lists.get("text")
    texts = _texts(fields, value, name)
    if len(texts) < 2 or len(set(texts)) < len(texts) or not all(text.strip() for text in texts):
        raise fields.refusal("two or more different answers, none of them empty,", shown(value), name)
    if labels and len(labels) != len(texts):
        raise fields.refusal(f"{len(texts)} labels, one for each answer,", f"{len(labels)}", f"'label' of {name}")
    return texts, labels


def _texts(fields: Fields, value: Any, where: str) -> list[str]:
    if type(value) is not list:
        raise fields.refusal("a list of texts", shown(value), where)
    return [fields.checked(text, f"{where} [{index}]") for index, text in enumerate(cast("list[Any]", value))]


def _right(fields: Fields, texts: list[str], labels: list[str]) -> int:
    """The place of the right answer."""
    value, where = fields.value("response"), f"column {fields.column('response')!r}"
    if type(value) is int and 0 <= value < len(texts):
        return value
    for names in (labels, texts):
        if value in names:
            return names.index(cast(str, value))
    raise fields.refusal(f"one of the choices or its place from 0 to {len(texts) - 1}", shown(value), where)
