"""Encoded examples are brought to at most `data.max_length` tokens; what that costs is counted."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, cast

import torch

from tunelab.config import OverLength
from tunelab.data.records import TokenizedExample
from tunelab.data.tokenizing import EncodedExample
from tunelab.errors import DataError


class Dropped(StrEnum):
    """Why an example was left out."""

    OVER_LENGTH = "over_length"
    NO_SUPERVISED_TOKENS = "no_supervised_tokens"


@dataclass(frozen=True, slots=True)
class Fitted:
    """An example of allowed length, or the reason why there is none, and what it cost."""

    example: TokenizedExample | None
    dropped: Dropped | None
    truncated: bool
    num_supervised_tokens_lost: int


def fit(encoded: EncodedExample, max_length: int, over_length: OverLength, bos_token_id: int | None) -> Fitted:
    """Bring an example to at most `max_length` tokens.

    `truncate_prompt` cuts the beginning, behind the beginning-of-sequence token where there is one, until
    the rest fits; earlier turns go first, their supervised tokens with them. If the last response alone is
    too long, one token of context stays (that same token, or the prompt's last) and the response loses its
    end, end-of-turn token included. `drop` leaves the example out, `error` raises DataError. The first
    token is never supervised: nothing predicts it. An example without supervised tokens is dropped.
    """
    ids, mask = encoded.input_ids, encoded.loss_mask.clone()
    num_supervised = int(mask.sum())
    mask[:1] = False
    if not mask.any():
        return Fitted(None, Dropped.NO_SUPERVISED_TOKENS, False, num_supervised)
    truncated = ids.numel() > max_length
    if truncated and over_length is OverLength.error:
        raise DataError(
            f"{encoded.origin}: expected at most {max_length} tokens (data.max_length), found {ids.numel()}; "
            f"set data.max_length={ids.numel()}, data.over_length=truncate_prompt or data.over_length=drop."
        )
    if truncated and over_length is OverLength.drop:
        return Fitted(None, Dropped.OVER_LENGTH, False, num_supervised)
    if truncated:
        keep = _kept(mask, max_length, _has_bos(ids, bos_token_id))
        ids, mask = ids[keep], mask[keep]
        mask[:1] = False
    lost = num_supervised - int(mask.sum())
    return Fitted(TokenizedExample(ids, mask, encoded.origin), None, truncated, lost)


def prompt_ids(encoded: EncodedExample, max_length: int, bos_token_id: int | None) -> list[int]:
    """Return the ids before the last supervised turn: what generation starts from.

    At most the last `max_length` of them, behind the beginning-of-sequence token; the response has no say
    in it.
    """
    prompt: list[int] = cast(Any, encoded.input_ids[: _last_turn(encoded.loss_mask)]).tolist()
    if len(prompt) <= max_length:
        return prompt
    bos = prompt[:1] if _has_bos(encoded.input_ids, bos_token_id) else []
    return bos + prompt[len(prompt) - max_length + len(bos) :]


def _last_turn(mask: torch.Tensor) -> int:
    """Index of the first token of the last supervised stretch; `mask` must be True somewhere."""
    last = int(mask.nonzero()[-1])
    masked = (~mask[:last]).nonzero()
    return int(masked[-1]) + 1 if masked.numel() else 0


def _has_bos(ids: torch.Tensor, bos_token_id: int | None) -> bool:
    return bos_token_id is not None and int(ids[0]) == bos_token_id


def _kept(mask: torch.Tensor, max_length: int, has_bos: bool) -> torch.Tensor:
    """Indices of the tokens that stay, `max_length` or fewer, in order."""
    turn, excess = _last_turn(mask), mask.numel() - max_length
    if excess < turn:  # at least one token of context stays before the last turn
        first = excess + has_bos
        return torch.cat([torch.arange(int(has_bos)), torch.arange(first, mask.numel())])
    context = 0 if has_bos else turn - 1
    end = min(turn + max_length - 1, mask.numel())
    return torch.cat([torch.tensor([context]), torch.arange(turn, end)])
