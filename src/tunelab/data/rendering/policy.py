"""What is done where a tokenizer or its chat template leaves something open: stated in sentences, for the report."""

from collections.abc import Iterator
from typing import Any, cast

from transformers import PreTrainedTokenizerBase

from tunelab.data.records import Conversation, Message, Role
from tunelab.data.rendering.chat import ChatRenderer
from tunelab.data.upstream import eos_token
from tunelab.errors import DataError

_SYSTEM = Message(Role.SYSTEM, "instruction")
_TURNS = (Message(Role.USER, "question"), Message(Role.ASSISTANT, "answer", trained=True))


def token_policy(tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """Say what fills padded rows."""
    pad, eos = cast(Any, tokenizer).pad_token, eos_token(tokenizer)
    if pad is None:
        yield "The tokenizer has no pad token: any id may fill padded rows, because padding never enters the loss."
    elif pad == eos:
        yield (
            f"The pad token is the end-of-sequence token {eos}: masks are made by position and never look at ids, "
            "so the end of each response is learned all the same."
        )


def chat_policy(tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """Say what probes of the chat template showed. Raises DataError for a template that cannot be used."""
    renderer = ChatRenderer(tokenizer)
    grammar = renderer.grammar
    if isinstance(cast(Any, tokenizer).chat_template, dict):
        yield "Of the tokenizer's chat templates, 'tool_use' renders conversations with tools, 'default' all others."
    if not grammar.ends_turns:
        yield (
            "The chat template ends responses with no token of the tokenizer: the end-of-sequence token "
            f"{grammar.end_of_turn} is put after each trained response."
        )
    if grammar.template.dated:
        yield "The chat template writes today's date: here it is always 1 January 2025, so that a run can be repeated."
    if _takes(renderer, *_TURNS) and not _takes(renderer, _SYSTEM, *_TURNS):
        yield (
            "The chat template refuses or leaves out system messages: a conversation that has one is an error; put its "
            "text into the user's message, or set data.template=<file>.jinja."
        )


def _takes(renderer: ChatRenderer, *messages: Message) -> bool:
    try:
        renderer.render(Conversation(messages, "data.template"))
    except DataError:
        return False
    return True
