"""Runs a chat template: compiled once, rendered within a limit of size, and read for what it may depend on."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any, cast

from jinja2 import nodes
from jinja2.exceptions import TemplateSyntaxError
from transformers import PreTrainedTokenizerBase

from tunelab.data.upstream import compile_chat_template, render_chat_template, special_tokens
from tunelab.errors import DataError, first_line

_LIMIT_CHARACTERS = 20_000_000
_FEW_PIECES = 512  # more than this many pieces of output are counted one by one
_FIXED_DATE = datetime(2025, 1, 1, 12)  # what strftime_now says: the same data gives the same ids on every day
REMEDY = "set data.template=<file>.jinja, data.template=alpaca or data.template=plain"

Turn = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """A chat template with everything it sees except messages, tools and the wish for a generation prompt.

    `compiled` is jinja's template and `context` its constants; without them (another transformers) the tokenizer's own
    method renders. `constant_prompt`: the generation prompt depends on nothing that a message says.
    """

    text: str
    tokenizer: PreTrainedTokenizerBase
    compiled: Any
    context: Mapping[str, Any]
    constant_prompt: bool
    dated: bool

    def render(
        self, messages: Sequence[Turn], tools: Sequence[Turn] | None, origin: str, generation_prompt: bool = False
    ) -> str:
        """Return what the template writes. Raises DataError where it refuses, fails or writes without end."""
        try:
            if self.compiled is None:
                return render_chat_template(self.tokenizer, self.text, messages, tools, generation_prompt)
            given = {"messages": messages, "tools": tools, "add_generation_prompt": generation_prompt}
            compiled, seen = self.compiled, {**self.context, **given}
            context = compiled.environment.context_class(compiled.environment, seen, compiled.name, compiled.blocks)
            return _joined(compiled.root_render_func(context))
        except Exception as error:  # a template can raise anything that Python can
            reason = "it recurses without end" if isinstance(error, RecursionError) else first_line(error)
            raise DataError(f"{origin}: the chat template refused the conversation: {reason}; {REMEDY}.") from error


def load_chat_template(text: str, tokenizer: PreTrainedTokenizerBase) -> ChatTemplate:
    """Compile a chat template. Raises DataError for one that jinja cannot read or that rolls dice."""
    try:
        compiled = compile_chat_template(text)
    except TemplateSyntaxError as error:
        raise DataError(
            f"data.template: expected a jinja chat template, found an error in its line {error.lineno}: "
            f"{first_line(error)}; correct that line or {REMEDY}."
        ) from error
    if compiled is None:
        return ChatTemplate(text, tokenizer, None, {}, constant_prompt=False, dated=False)
    tree = cast(nodes.Template, compiled.environment.parse(text))
    loaded = {name.name for name in tree.find_all(nodes.Name) if name.ctx == "load"}
    if "lipsum" in loaded or any(used.name == "random" for used in tree.find_all(nodes.Filter)):
        raise DataError(
            f"data.template: expected a template that renders alike every time, found a random one; {REMEDY}."
        )
    context = {**compiled.globals, **special_tokens(tokenizer), "documents": None, "strftime_now": _FIXED_DATE.strftime}
    return ChatTemplate(text, tokenizer, compiled, context, _constant_prompt(tree), dated="strftime_now" in loaded)


def _joined(pieces: Iterator[str]) -> str:
    text = "".join(islice(pieces, _FEW_PIECES))
    more, length = list[str](), len(text)
    for piece in pieces:
        more.append(piece)
        length += len(piece)
        if length > _LIMIT_CHARACTERS:
            break
    if length > _LIMIT_CHARACTERS:
        raise ValueError(f"it writes more than {_LIMIT_CHARACTERS:,} characters")
    return text + "".join(more) if more else text


def _constant_prompt(tree: nodes.Template) -> bool:
    """Whether whatever asks for a generation prompt stands outside loops and macros and names no value set there."""
    changing = {name.name for name in tree.find_all(nodes.Name) if name.ctx != "load"} | {"messages", "loop"}
    asking = [
        (statement, names)
        for statement in tree.body
        if "add_generation_prompt" in (names := {name.name for name in statement.find_all(nodes.Name)})
    ]
    return all(isinstance(statement, nodes.If | nodes.Output) and not names & changing for statement, names in asking)
