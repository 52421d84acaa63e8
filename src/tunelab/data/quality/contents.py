"""What the checks compare of an example: its identity, its prompt, its response and its text."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tunelab.data.records import Conversation, Example, Message, Passage, Role, TokenSequence

MAX_CHARACTERS = 1_000_000


@dataclass(frozen=True, slots=True)
class Content:
    """What is compared of one example.

    `identity` and `prompt` are 64-bit BLAKE2b digests: of the whole example, and of what should decide its response (0
    where nothing does, as in preference pairs, which give a prompt several). That is all before the response, and of a
    KTO row also the response: what its label judges. `text` is what is compared
    with other examples, and `aside` what is only searched for patterns: system messages, which whole data sets share,
    tool calls and rejected answers. Both end after MAX_CHARACTERS. `response` is None where an example has none.
    """

    identity: int
    prompt: int
    text: str
    aside: str
    response: str | None


def content_of(example: Example) -> Content:
    """Return what the checks compare of `example`."""
    match example:
        case Conversation():
            return _of_conversation(example)
        case Passage():
            return _of_passage(example)
        case TokenSequence():
            canonical = f"{example.input_ids}{example.loss_mask}"
            return Content(_digests("tokens", canonical)[1], 0, "", "", None)


def compared_text(example: Example) -> str:
    """Return the text that is compared with other examples, `content_of(example).text`."""
    match example:
        case Conversation():
            return "\n".join([m.content for m in example.messages if m.role is not Role.SYSTEM])[:MAX_CHARACTERS]
        case Passage():
            return "".join([segment.text for segment in example.segments])[:MAX_CHARACTERS]
        case TokenSequence():
            return ""


def _of_conversation(example: Conversation) -> Content:
    *before, last = example.messages
    tools = _json(example.tools) if example.tools else ""
    prompt = "".join([tools, *map(_canonical, before), str(last.trained)])
    answers = "".join(map(_canonical, (last, *example.rejected)))
    if example.desirable is not None:
        prompt, answers = f"{prompt}\x1e{answers}", f"{example.desirable}"
    prompt_digest, identity = _digests(prompt, answers)
    return Content(
        identity=identity,
        prompt=0 if example.rejected else prompt_digest,
        text=compared_text(example),
        aside=_aside(example)[:MAX_CHARACTERS],
        response=_answer(last),
    )


def _of_passage(example: Passage) -> Content:
    learned = [i for i, segment in enumerate(example.segments) if segment.supervised]
    text = compared_text(example)
    if example.windowed or not learned:
        whole = "".join(segment.text for segment in example.segments)
        return Content(_digests("text", whole.strip())[1], 0, text, "", None)
    before = "".join(segment.text for segment in example.segments[: learned[-1]])
    response = example.segments[learned[-1]].text
    mask = "".join(f"{len(segment.text)}{'+' if segment.supervised else '-'}" for segment in example.segments[:-1])
    prompt, identity = _digests(f"segments{mask}\x1f{before}", response.strip())
    return Content(identity, prompt if before else 0, text, "", response)


def _answer(message: Message) -> str:
    """The text of a response; a turn that only calls tools is not empty."""
    calls = message.extra.get("tool_calls")
    return message.content or (_json(calls) if calls else "")


def _aside(example: Conversation) -> str:
    if example.messages[0].role is not Role.SYSTEM and not example.rejected and not _extras(example.messages):
        return ""
    system = (m.content for m in example.messages if m.role is Role.SYSTEM)
    extras = map(_json, _extras(example.messages))
    return "\n".join((*system, *extras, *(m.content for m in example.rejected)))


def _extras(messages: Iterable[Message]) -> list[Mapping[str, Any]]:
    return [message.extra for message in messages if message.extra]


def _canonical(message: Message) -> str:
    """A message as text that no other message gives: white space around the content aside, lengths before texts."""
    content = message.content.strip()
    extra = _json(message.extra) if message.extra else ""
    return f"{message.role.value}{message.trained}{len(content)}+{len(extra)}:{content}{extra}"


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)


def _digests(prompt: str, response: str) -> tuple[int, int]:
    """64-bit digests of the prompt, and of the prompt and the response."""
    digest = hashlib.blake2b(prompt.encode("utf-8", "surrogatepass"), digest_size=8)
    first = digest.digest()
    digest.update(b"\x1e" + response.encode("utf-8", "surrogatepass"))
    return int.from_bytes(first, "little") or 1, int.from_bytes(digest.digest(), "little")
