"""Who answers in a conversation, and how: base and tuned, with the prompts and the end tokens of training."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from tunelab.config import ChatConfig, Precision
from tunelab.data.prompting import Prompter
from tunelab.data.records import Message, Role
from tunelab.errors import DataError, ModelError
from tunelab.evaluation.generating import inference
from tunelab.evaluation.streaming import make_chooser, stream
from tunelab.model.adapter import CausalLM
from tunelab.model.adapter_folder import read_adapter_config
from tunelab.subject import Subject, check_loading, leaves_the_base, load_base, load_tuned
from tunelab.training.trainer import autocast, resolve_device, resolve_precision


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
        with inference(side.model), autocast(self.precision, self.device), base_alone(side):
            yield from stream(side.model, prompt, room, self.ends, choose)

    def prompt_ids(self, side: Side) -> list[int]:
        """The ids of the conversation so far; with `drop_oldest` without the turns for which there is no room.

        Raises:
            DataError: the conversation fills the positions of the model.
        """
        turns = side.turns
        ids = self.ids_of(turns)
        if self.config.drop_oldest:
            while not self._fits(ids) and len(turns) > 1:
                turns = turns[2:]
                ids = self.ids_of(turns)
        if not self._fits(ids):
            raise DataError(
                f"the conversation has {len(ids)} tokens, the model {self.num_positions} positions: type /reset, or "
                "start with drop_oldest=true, which leaves out the oldest turns."
            )
        return ids

    def ids_of(self, turns: Sequence[Message]) -> list[int]:
        """The ids of `turns` behind the system message, as a prompt.

        Raises:
            DataError: the template does not take them.
        """
        system = [Message(Role.SYSTEM, self.config.system)] if self.config.system else []
        with template_by_its_key_here():
            return self.prompter.prompt_ids([*system, *turns])

    def _fits(self, ids: Sequence[int]) -> bool:
        return self.num_positions is None or len(ids) < self.num_positions


def make_voice(config: ChatConfig, subject: Subject) -> Voice:
    """What answers need besides the weights."""
    run, tokenizer = subject.run, subject.tokenizer
    for place in subject.adapters:
        if read_adapter_config(place).is_prompt_learning:
            raise ModelError(
                f"adapter: expected an adapter inside the model's layers, found virtual tokens in {str(place)!r}, "
                "which chat cannot put in front; measure it with evaluate.py."
            )
    device = resolve_device(run.trainer)
    with template_by_its_key_here():
        prompter = Prompter(subject.template(), tokenizer)
    check_loading(subject)
    return Voice(
        config=config,
        prompter=prompter,
        tokenizer=tokenizer,
        ends=subject.ends(prompter),
        precision=resolve_precision(run.trainer.precision, device),
        device=device,
        num_positions=getattr(subject.architecture.get_text_config(), "max_position_embeddings", None),
    )


def load_sides(subject: Subject, voice: Voice) -> list[Side]:
    """Base and tuned; on one copy of the weights where switching the adapter off gives the base."""
    base = load_base(subject, voice.device)
    if subject.whole is None and not subject.adapters:
        return [Side("base", base, without_adapter=False)]
    shared = subject.whole is None and leaves_the_base(subject)
    tuned = load_tuned(subject, voice.device, voice.precision, base if shared else None)
    return [Side("base", tuned if shared else base, without_adapter=shared), Side("tuned", tuned, False)]


@contextmanager
def template_by_its_key_here() -> Generator[None]:
    """What is wrong with a template is said of `data.template`, which chat calls `template`."""
    try:
        yield
    except DataError as error:
        raise DataError(str(error).replace("data.template", "template")) from error


@contextmanager
def base_alone(side: Side) -> Generator[None]:
    """The adapter off, where it is the base that answers."""
    if not side.without_adapter:
        yield
        return
    model: Any = side.model
    with model.disable_adapter():
        yield
