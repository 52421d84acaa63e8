"""Lets a person talk to the base model and to what was trained on it, side by side."""

import signal
import sys
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import torch

from tunelab.audit import refuse_unread_keys
from tunelab.chat.screen import Screen
from tunelab.config import ChatConfig, Precision, Quantization, RunConfig, mark_read, to_plain
from tunelab.data.prompting import Prompter
from tunelab.data.records import Message, Role
from tunelab.errors import DataError, ModelError
from tunelab.evaluation.generating import inference
from tunelab.evaluation.streaming import TextPieces, make_chooser, stream
from tunelab.model.adapter import CausalLM, base_of, load_adapter, ready_for_adapter, skip_input_casts
from tunelab.model.generation import base_generation_config
from tunelab.model.loading import check_base_model, load_base_model, tuned_as_base
from tunelab.model.matching import read_adapter_config
from tunelab.model.tokenizer import end_token_ids, token_id
from tunelab.run import RunFolder
from tunelab.subject import Subject, open_subject
from tunelab.terminal import quiet_libraries
from tunelab.training.trainer import autocast, resolve_device, resolve_precision

HELP = """\
/base    show or hide the base model's answers
/reset   forget the conversation
/help    this list
/quit    end (or Ctrl-D); Ctrl-C stops an answer"""


@dataclass(slots=True)
class Side:
    """One of the models in the conversation, with the turns as it knows them: its own answers."""

    name: str  # base or tuned
    model: CausalLM
    without_adapter: bool
    turns: list[Message] = field(default_factory=list[Message])


@dataclass(frozen=True, slots=True)
class Voice:
    """How answers are made: template, precision, sampling, and how much room there is."""

    config: ChatConfig
    prompter: Prompter
    tokenizer: Any
    ends: tuple[int, ...]
    precision: Precision
    device: torch.device
    num_positions: int | None

    def answer(self, side: Side, number: int) -> Generator[int]:
        """Yield the ids of the answer to the last turn of `side`; `number` counts the answers, for the seed."""
        prompt = self.prompt_ids(side)
        room = self.config.max_new_tokens
        if self.num_positions is not None:
            room = min(room, self.num_positions - len(prompt))
        choose = make_chooser(self.config.temperature, self.config.top_p, self.config.seed + number)
        with inference(side.model), autocast(self.precision, self.device), _adapter(side):
            yield from stream(side.model, prompt, room, self.ends, choose)

    def prompt_ids(self, side: Side) -> list[int]:
        """The ids of the conversation so far; with `drop_oldest` without the turns for which there is no room.

        Raises:
            DataError: the conversation fills the positions of the model.
        """
        system = [Message(Role.SYSTEM, self.config.system)] if self.config.system else []
        turns = side.turns
        ids = self.prompter.prompt_ids([*system, *turns])
        if self.config.drop_oldest:
            while not self._fits(ids) and len(turns) > 1:
                turns = turns[2:]
                ids = self.prompter.prompt_ids([*system, *turns])
        if not self._fits(ids):
            raise DataError(
                f"the conversation has {len(ids)} tokens, the model {self.num_positions} positions: type /reset, or "
                "start with drop_oldest=true, which leaves out the oldest turns."
            )
        return ids

    def _fits(self, ids: Sequence[int]) -> bool:
        return self.num_positions is None or len(ids) < self.num_positions


def chat(config: ChatConfig, run: RunConfig | None, folder: RunFolder | None, overrides: Sequence[str]) -> None:
    """Read questions from standard input, and answer each, until it ends.

    Raises:
        TunelabError: model, adapter or template cannot be used.
    """
    quiet_libraries()
    subject = open_subject(config, run, folder)
    voice = _voice(config, subject)
    mark_read(config, "base", "system", "temperature", "top_p", "max_new_tokens", "seed", "drop_oldest")
    refuse_unread_keys(config, overrides)
    if config.system:
        voice.prompter.prompt_ids([Message(Role.SYSTEM, config.system), Message(Role.USER, "a question")])
    screen = Screen(interactive=sys.stdin.isatty() and sys.stdout.isatty())
    sides = _load(subject, voice)
    shows_base = config.base if config.base is not None else screen.interactive
    _converse(screen, voice, sides, shows_base or len(sides) == 1)


def _voice(config: ChatConfig, subject: Subject) -> Voice:
    """What answers need besides the weights."""
    run, tokenizer = subject.run, subject.tokenizer
    for place in subject.adapters:
        if read_adapter_config(place).is_prompt_learning:
            raise ModelError(
                f"adapter: expected an adapter inside the model's layers, found virtual tokens in {str(place)!r}, "
                "which chat cannot put in front; measure it with evaluate.py."
            )
    device = resolve_device(run.trainer)
    prompter = Prompter(subject.template, tokenizer)
    own = end_token_ids(tokenizer, base_generation_config(run.model))
    text_config = check_base_model(run.model, 0).get_text_config()
    mark_read(run.model, "dtype", "quantization")
    if to_plain(run.model)["quantization"] != Quantization.none.value:
        mark_read(run.model, "double_quantization")
    return Voice(
        config=config,
        prompter=prompter,
        tokenizer=tokenizer,
        ends=tuple(sorted({*own, token_id(tokenizer, prompter.end_of_turn)})),
        precision=resolve_precision(run.trainer.precision, device),
        device=device,
        num_positions=getattr(text_config, "max_position_embeddings", None),
    )


def _load(subject: Subject, voice: Voice) -> list[Side]:
    """Base and tuned, on one copy of the base where the tuned one is an adapter."""
    base = load_base_model(subject.run.model, voice.device)
    if subject.whole is not None:
        tuned = load_base_model(tuned_as_base(subject.run.model, subject.whole), voice.device)
        return [Side("base", base, False), Side("tuned", tuned, False)]
    if not subject.adapters:
        return [Side("base", base, False)]
    model = load_adapter(ready_for_adapter(base), subject.adapters[0])
    if voice.precision is not Precision.fp32:
        skip_input_casts(model)
    return [Side("base", model, True), Side("tuned", model, False)]


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
    decoded = TextPieces(lambda ids: voice.tokenizer.decode(list(ids), skip_special_tokens=True))
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
def _adapter(side: Side) -> Generator[None]:
    """The adapter off, where it is the base that answers."""
    if not side.without_adapter:
        yield
        return
    model: Any = side.model
    with model.disable_adapter():
        yield


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
