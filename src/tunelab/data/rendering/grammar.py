"""What a chat template does around each message, read off renderings of probes; nothing is searched for in data.

A response begins where the template's own generation prompt ends. Where any message ends is read off two renderings
that differ in that message alone: what follows both alike is what the template adds.
"""

import re
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from tunelab.data.records import Conversation, Message, Role
from tunelab.data.rendering.jinja import REMEDY, ChatTemplate
from tunelab.data.rendering.turns import pieces, plain, require_answer, to_turns, ways_to_write
from tunelab.data.upstream import eos_token, require_eos_token
from tunelab.errors import DataError

ORIGIN = "data.template"
_PROBE = [{"role": "user", "content": "a"}]
_GENERATED = ("tool_calls", "reasoning_content", "thinking")
_CONTENTS = ("x", "y")  # nothing in common, at either end


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A conversation as its template reads it."""

    example: Conversation
    turns: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None


@dataclass(frozen=True, slots=True)
class Span:
    """What is supervised of one message: `text[start:end]` and then `inserted`; `trained` is found again in it.

    `content_end` is where the message's own part ends and the template's begins.
    """

    text: str
    start: int
    content_end: int
    end: int
    inserted: str
    trained: str


@dataclass(frozen=True, slots=True)
class Grammar:
    """A chat template and what its probes showed.

    `added` is its generation prompt; `header` what a template without one writes before a response; `suffix` what it
    writes after one; `marker` the pattern of the tokenizer's added tokens; `end_of_turn` the first of them in `suffix`,
    or the end-of-sequence token where the template adds none (`ends_turns` False). `arguments_as_text`: it reads the
    arguments of tool calls as JSON text.
    """

    template: ChatTemplate
    added: str
    header: str
    suffix: str
    marker: re.Pattern[str]
    end_of_turn: str
    ends_turns: bool
    arguments_as_text: bool

    def read(self, example: Conversation) -> Dialogue:
        """Return the conversation in the form that this template reads."""
        tools = [plain(tool) for tool in example.tools] or None
        return Dialogue(example, to_turns(example.messages, self.arguments_as_text), tools)

    def render(self, dialogue: Dialogue, last: int, generation_prompt: bool = False) -> str:
        """Render the conversation up to the message `last`."""
        turns = dialogue.turns[: last + 1]
        return self.template.render(turns, dialogue.tools, dialogue.example.origin, generation_prompt)

    def answer(self, dialogue: Dialogue, index: int) -> Span:
        """Find what is supervised of a response, in the rendering that ends with it."""
        text = self.render(dialogue, index)
        start = self._start(dialogue, index, text)
        calls = bool(dialogue.turns[index].get("tool_calls"))
        content_end, end = self._end(dialogue, index, text, start)
        stretch = text[start:content_end]
        require_answer(dialogue.example, index, stretch)
        content = dialogue.example.messages[index].content.strip()
        trained = content if content in stretch and not calls else stretch.strip()
        inserted = "" if self.marker.search(text, content_end, end) else require_eos_token(self.template.tokenizer)
        return Span(text, start, content_end, end, inserted, trained)

    def _start(self, dialogue: Dialogue, index: int, text: str) -> int:
        origin = dialogue.example.origin
        if not any(message.role in (Role.USER, Role.TOOL) for message in dialogue.example.messages[:index]):
            head, _ = self._around(dialogue, index, index)  # nobody asked: there is no generation prompt to render
            return head.rfind(self.added) + len(self.added) if self.added in head else len(head)
        prompt = self.render(dialogue, index - 1, generation_prompt=True) + self.header
        if not text.startswith(prompt):
            raise DataError(
                f"{origin}: expected a chat template whose generation prompt begins the turn, "
                f"found {prompt[-40:]!r} before generating and {text[-40:]!r} afterwards; {REMEDY}."
            )
        return len(prompt)

    def _end(self, dialogue: Dialogue, index: int, text: str, start: int) -> tuple[int, int]:
        """Where the response ends, and where what the template adds to it ends."""
        if self._ends_in(dialogue, index, text, start, self.suffix):
            return self._bounded(text, len(text) - len(self.suffix))
        if dialogue.turns[index].get("tool_calls"):  # some templates end a call with a token of its own
            last = max(self.marker.finditer(text, start), key=lambda found: found.end(), default=None)
            if last and not text[last.end() :].strip():
                return last.start(), last.end()
        _, suffix = self._around(dialogue, index, index)
        if self._ends_in(dialogue, index, text, start, suffix):
            return self._bounded(text, len(text) - len(suffix))
        raise DataError(
            f"{dialogue.example.origin}: expected a chat template that ends every answer alike and writes it "
            f"unchanged, found {text[start:][-40:]!r} where other answers end in {suffix!r}; {REMEDY}."
        )

    def _ends_in(self, dialogue: Dialogue, index: int, text: str, start: int, suffix: str) -> bool:
        if not text.endswith(suffix, start):
            return False
        content = dialogue.example.messages[index].content
        own = (content.strip(), *pieces(content)[-1:])
        stretch = text[start : len(text) - len(suffix)].rstrip()
        return bool(dialogue.turns[index].get("tool_calls")) or stretch.endswith(own)

    def _bounded(self, text: str, content_end: int) -> tuple[int, int]:
        marker = self.marker.search(text, content_end)
        return content_end, marker.end() if marker else content_end

    def quoted(self, dialogue: Dialogue, index: int, last: int, text: str) -> Span | None:
        """Find the content of a message that nobody generates, and what the template adds up to its end-of-turn token.

        `text` is the rendering up to the message `last`. None where there is nothing to learn.
        """
        message = dialogue.example.messages[index]
        head, tail = self._around(dialogue, index, last)
        start, end = len(head), len(text) - len(tail)
        fits = start <= end and text.startswith(head) and text.endswith(tail)
        if not fits or text[start:end].strip() not in ways_to_write(message):
            if not message.content.strip():
                return None
            raise DataError(
                f"{dialogue.example.origin}: expected message {index + 1} ({message.role}) unchanged in what the chat "
                f"template writes, found {text[start:end][:40]!r}; {REMEDY}."
            )
        stop = self._stop(dialogue, index, last, text, end)
        return Span(text, start, end, stop, "", text[start:end].strip()) if start < stop else None

    def _stop(self, dialogue: Dialogue, index: int, last: int, text: str, end: int) -> int:
        """Where the end-of-turn token ends that stands between a message's end and the next message, if any."""
        following = self._around(dialogue, index + 1, last)[0] if index < last else text
        known = text.startswith(following) and (index == last or len(following) < len(text))
        found = text.find(self.end_of_turn, end, len(following)) if known else -1
        return found + len(self.end_of_turn) if found >= 0 else end

    def _around(self, dialogue: Dialogue, index: int, last: int) -> tuple[str, str]:
        """What the template writes before and after message `index`, whatever the message says."""
        turns = dialogue.turns[: last + 1]
        own = {key: value for key, value in turns[index].items() if index < last or key not in _GENERATED}
        left, right = (
            self.template.render(
                [*turns[:index], {**own, "content": content}, *turns[index + 1 :]],
                dialogue.tools,
                dialogue.example.origin,
            )
            for content in _CONTENTS
        )
        return _common(left, right)


def learn_grammar(template: ChatTemplate) -> Grammar:
    """Probe a chat template. Raises DataError where it refuses a question and an answer."""
    tokenizer = template.tokenizer
    asked = template.render(_PROBE, None, ORIGIN)
    prompt = template.render(_PROBE, None, ORIGIN, generation_prompt=True)
    left, right = (
        template.render([*_PROBE, {"role": "assistant", "content": content}], None, ORIGIN) for content in _CONTENTS
    )
    head, suffix = _common(left, right)
    header = head[len(prompt) :] if prompt == asked and head.startswith(prompt) else ""
    marker = added_tokens_pattern(tokenizer)
    found = marker.search(suffix)
    return Grammar(
        template=template,
        added=prompt[len(asked) :] if prompt.startswith(asked) else "",
        header=header if header.strip() else "",  # a lone space belongs to the first word of the answer
        suffix=suffix,
        marker=marker,
        end_of_turn=found.group() if found else require_eos_token(tokenizer),
        ends_turns=found is not None,
        arguments_as_text=_wants_text(template),
    )


def _wants_text(template: ChatTemplate) -> bool:
    """Whether arguments of tool calls must be JSON text: where objects are refused, or not written as JSON."""
    shown = [_shows_arguments(template, as_text) for as_text in (False, True)]
    return shown[1] > shown[0]


def _shows_arguments(template: ChatTemplate, as_text: bool) -> int:
    """2: as JSON; 1: somehow; 0: not at all."""
    function = {"name": "probe", "arguments": {"mark": "value"}}
    call = Message(
        Role.ASSISTANT, "", extra={"tool_calls": [{"id": "abcdef123", "type": "function", "function": function}]}
    )
    schema = {"name": "probe", "description": "d", "parameters": {"type": "object", "properties": {}}}
    turns = [*_PROBE, *to_turns([call], as_text)]
    try:
        text = template.render(turns, [{"type": "function", "function": schema}], ORIGIN)
    except DataError:
        return 0
    return 2 if re.search(r'"mark"\s*:\s*"value"', text) else int("value" in text)


def _common(left: str, right: str) -> tuple[str, str]:
    """The common start and the common end of two texts."""
    return _common_start(left, right), _common_start(left[::-1], right[::-1])[::-1]


def _common_start(left: str, right: str) -> str:
    low, high = 0, min(len(left), len(right))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if left[low:middle] == right[low:middle] else (low, middle - 1)
    return left[:low]


def added_tokens_pattern(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
    """A pattern of the tokenizer's added tokens that are no white space, longest first; for template text alone."""
    texts = {token.content for token in tokenizer.added_tokens_decoder.values()}
    texts.add(eos_token(tokenizer) or "")
    longest_first = sorted((text for text in texts if text.strip()), key=lambda text: (-len(text), text))
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
