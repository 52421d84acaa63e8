"""The formats of conversations: alpaca, messages, sharegpt, prompt_completion."""

from typing import Any, cast

from tunelab.data.formats.fields import MEND, Fields, shown
from tunelab.data.formats.order import converse
from tunelab.data.formats.registry import OPENAI_TAGS, SHAREGPT_TAGS, data_format
from tunelab.data.formats.turns import TRAINED, TRAINED_PROMPT, TrainedRoles, read_turns
from tunelab.data.records import Conversation, Message, Role

PROMPT = ("prompt", "question")
COMPLETION = ("completion", "response", "answer")


@data_format(
    "messages",
    required={"messages": ("messages", "conversations")},
    optional={"system": "system", "tools": "tools"},
    turns=("messages",),
    tags=OPENAI_TAGS,
    by_role=True,
)
def read_messages(fields: Fields) -> Conversation:
    """Turns with `role` and `content`, as OpenAI's API has them."""
    return converse(fields, read_turns(fields, "messages", TRAINED[fields.train_on]))


@data_format(
    "sharegpt",
    required={"messages": ("conversations", "messages")},
    optional={"system": "system", "tools": "tools"},
    turns=("messages",),
    tags=SHAREGPT_TAGS,
    by_role=True,
)
def read_sharegpt(fields: Fields) -> Conversation:
    """Turns with `from` and `value`."""
    return converse(fields, read_turns(fields, "messages", TRAINED[fields.train_on]))


@data_format(
    "prompt_completion",
    required={"prompt": PROMPT, "response": COMPLETION},
    optional={"system": "system", "tools": "tools"},
    turns=("prompt", "response"),
    by_role=True,
)
def read_prompt_completion(fields: Fields) -> Conversation:
    """A prompt and its response, each a text or a list of turns; of the prompt nothing is trained by default."""
    prompt = read_prompt(fields, TRAINED_PROMPT[fields.train_on])
    return converse(fields, [*prompt, *read_response(fields, TRAINED[fields.train_on])])


@data_format(
    "alpaca",
    required={"prompt": "instruction", "response": ("output", "response")},
    optional={"input": ("input", "context"), "system": "system", "history": "history"},
    by_role=True,
)
def read_alpaca(fields: Fields) -> Conversation:
    """An instruction, optionally with an input, and its output; earlier turns are in `history` as pairs."""
    earlier, last = TRAINED[fields.train_on]
    question = instruction(fields, trained=Role.USER in last)
    answer = Message(Role.ASSISTANT, fields.text("response"), trained=True)
    return converse(fields, [*read_history(fields, (earlier, earlier)), question, answer])


def instruction(fields: Fields, trained: bool) -> Message:
    """The user's message of an instruction and its optional input, which templates may show apart."""
    text, context = fields.text("prompt"), fields.optional_text("input")
    if not (text and context):
        return Message(Role.USER, text or context, trained)
    return Message(Role.USER, f"{text}\n\n{context}", trained, parts=(text, context))


def read_history(fields: Fields, trained: TrainedRoles) -> list[Message]:
    """The messages of earlier questions and answers; none where the column is absent, null or empty."""
    pairs, name = fields.value("history"), fields.column("history")
    if pairs in (None, "", []):
        return []
    roles = (Role.USER, Role.ASSISTANT)
    messages: list[Message] = []
    for index, pair in enumerate(fields.items("history")):
        if type(pair) is not list or len(cast("list[Any]", pair)) != 2:
            raise fields.refusal("a list of a question and an answer", shown(pair), f"{name}[{index}]")
        for side, (role, text) in enumerate(zip(roles, cast("list[Any]", pair), strict=True)):
            content = fields.checked(text, f"{name}[{index}][{side}]")
            messages.append(Message(role, content, role in trained[0]))
    return messages


def read_prompt(fields: Fields, trained: TrainedRoles) -> list[Message]:
    """The messages of a prompt that is a text or a list of turns."""
    if isinstance(fields.value("prompt"), list):
        return read_turns(fields, "prompt", trained)
    return [Message(Role.USER, fields.text("prompt"), Role.USER in trained[1])]


def read_response(fields: Fields, trained: TrainedRoles) -> list[Message]:
    """The messages of the response, of which the first is the assistant's."""
    return check_answer(fields, "response", read_answer(fields, "response", trained))


def check_answer(fields: Fields, part: str, answer: list[Message]) -> list[Message]:
    """Return `answer` where the assistant begins it. Raises DataError otherwise."""
    if answer[0].role is not Role.ASSISTANT:
        remedy = f"leave the turns of the prompt out of it, or {MEND}"
        where = f"column {fields.column(part)!r}"
        raise fields.refusal("an answer that the assistant begins", f"a turn of {answer[0].role} first", where, remedy)
    return answer


def read_answer(fields: Fields, part: str, trained: TrainedRoles) -> list[Message]:
    """The messages of an answer that is a text or a list of turns."""
    if isinstance(fields.value(part), list):
        return read_turns(fields, part, trained)
    return [Message(Role.ASSISTANT, fields.text(part), Role.ASSISTANT in trained[1])]
