"""The quick way to render a conversation: once, because the text around its messages is known already.

For each order of roles the exact way is gone once, with marks in place of the contents; what stands between the marks
are the frames. Where a template then writes exactly frame, content, frame, content …, the seams lie as they did
between the marks.
"""

from dataclasses import dataclass, replace

from tunelab.data.records import Conversation, Message, RenderedExample, Role, Segment
from tunelab.data.rendering.grammar import Grammar
from tunelab.errors import DataError

_PADDING = "\t{}\t"  # shows whether a template takes the white space away; it writes no tabs of its own


@dataclass(frozen=True, slots=True)
class Frames:
    """Text before each content, and which contents lose the white space around them.

    Supervised are `lead`, which the template writes before the response, the response, and `ending`, which it writes
    after it; then `inserted`, which it does not write. `rest` follows.
    """

    frames: tuple[str, ...]
    trimmed: tuple[bool, ...]
    lead: str
    ending: str
    inserted: str
    rest: str
    end_of_turn: str

    def fit(self, text: str, messages: tuple[Message, ...], origin: str) -> RenderedExample | None:
        """Return the rendered example where `text` is what these frames make of the messages, else None."""
        parts: list[str] = []
        for frame, trim, message in zip(self.frames, self.trimmed, messages, strict=True):
            parts += (frame, message.content.strip() if trim else message.content)
        answer = self.lead + parts.pop() + self.ending
        prompt = "".join(parts)
        if text != prompt + answer + self.rest:
            return None
        response = messages[-1].content
        segments = [Segment(answer + self.inserted, True)]
        if prompt:
            segments.insert(0, Segment(prompt, False))
        if self.rest:
            segments.append(Segment(self.rest, False))
        return RenderedExample(
            tuple(segments), prompt, response, origin, trained=(response.strip(),), end_of_turn=self.end_of_turn
        )


def learn_frames(grammar: Grammar, roles: tuple[Role, ...]) -> Frames | None:
    """Learn the frames for an order of roles that ends in the one trained response; None where there are none."""
    marks = [f"\ue000{index}\ue001" for index in range(len(roles))]
    messages = tuple(Message(role, _PADDING.format(mark)) for role, mark in zip(roles, marks, strict=True))
    last = replace(messages[-1], trained=True)
    try:
        span = grammar.answer(grammar.read(Conversation((*messages[:-1], last), "data.template")), len(roles) - 1)
    except DataError:
        return None
    frames: list[str] = []
    trimmed: list[bool] = []
    cursor = begin = 0
    for mark in marks:
        trimmed.append(_PADDING.format(mark) not in span.text)
        written = mark if trimmed[-1] else _PADDING.format(mark)
        begin = span.text.find(written, cursor)
        if span.text.count(mark) != 1 or begin < 0:
            return None
        frames.append(span.text[cursor:begin])
        cursor = begin + len(written)
    lead = begin - span.start
    if not 0 <= lead <= len(frames[-1]) or cursor > span.end:
        return None
    return Frames(
        frames=(*frames[:-1], frames[-1][: len(frames[-1]) - lead]),
        trimmed=tuple(trimmed),
        lead=span.text[span.start : begin],
        ending=span.text[cursor : span.end],
        inserted=span.inserted,
        rest=span.text[span.end :],
        end_of_turn=grammar.end_of_turn,
    )
