"""The nouns of the data path: row → example → rendered example → tokenized example → micro-batch."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch

IGNORE_INDEX = -100


class Role(StrEnum):
    """Who speaks in a message."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


@dataclass(frozen=True, slots=True)
class Row:
    """One raw record as a file holds it. `origin` (`train.jsonl:17`) is quoted by every later message."""

    fields: dict[str, Any]
    origin: str


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation. `trained` is True where its text is to be learned.

    `content` is the whole text. `parts` is (instruction, input) where the row held the two apart, for
    templates that show them apart.
    """

    role: Role
    content: str
    trained: bool = False
    parts: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Example:
    """One training item: a conversation whose last message is the response of the assistant."""

    messages: tuple[Message, ...]
    origin: str


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of rendered text, supervised or not."""

    text: str
    supervised: bool


@dataclass(frozen=True, slots=True)
class RenderedExample:
    """An example as text: segments that, joined, are exactly what the model reads.

    `prompt` is the text before the last trained turn (what generation starts from) and `response` the
    reference text of that turn, without the end-of-turn marker.
    """

    segments: tuple[Segment, ...]
    prompt: str
    response: str
    origin: str


@dataclass(frozen=True, slots=True)
class TokenizedExample:
    """Token ids with their loss mask.

    `input_ids` and `loss_mask` are 1-D CPU tensors of equal length (int64 and bool); `loss_mask` is True on
    supervised tokens, aligned with `input_ids` (the loss shifts, nobody else does). The first token is never
    supervised: nothing predicts it.
    """

    input_ids: torch.Tensor
    loss_mask: torch.Tensor
    origin: str

    @property
    def num_tokens(self) -> int:
        """Length in tokens, prompt and response and special tokens together."""
        return self.input_ids.numel()

    @property
    def num_supervised_tokens(self) -> int:
        """Number of tokens that enter the loss."""
        return int(self.loss_mask.sum())


@dataclass(frozen=True, slots=True)
class EvaluationExample:
    """What evaluation needs of one example: where generation starts and what it should say."""

    prompt_ids: list[int]
    prompt: str
    response: str
    tokenized: TokenizedExample
    origin: str


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """The tensors of one forward pass.

    All of shape (rows, width), int64. Padding-free: one row holding `segment_lengths` examples end to end
    with restarting `position_ids` and `attention_mask` None. Padded: one example a row, right-padded,
    `segment_lengths` None. `labels` are unshifted, IGNORE_INDEX where nothing is supervised.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    labels: torch.Tensor
    attention_mask: torch.Tensor | None
    segment_lengths: tuple[int, ...] | None

    @property
    def num_tokens(self) -> int:
        """Positions computed, padding included."""
        return self.input_ids.numel()

    @property
    def num_real_tokens(self) -> int:
        """Positions that hold a token of an example."""
        return self.num_tokens if self.attention_mask is None else int(self.attention_mask.sum())

    def to(self, device: torch.device) -> "MicroBatch":
        """Move the tensors to `device`."""
        mask = self.attention_mask
        return MicroBatch(
            input_ids=self.input_ids.to(device, non_blocking=True),
            position_ids=self.position_ids.to(device, non_blocking=True),
            labels=self.labels.to(device, non_blocking=True),
            attention_mask=None if mask is None else mask.to(device, non_blocking=True),
            segment_lengths=self.segment_lengths,
        )
