"""Examples become text in segments, supervised or not: the choice of a template, and the plain ones."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from transformers import PreTrainedTokenizerBase

from tunelab.config import Template
from tunelab.data.chat import make_chat_renderer
from tunelab.data.records import Example, Message, RenderedExample, Role, Segment
from tunelab.data.segments import assemble
from tunelab.data.upstream import describe, has_chat_template, require_eos_token
from tunelab.errors import DataError

_ALPACA_ALONE = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
)
_ALPACA_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request."
)


class Renderer(Protocol):
    """Turns an example into text. `end_of_turn` is the special token that ends a trained turn."""

    @property
    def end_of_turn(self) -> str: ...

    def render(self, example: Example) -> list[RenderedExample]: ...


def decide_template(template: Template, tokenizer: PreTrainedTokenizerBase) -> Template:
    """Return the template to use; `auto` is the tokenizer's chat template where it has one, else `alpaca`.

    Raises DataError where `chat` is asked of a tokenizer that has no chat template.
    """
    has_chat = has_chat_template(tokenizer)
    if template is Template.auto:
        return Template.chat if has_chat else Template.alpaca
    if template is Template.chat and not has_chat:
        raise DataError(
            "data.template: expected a tokenizer with a chat template for 'chat', found none in "
            f"{describe(tokenizer)}; set data.template=alpaca or data.template=plain."
        )
    return template


def make_renderer(template: Template, tokenizer: PreTrainedTokenizerBase) -> Renderer:
    """Return the renderer of a decided template. Raises DataError for a tokenizer without an end token."""
    if template is Template.chat:
        return make_chat_renderer(tokenizer)
    layout = _alpaca_prompt if template is Template.alpaca else _plain_prompt
    return PlainRenderer(layout, require_eos_token(tokenizer))


@dataclass(frozen=True, slots=True)
class PlainRenderer:
    """Writes each user turn with `layout` and ends each response with `end_of_turn`."""

    layout: Callable[[Message, Message | None, bool], str]  # user, system, first turn? → text before response
    end_of_turn: str

    def render(self, example: Example) -> list[RenderedExample]:
        """Return one rendered example; turns after the last trained one are left out."""
        segments: list[Segment] = []
        response = ""
        for prompt, message in self._turns(example):
            segments += [Segment(prompt, False), Segment(message.content + self.end_of_turn, message.trained)]
            response = message.content
        return [assemble(segments, response, example.origin)]

    def _turns(self, example: Example) -> Iterator[tuple[str, Message]]:
        messages = list(example.messages)
        system = messages.pop(0) if messages[0].role is Role.SYSTEM else None
        last = max(index for index, message in enumerate(messages) if message.trained)
        for index in range(0, last, 2):  # user and assistant in turn: `formats` checked it
            yield self.layout(messages[index], system, index == 0), messages[index + 1]


def _alpaca_prompt(user: Message, system: Message | None, first: bool) -> str:
    """The layout of tatsu-lab/stanford_alpaca (train.py); a system message replaces its preamble."""
    instruction, extra = user.parts or (user.content, "")
    preamble = _ALPACA_WITH_INPUT if extra else _ALPACA_ALONE
    start = (system.content if system else preamble) if first else ""
    context = f"### Input:\n{extra}\n\n" if extra else ""
    return f"{start}\n\n### Instruction:\n{instruction}\n\n{context}### Response:\n"


def _plain_prompt(user: Message, system: Message | None, first: bool) -> str:
    """The prompt on its own lines, the response on the next."""
    start = (f"{system.content}\n" if system else "") if first else "\n"
    return f"{start}{user.content}\n"
