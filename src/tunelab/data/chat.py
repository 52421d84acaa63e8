"""Renders conversations with the tokenizer's own chat template, and finds what is supervised in its output.

Where a response stands is never searched for. Its start is where the template's own generation prompt ends.
Its end is read off the template: two probe answers are rendered, and what follows both alike is what the
template adds.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from transformers import PreTrainedTokenizerBase

from tunelab.data.records import Example, Message, RenderedExample, Role, Segment
from tunelab.data.segments import assemble
from tunelab.data.upstream import apply_chat_template, eos_token, require_eos_token
from tunelab.errors import DataError

_PROBE = Message(Role.USER, "a")
_ANSWERS = ("x", "y")  # nothing in common, at either end
_REMEDY = "set data.template=alpaca or data.template=plain, or give the tokenizer another chat template"


@dataclass(frozen=True, slots=True)
class _Turn:
    """A conversation up to one trained turn: `text[start:end]` and then `inserted` are supervised."""

    text: str
    start: int
    end: int
    inserted: str


@dataclass(frozen=True, slots=True)
class ChatRenderer:
    """The tokenizer's chat template and what was learned from its probes.

    `header` is what a template without generation prompt writes before a response; `suffix` what it writes
    after one; `marker` the pattern of the tokenizer's added tokens; `end_of_turn` the first of them in
    `suffix`, or the end-of-sequence token where the template adds none.
    """

    tokenizer: PreTrainedTokenizerBase
    header: str
    suffix: str
    marker: re.Pattern[str]
    end_of_turn: str

    def render(self, example: Example) -> list[RenderedExample]:
        """Return one example with alternating segments; one a trained turn where earlier turns change.

        Supervised are the response and what the template adds up to and including its end-of-turn token;
        the white space after that is not. Raises DataError where the template refuses or garbles the
        conversation.
        """
        trained = [index for index, message in enumerate(example.messages) if message.trained]
        turns = [self._turn(example, index) for index in trained]
        text = turns[-1].text
        responses = [example.messages[index].content for index in trained]
        if all(text.startswith(turn.text[: turn.end]) for turn in turns):
            return [assemble(_segments(text, turns), responses[-1], example.origin)]
        return [
            assemble(_segments(turn.text, [turn]), response, example.origin)
            for turn, response in zip(turns, responses, strict=True)
        ]

    def _turn(self, example: Example, index: int) -> _Turn:
        before = example.messages[:index]
        prompt = apply_chat_template(self.tokenizer, before, example.origin, generation_prompt=True) + self.header
        text = apply_chat_template(self.tokenizer, example.messages[: index + 1], example.origin)
        if not text.startswith(prompt):
            raise DataError(
                f"{example.origin}: expected a chat template whose generation prompt begins the turn, "
                f"found {prompt[-40:]!r} before generating and {text[-40:]!r} afterwards; {_REMEDY}."
            )
        suffix = self.suffix
        if not text.endswith(suffix, len(prompt)):
            _, suffix = _frame(self.tokenizer, before, example.origin)
        if not text.endswith(suffix, len(prompt)):
            raise DataError(
                f"{example.origin}: expected a chat template that ends every answer alike, "
                f"found {text[-40:]!r} where other answers end in {suffix!r}; {_REMEDY}."
            )
        return self._bounded(text, len(prompt), len(text) - len(suffix))

    def _bounded(self, text: str, start: int, end: int) -> _Turn:
        """End the turn that fills `text[start:end]` after the template's marker, or with one put in."""
        marker = self.marker.search(text, end)
        if marker:
            return _Turn(text, start, marker.end(), inserted="")
        return _Turn(text, start, end, inserted=require_eos_token(self.tokenizer))


def make_chat_renderer(tokenizer: PreTrainedTokenizerBase) -> ChatRenderer:
    """Probe the chat template of `tokenizer`. Raises DataError where it refuses a question and an answer."""
    origin = "chat template"
    prompt = apply_chat_template(tokenizer, [_PROBE], origin, generation_prompt=True)
    head, suffix = _frame(tokenizer, [_PROBE], origin)
    ignores_generation_prompt = prompt == apply_chat_template(tokenizer, [_PROBE], origin)
    header = head[len(prompt) :] if ignores_generation_prompt and head.startswith(prompt) else ""
    marker = _added_tokens(tokenizer)
    found = marker.search(suffix)
    return ChatRenderer(
        tokenizer=tokenizer,
        header=header if header.strip() else "",  # a lone space belongs to the first word of the answer
        suffix=suffix,
        marker=marker,
        end_of_turn=found.group() if found else require_eos_token(tokenizer),
    )


def _segments(text: str, turns: Sequence[_Turn]) -> list[Segment]:
    segments: list[Segment] = []
    cursor = 0
    for turn in turns:
        end, inserted = turn.end, turn.inserted
        if inserted and text.startswith(inserted, end):  # the template itself ends a turn that others follow
            end, inserted = end + len(inserted), ""
        segments += [
            Segment(text[cursor : turn.start], False),
            Segment(text[turn.start : end] + inserted, True),
        ]
        cursor = end
    return [*segments, Segment(text[cursor:], False)]


def _frame(tokenizer: PreTrainedTokenizerBase, before: Sequence[Message], origin: str) -> tuple[str, str]:
    """What the template writes before and after an answer to `before`, whatever the answer."""
    answers = [Message(Role.ASSISTANT, answer) for answer in _ANSWERS]
    left, right = (apply_chat_template(tokenizer, [*before, answer], origin) for answer in answers)
    return _common_start(left, right), _common_start(left[::-1], right[::-1])[::-1]


def _common_start(left: str, right: str) -> str:
    return "".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(left, right, strict=False)))


def _added_tokens(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
    """A pattern of the tokenizer's added tokens, longest first; only template text is matched against it."""
    texts = {token.content for token in tokenizer.added_tokens_decoder.values()}
    texts.add(eos_token(tokenizer) or "")
    longest_first = sorted(texts - {""}, key=lambda text: (-len(text), text))
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
