"""The order of turns: which may follow which, and the conversation that comes of them."""

from collections import Counter
from collections.abc import Sequence

from tunelab.config import TrainOn
from tunelab.data.formats.calls import read_tools
from tunelab.data.formats.fields import MEND, Fields
from tunelab.data.records import Conversation, Message, Role
from tunelab.errors import DataError

_CALL = "assistant with tool calls"
_NEXT: dict[str | None, tuple[Role, ...]] = {  # what may follow a turn; None: the beginning
    None: (Role.SYSTEM, Role.USER),
    Role.SYSTEM: (Role.USER,),
    Role.USER: (Role.ASSISTANT,),
    Role.ASSISTANT: (Role.USER,),
    _CALL: (Role.TOOL,),
    Role.TOOL: (Role.TOOL, Role.ASSISTANT),
}
_REMEDIES = {  # (the turn before, the turn that may not follow) → what to do
    (None, Role.ASSISTANT): "remove the greeting, or move it into the system message",
    (Role.SYSTEM, Role.ASSISTANT): "remove the greeting, or move it into the system message",
    (Role.SYSTEM, Role.SYSTEM): "join the two system messages",
    (Role.USER, Role.USER): "join the two user turns",
    (Role.ASSISTANT, Role.ASSISTANT): "join the two assistant turns",
    (Role.ASSISTANT, Role.TOOL): "write the call as 'tool_calls' (sharegpt: a function_call turn) before its result",
    (_CALL, Role.USER): "add the tool's result, or leave the call out",
    (_CALL, Role.ASSISTANT): "add the tool's result, or leave the call out",
    (Role.TOOL, Role.USER): "add the assistant's answer to the result",
}


def converse(
    fields: Fields,
    messages: Sequence[Message],
    rejected: Sequence[Message] = (),
    desirable: bool | None = None,
    choices: Sequence[str] = (),
) -> Conversation:
    """Return the conversation of a row, with its columns `system` and `tools`. Raises DataError for the order."""
    system = fields.optional_text("system") if fields.layout.has("system") else ""
    if system:
        trained = fields.layout.by_role and fields.train_on is TrainOn.all
        messages = [Message(Role.SYSTEM, system, trained), *messages]
    check_order(messages, fields.origin)
    tools = read_tools(fields) if fields.layout.has("tools") else ()
    return Conversation(tuple(messages), fields.origin, tools, tuple(rejected), desirable, tuple(choices))


def check_order(messages: Sequence[Message], origin: str) -> None:
    """Raise DataError unless users and assistant alternate to a last answer, results following tool calls."""
    before: str | None = None
    for index, message in enumerate(messages):
        role = message.role
        if role not in _NEXT[before]:
            raise _misplaced(messages, index, before, origin)
        before = role
        if message.extra and "tool_calls" in message.extra:
            before = _CALL
            _check_results(messages, index, origin)
    if before not in (Role.ASSISTANT, _CALL):
        found = f"{_article(before)} turn last ({_roles(messages)})" if before else "no turns"
        cut = before is Role.USER and any(message.role is Role.ASSISTANT for message in messages)
        remedy = "remove what follows the last answer" if cut else "add the answer"
        raise DataError(f"{origin}: expected the assistant's turn last, found {found}; {remedy}.")


def _misplaced(messages: Sequence[Message], index: int, before: str | None, origin: str) -> DataError:
    role = messages[index].role
    place = f"after {_article(before)} turn" if before else "at the beginning"
    remedy = _REMEDIES.get((before, role), "mend the order")
    return DataError(
        f"{origin}: expected {' or '.join(_NEXT[before])} {place}, found {role} in turn {index} "
        f"(from 0; {_roles(messages)}); {remedy}."
    )


def _check_results(messages: Sequence[Message], index: int, origin: str) -> None:
    """Raise DataError where the results after a turn of tool calls name other calls than it made."""
    made = [call.get("id") for call in messages[index].extra["tool_calls"]]
    answered: list[str | None] = []
    for message in messages[index + 1 :]:
        if message.role is not Role.TOOL:
            break
        answered.append(message.extra.get("tool_call_id"))
    if answered and None not in made and None not in answered and Counter(made) != Counter(answered):
        raise DataError(
            f"{origin}: expected results for the tool calls {', '.join(map(repr, made))} of turn {index} (from 0), "
            f"found results for {', '.join(map(repr, answered))}; {MEND}."
        )


def _article(state: str | None) -> str:
    return f"{'an' if state and state[0] in 'aeio' else 'a'} {state}"


def _roles(messages: Sequence[Message]) -> str:
    roles = [message.role.value for message in messages]
    return f"roles {', '.join(roles[:10])}{', …' * (len(roles) > 10)}"
