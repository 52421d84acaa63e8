"""Renders conversations with a chat template, and finds what is supervised in its output."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

from transformers import PreTrainedTokenizerBase

from tunelab.data.records import Conversation, RenderedExample, Role
from tunelab.data.rendering.framing import Frames, learn_frames
from tunelab.data.rendering.grammar import ORIGIN, Dialogue, Grammar, Span, learn_grammar
from tunelab.data.rendering.jinja import REMEDY, ChatTemplate, load_chat_template
from tunelab.data.rendering.limiting import time_limit
from tunelab.data.rendering.segments import Stretch, assemble
from tunelab.data.rendering.turns import require_shown
from tunelab.data.upstream import chat_template_text
from tunelab.errors import DataError


class ChatRenderer:
    """Renders with the tokenizer's chat template; of several, with the one for conversations with or without tools."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Probe the template. Raises DataError where it refuses a question and an answer."""
        self._tokenizer = tokenizer
        with time_limit(ORIGIN, REMEDY):
            self._plain = TemplateRenderer(load_chat_template(chat_template_text(tokenizer), tokenizer))
        self.end_of_turn = self._plain.grammar.end_of_turn

    @property
    def grammar(self) -> Grammar:
        """What is known of the template for conversations without tools."""
        return self._plain.grammar

    def render(self, example: Conversation) -> list[RenderedExample]:
        """Return one example with alternating segments; one a trained turn where earlier turns change.

        Supervised are a response and what the template adds up to and including its end-of-turn token (the white
        space after it is not), and of any other trained message its content, up to that token where there is one.
        Raises DataError where the template refuses, loses or changes what a message says.
        """
        with time_limit(example.origin, REMEDY):
            return (self._with_tools if example.tools else self._plain).render(example)

    @cached_property
    def _with_tools(self) -> "TemplateRenderer":
        text = chat_template_text(self._tokenizer, tools=True)
        same = text == self._plain.grammar.template.text
        return self._plain if same else TemplateRenderer(load_chat_template(text, self._tokenizer))


class TemplateRenderer:
    """Renders with one template: the quick way where it is known to give what the exact way gives."""

    def __init__(self, template: ChatTemplate) -> None:
        self.grammar = learn_grammar(template)
        self._frames: dict[tuple[Role, ...], Frames | None] = {}
        self._shown: set[tuple[object, ...]] = set()

    def render(self, example: Conversation) -> list[RenderedExample]:
        """See ChatRenderer."""
        return self._quickly(example) or self.exactly(example)

    def _quickly(self, example: Conversation) -> list[RenderedExample] | None:
        """One rendering, for text alone and one trained response at the end.

        A second one where the template's generation prompt may depend on what a message says.
        """
        messages, origin = example.messages, example.origin
        if example.tools or not messages[-1].trained or any(m.extra for m in messages):
            return None
        if any(m.trained for m in messages[:-1]):
            return None
        frames = self._frames_of(tuple([m.role for m in messages]))
        if frames is None:
            return None
        template = self.grammar.template
        turns = [{"role": m.role.value, "content": m.content} for m in messages]
        rendered = frames.fit(template.render(turns, None, origin), messages, origin)
        if rendered is None or template.constant_prompt:
            return None if rendered is None else [rendered]
        prompt = template.render(turns[:-1], None, origin, generation_prompt=True) + self.grammar.header
        return [rendered] if prompt == rendered.prompt else None

    def _frames_of(self, roles: tuple[Role, ...]) -> Frames | None:
        if roles not in self._frames:
            asked = roles[-1] is Role.ASSISTANT and Role.USER in roles
            self._frames[roles] = learn_frames(self.grammar, roles) if asked else None
        return self._frames[roles]

    def exactly(self, example: Conversation) -> list[RenderedExample]:
        """Render each trained turn with and without its response, and find every other trained message by probes."""
        dialogue = self.grammar.read(example)
        trained = [index for index, message in enumerate(example.messages) if message.trained]
        if not trained:
            text = self.grammar.render(dialogue, len(example.messages) - 1)
            return [assemble([Stretch(text)], "", example.origin, None)]
        answers = {
            index: self.grammar.answer(dialogue, index)
            for index in trained
            if example.messages[index].role is Role.ASSISTANT
        }
        last = trained[-1]
        text = answers[last].text if last in answers else self.grammar.render(dialogue, last)
        if all(text.startswith(answer.text[: answer.end]) for answer in answers.values()):
            return [self._together(dialogue, trained, text, answers)]
        return [
            self._together(dialogue, group, answers[group[-1]].text, {group[-1]: answers[group[-1]]})
            if group[-1] in answers
            else self._together(dialogue, group, text, {})
            for group in _groups(trained, answers)
        ]

    def _together(
        self, dialogue: Dialogue, indices: Sequence[int], text: str, answers: dict[int, Span]
    ) -> RenderedExample:
        """One example of `text`, which ends with the last of `indices`, with these messages supervised."""
        example, last = dialogue.example, indices[-1]
        self._require_shown(dialogue, last, text)
        found = [answers.get(i) or self.grammar.quoted(dialogue, i, last, text) for i in indices]
        spans = sorted((span for span in found if span), key=lambda span: span.start)
        stretches: list[Stretch] = []
        cursor = 0
        for span in spans:
            if span.start < cursor:
                raise DataError(f"{example.origin}: expected a chat template that writes each message apart; {REMEDY}.")
            end, inserted = span.end, span.inserted
            if inserted and text.startswith(inserted, end):  # the template itself ends a turn that others follow
                end, inserted = end + len(inserted), ""
            stretches += [Stretch(text[cursor : span.start]), Stretch(text[span.start : end] + inserted, span.trained)]
            cursor = end
        responses = [example.messages[i].content for i in indices if i in answers]
        stretches.append(Stretch(text[cursor:]))
        return assemble(stretches, responses[-1] if responses else "", example.origin, self.grammar.end_of_turn)

    def _require_shown(self, dialogue: Dialogue, last: int, text: str) -> None:
        """Every message must be found in `text`, and marks in place of the messages as well: "a" is found anywhere."""
        example = dialogue.example
        require_shown(example, last, text)
        messages = example.messages[: last + 1]
        shape = (bool(example.tools), *((m.role, *sorted(m.extra), bool(m.content.strip())) for m in messages))
        if shape not in self._shown:
            marked = [
                replace(m, content=f"\ue000{i}\ue001") if m.content.strip() else m for i, m in enumerate(messages)
            ]
            self._require_marks(replace(example, messages=tuple(marked)))
            self._shown.add(shape)

    def _require_marks(self, marked: Conversation) -> None:
        dialogue = self.grammar.read(marked)
        last = len(marked.messages) - 1
        try:
            text = self.grammar.render(dialogue, last)
        except DataError:
            return  # the template reads the contents: the text of each example has to do
        require_shown(marked, last, text)


def _groups(trained: Sequence[int], answers: dict[int, Span]) -> list[list[int]]:
    """The trained messages, each with the next trained response."""
    groups: list[list[int]] = [[]]
    for index in trained:
        groups[-1].append(index)
        if index in answers:
            groups.append([])
    return [group for group in groups if group]
