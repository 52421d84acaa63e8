"""Lets a person talk to the base model and to what was trained on it, side by side."""

import signal
import sys
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager
from types import FrameType
from typing import Any

from tunelab.audit import refuse_unread_keys
from tunelab.chat.screen import Screen
from tunelab.chat.voice import Side, Voice, load_sides, make_voice
from tunelab.config import ChatConfig, RunConfig, mark_read
from tunelab.data.records import Message, Role
from tunelab.errors import DataError
from tunelab.evaluation.streaming import TextPieces
from tunelab.model.adapter import base_of
from tunelab.model.tokenizer import completion_text
from tunelab.run import RunFolder
from tunelab.subject import open_subject
from tunelab.terminal import quiet_libraries

HELP = """\
/base    show or hide the base model's answers
/reset   forget the conversation
/help    this list
/quit    end (or Ctrl-D); Ctrl-C stops an answer"""


def chat(config: ChatConfig, run: RunConfig | None, folder: RunFolder | None, overrides: Sequence[str]) -> None:
    """Read questions from standard input, and answer each, until it ends.

    Raises:
        TunelabError: model, adapter or template cannot be used.
    """
    quiet_libraries()
    subject = open_subject(config, run, folder)
    voice = make_voice(config, subject)
    mark_read(config, "base", "system", "temperature", "top_p", "max_new_tokens", "seed", "drop_oldest")
    refuse_unread_keys(config, overrides)
    if config.system:
        voice.ids_of([Message(Role.USER, "a question")])  # said now, where the template takes no system message
    screen = Screen(interactive=sys.stdin.isatty() and sys.stdout.isatty())
    sides = load_sides(subject, voice)
    shows_base = config.base if config.base is not None else screen.interactive
    _converse(screen, voice, sides, shows_base or len(sides) == 1)


def _converse(screen: Screen, voice: Voice, sides: list[Side], shows_base: bool) -> None:
    names = " and ".join(side.name for side in sides)
    screen.note(f"{names} of {base_of(sides[-1].model).config.name_or_path}; /help lists the commands")
    number = 0
    for line in screen.lines():
        command = line.strip()
        if command in ("/quit", "/exit"):
            return
        if command == "/base":
            shows_base = not shows_base or len(sides) == 1
            screen.note(f"the base model's answers are {'shown' if shows_base else 'hidden'}")
        elif command == "/reset":
            for side in sides:
                side.turns.clear()
            screen.note("a new conversation")
        elif command == "/help":
            screen.note(HELP)
        elif command.startswith("/") and screen.interactive:
            screen.note(f"there is no command {command.split()[0]}\n{HELP}")
        elif command:
            for side in sides if shows_base else sides[-1:]:
                _answer(screen, voice, side, _question(line), number)
            number += 1


def _question(line: str) -> Message:
    return Message(Role.USER, line.strip())


def _answer(screen: Screen, voice: Voice, side: Side, question: Message, number: int) -> None:
    """Show one answer as it is written, and keep it; one that was stopped is kept as far as it came."""
    side.turns.append(question)
    decoded = TextPieces(lambda ids: completion_text(voice.tokenizer, ids))
    written: list[str] = []
    try:
        answer = closing(voice.answer(side, number))  # the adapter is switched on again where it stops midway
        with answer as tokens, stoppable(screen.interactive) as stopped, screen.speaking(side.name) as say:
            for token in tokens:
                written.append(decoded.add(token))
                say(written[-1])
                if stopped():
                    break
            written.append(decoded.rest())
            say(written[-1])
    except DataError as error:
        screen.problem(str(error))
    text = "".join(written)
    if text.strip():
        side.turns.append(Message(Role.ASSISTANT, text, trained=True))
    else:
        side.turns.pop()


@contextmanager
def stoppable(interactive: bool) -> Generator[Any]:
    """Let Ctrl-C end an answer after its next token instead of the session; yields what says whether it came.

    Where nobody types (not `interactive`), it ends the session as ever.
    """
    if not interactive:
        yield lambda: False
        return
    pressed: list[int] = []

    def press(number: int, frame: FrameType | None) -> None:
        del frame
        pressed.append(number)

    before = signal.signal(signal.SIGINT, press)
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)
