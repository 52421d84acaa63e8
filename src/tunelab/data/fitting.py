"""Encoded examples are brought to at most `data.max_length` tokens; what that costs is counted."""

from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from tunelab.config import OverLength
from tunelab.data.records import EncodedExample
from tunelab.errors import DataError


class Dropped(StrEnum):
    """Why an example was left out."""

    OVER_LENGTH = "over_length"
    NO_SUPERVISED_TOKENS = "no_supervised_tokens"


@dataclass(frozen=True, slots=True)
class Fitted:
    """The examples of allowed length that an example became, or the reason why there is none, and what it cost.

    `num_windows` is the number of windows that a document was cut into, 0 where it was not cut.
    """

    examples: tuple[EncodedExample, ...]
    dropped: Dropped | None
    truncated: bool
    num_supervised_tokens_lost: int
    num_windows: int = 0


def fit(encoded: EncodedExample, max_length: int, over_length: OverLength, bos_token_id: int | None) -> Fitted:
    """Bring an example to at most `max_length` tokens (2 or more).

    A windowed one is cut into windows, whatever `over_length` says. Of others, `truncate_prompt` cuts the beginning,
    behind the beginning-of-sequence token where there is one, until the rest fits; earlier turns go first, their
    supervised tokens with them. If the last response alone is too long, one token of context stays (that same token,
    or the prompt's last) and the response loses its end, end-of-turn token included. `drop` leaves the example out,
    `error` raises DataError. The first token is never supervised: nothing predicts it. An example without supervised
    tokens is dropped.
    """
    num_supervised = int(np.count_nonzero(encoded.loss_mask))
    if num_supervised == 0 or (num_supervised == 1 and encoded.loss_mask[0]):
        return Fitted((), Dropped.NO_SUPERVISED_TOKENS, False, num_supervised)
    if encoded.num_tokens <= max_length:
        return Fitted((_without_first(encoded),), None, False, int(encoded.loss_mask[0]))
    if encoded.windowed:
        return _windows(encoded, max_length, num_supervised)
    if over_length is OverLength.error:
        raise DataError(
            f"{encoded.origin}: expected at most {max_length} tokens (data.max_length), found {encoded.num_tokens}; "
            f"set data.max_length={encoded.num_tokens}, data.over_length=truncate_prompt or data.over_length=drop."
        )
    if over_length is OverLength.drop:
        return Fitted((), Dropped.OVER_LENGTH, False, num_supervised)
    example = _part(encoded, _kept(encoded, max_length, bos_token_id))
    return Fitted((example,), None, True, num_supervised - example.num_supervised_tokens)


def prompt_ids(encoded: EncodedExample, max_length: int, bos_token_id: int | None) -> list[int]:
    """Return the ids before the last supervised turn: what generation starts from.

    At most the last `max_length` of them, behind the beginning-of-sequence token; the response has no say
    in it.
    """
    prompt: list[int] = encoded.input_ids[: _last_turn(encoded.loss_mask)].tolist()
    if len(prompt) <= max_length:
        return prompt
    bos = prompt[:1] if _has_bos(encoded, bos_token_id) else []
    return bos + prompt[len(prompt) - max_length + len(bos) :]


def last_turn_ids(encoded: EncodedExample, ended: bool) -> list[int]:
    """Return the ids of the last supervised turn, its end-of-turn token left out where it `ended` in one."""
    last = int(np.flatnonzero(encoded.loss_mask)[-1])
    ids: list[int] = encoded.input_ids[_last_turn(encoded.loss_mask) : last + 1].tolist()
    return ids[:-1] if ended else ids


def _windows(encoded: EncodedExample, max_length: int, num_supervised: int) -> Fitted:
    """Cut a document so that each window begins with the last token of the one before, as context.

    So every token but the document's first is supervised in one window, and in one only.
    """
    starts = range(0, encoded.num_tokens - 1, max_length - 1)
    windows = [_part(encoded, slice(start, start + max_length)) for start in starts]
    examples = tuple(window for window in windows if window.loss_mask.any())
    lost = num_supervised - sum(example.num_supervised_tokens for example in examples)
    return Fitted(examples, None, False, lost, num_windows=len(examples))


def _part(encoded: EncodedExample, keep: slice | npt.NDArray[np.intp]) -> EncodedExample:
    return _without_first(replace(encoded, input_ids=encoded.input_ids[keep], loss_mask=encoded.loss_mask[keep]))


def _without_first(encoded: EncodedExample) -> EncodedExample:
    """The example with its first token not supervised."""
    if not encoded.loss_mask[0]:
        return encoded
    mask = encoded.loss_mask.copy()
    mask[0] = False
    return replace(encoded, loss_mask=mask)


def _last_turn(mask: npt.NDArray[np.bool_]) -> int:
    """Index of the first token of the last supervised stretch; `mask` must be True somewhere."""
    last = np.flatnonzero(mask)[-1]
    masked = np.flatnonzero(~mask[:last])
    return int(masked[-1]) + 1 if masked.size else 0


def _has_bos(encoded: EncodedExample, bos_token_id: int | None) -> bool:
    return bos_token_id is not None and int(encoded.input_ids[0]) == bos_token_id


def _kept(encoded: EncodedExample, max_length: int, bos_token_id: int | None) -> npt.NDArray[np.intp]:
    """Indices of the tokens that stay, `max_length` or fewer, in order."""
    has_bos, num_tokens = _has_bos(encoded, bos_token_id), encoded.num_tokens
    mask = encoded.loss_mask.copy()
    mask[0] = False
    turn, excess = _last_turn(mask), num_tokens - max_length
    if excess < turn:  # at least one token of context stays before the last turn
        return np.concatenate([np.arange(int(has_bos)), np.arange(excess + has_bos, num_tokens)])
    context = 0 if has_bos else turn - 1
    return np.concatenate([[context], np.arange(turn, min(turn + max_length - 1, num_tokens))])
