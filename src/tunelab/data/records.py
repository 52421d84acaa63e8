"""The nouns of the data path: row → example → rendered example → encoded example → tokenized example → micro-batch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

IGNORE_INDEX = -100


class Role(StrEnum):
    """Who speaks in a message."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


@dataclass(frozen=True, slots=True)
class Row:
    """One raw record as a file holds it. `origin` (`train.jsonl:17`) is quoted by every later message."""

    fields: dict[str, Any]
    origin: str


@dataclass(frozen=True, slots=True)
class BadRow:
    """A record that could not be used, and the whole sentence that says why (it begins with the origin)."""

    origin: str
    reason: str


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation. `trained` is True where its text is to be learned.

    `content` is the whole text. `parts` is (instruction, input) where the row held the two apart, for templates that
    show them apart. `extra` holds what only a chat template understands, as plain JSON values: `tool_calls`,
    `tool_call_id`, `name`, `reasoning_content`.
    """

    role: Role
    content: str
    trained: bool = False
    parts: tuple[str, str] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class Conversation:
    """An example that a template renders. Its last message is the response of the assistant.

    `rejected` is, of a preference pair, the other answer to the same prompt (`messages` ends in the chosen one).
    `desirable` is the label of a KTO row (None: not of that kind). `tools` are the JSON schemas of the tools that the
    assistant may call. `choices` are the answers that the last message is one of, of a multiple-choice question.
    """

    messages: tuple[Message, ...]
    origin: str
    tools: tuple[Mapping[str, Any], ...] = ()
    rejected: tuple[Message, ...] = ()
    desirable: bool | None = None
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of text, supervised or not."""

    text: str
    supervised: bool


@dataclass(frozen=True, slots=True)
class Passage:
    """An example whose text is laid out already: no template touches it.

    `windowed`: a document (the format `text`), cut into windows where it is longer than `data.max_length`; it ends in
    the end-of-sequence token. Otherwise its segments are taken exactly as they are.
    """

    segments: tuple[Segment, ...]
    origin: str
    windowed: bool = False


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """An example that is token ids already, with its loss mask (equal lengths)."""

    input_ids: tuple[int, ...]
    loss_mask: tuple[bool, ...]
    origin: str


Example = Conversation | Passage | TokenSequence


@dataclass(frozen=True, slots=True)
class RenderedExample:
    """An example as text: segments that, joined, are exactly what the model reads.

    `prompt` is the text before the last trained turn (what generation starts from) and `response` the reference text of
    that turn, without the end-of-turn marker. `trained` are the texts that must be found again in the supervised
    stretches, one for each supervised segment in order, without white space around them; `end_of_turn` is the token
    text that must end each of these (None: nothing ends them, as in a passage).
    """

    segments: tuple[Segment, ...]
    prompt: str
    response: str
    origin: str
    trained: tuple[str, ...] = ()
    end_of_turn: str | None = None
    windowed: bool = False


@dataclass(frozen=True, slots=True)
class EncodedExample:
    """An example as token ids (int32) with its loss mask (bool), 1-D and equally long.

    `num_seams_apart` counts the seams between segments that a merge would have straddled. `windowed` as in Passage.
    """

    input_ids: npt.NDArray[np.int32]
    loss_mask: npt.NDArray[np.bool_]
    origin: str
    num_seams_apart: int = 0
    windowed: bool = False

    @property
    def num_tokens(self) -> int:
        """Length in tokens."""
        return self.input_ids.size

    @property
    def num_supervised_tokens(self) -> int:
        """Number of tokens that enter the loss."""
        return int(self.loss_mask.sum())


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


def tokenized(example: EncodedExample) -> TokenizedExample:
    """The same example as tensors."""
    ids, mask = example.input_ids.astype(np.int64), example.loss_mask.copy()
    return TokenizedExample(torch.from_numpy(ids), torch.from_numpy(mask), example.origin)


@dataclass(frozen=True, slots=True)
class Choice:
    """A possible answer: its text, and the ids that it adds to the prompt's, the end of the turn left out."""

    text: str
    token_ids: list[int]


@dataclass(frozen=True, slots=True)
class EvaluationExample:
    """What evaluation needs of one example: where generation starts and what it should say.

    `choices`: the possible answers where they are known; `response` is one of them.
    """

    prompt_ids: list[int]
    prompt: str
    response: str
    tokenized: TokenizedExample
    origin: str
    choices: tuple[Choice, ...] = ()


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
