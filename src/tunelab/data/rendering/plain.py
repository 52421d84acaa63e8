"""Prompt templates that need nothing of the tokenizer but an end token: alpaca, plain, and the text of chatml."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tunelab.data.records import Conversation, Message, RenderedExample, Role
from tunelab.data.rendering.segments import Stretch, assemble
from tunelab.errors import DataError

ALPACA_PREAMBLE = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
)
_ALPACA_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request."
)
_FEATURES = "set data.template=chat, data.template=chatml or data.template=<file>.jinja"

Layout = Callable[[Message | None, Message | None, bool], str]  # user, system, first turn? → text before a response


@dataclass(frozen=True, slots=True)
class PlainTemplate:
    """A layout by name. `definition` changes whenever what it writes changes: caches are keyed by it."""

    name: str
    definition: str
    layout: Layout


@dataclass(frozen=True, slots=True)
class PlainRenderer:
    """Writes each user turn with a layout and ends each response with `end_of_turn`."""

    template: PlainTemplate
    end_of_turn: str

    def render(self, example: Conversation) -> list[RenderedExample]:
        """Return one rendered example; turns after the last trained one are left out.

        Raises DataError for what no plain template can show: tools, and system messages that are not the first.
        """
        self._require_simple(example)
        stretches: list[Stretch] = []
        response, num_known = "", 0
        for user, answer, before in self._turns(example):
            stretches += self._prompt(user, before)
            trained = answer.content.strip() if answer.trained else None
            stretches.append(Stretch(answer.content + self.end_of_turn, trained))
            if answer.trained or (user is not None and user.trained):
                num_known, response = len(stretches), answer.content if answer.trained else response
        return [assemble(stretches[:num_known] or stretches, response, example.origin, self.end_of_turn)]

    def _turns(self, example: Conversation) -> Iterator[tuple[Message | None, Message, str]]:
        """Each response with the user's message before it, if any, and the text before it."""
        system = next((message for message in example.messages[:1] if message.role is Role.SYSTEM), None)
        user: Message | None = None
        first = True
        for message in example.messages:
            if message.role is Role.ASSISTANT:
                yield user, message, self.template.layout(user, system, first)
                user, first = None, False
            elif message.role is Role.USER:
                user = message

    def _prompt(self, user: Message | None, before: str) -> list[Stretch]:
        """The text before a response; of a trained message its content is supervised, which no token ends."""
        if user is None or not user.trained or not user.content.strip():
            return [Stretch(before)]
        first, last = user.parts or (user.content, user.content)
        end = before.rfind(last) + len(last)
        begin = before.rfind(first, 0, end)
        return [Stretch(before[:begin]), Stretch(before[begin:end], before[begin:end].strip()), Stretch(before[end:])]

    def _require_simple(self, example: Conversation) -> None:
        found = next(_too_much(example), None)
        if found:
            raise DataError(
                f"{example.origin}: expected user and assistant in turn and at most a first system message for the "
                f"template {self.template.name!r}, found {found}; {_FEATURES}."
            )


def _too_much(example: Conversation) -> Iterator[str]:
    """What a plain template would lose."""
    if example.tools:
        yield "tools"
    before: Role | None = None
    for index, message in enumerate(example.messages):
        if message.role is Role.TOOL or message.extra.get("tool_calls"):
            yield "a tool call or its result"
        if message.extra.get("reasoning_content"):
            yield "reasoning_content"
        if message.role is Role.SYSTEM and (index or message.trained):
            yield f"{'a trained' if message.trained else 'a later'} system message"
        if message.role is before:
            yield f"two messages of the {message.role} in a row"
        before = message.role


def _alpaca(user: Message | None, system: Message | None, first: bool) -> str:
    """The layout of tatsu-lab/stanford_alpaca (train.py); a system message replaces its preamble."""
    instruction, extra = (user.parts or (user.content, "")) if user else ("", "")
    preamble = _ALPACA_WITH_INPUT if extra else ALPACA_PREAMBLE
    start = (system.content if system else preamble) if first else ""
    question = f"\n\n### Instruction:\n{instruction}" if user else ""
    context = f"\n\n### Input:\n{extra}" if extra else ""
    return f"{start}{question}{context}\n\n### Response:\n"


def _plain(user: Message | None, system: Message | None, first: bool) -> str:
    """The prompt on its own lines, the response on the next."""
    start = (f"{system.content}\n" if system else "") if first else "\n"
    return f"{start}{user.content}\n" if user else start


PLAIN_TEMPLATES = {
    "alpaca": PlainTemplate("alpaca", "alpaca 1", _alpaca),
    "plain": PlainTemplate("plain", "plain 1", _plain),
}


def chatml_text(end_token: str | None, bos: bool) -> str:
    """ChatML as a chat template; turns end in `end_token`, or in the tokenizer's own end token where that is None."""
    end = "eos_token" if end_token is None else repr(end_token)
    start = "{{- bos_token }}" if bos else ""
    return (
        start + "{%- for message in messages %}"
        "{{- '<|im_start|>' + message.role + '\\n' + message.content + " + end + " + '\\n' }}"
        "{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
    )
