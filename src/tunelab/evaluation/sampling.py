"""Tokens drawn at random, from a seed for each prompt and sample: neither the batch nor the order of prompts counts."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

_BITS = 48  # of a draw: fewer than a float64 has, so that u * total stays below a total that was rounded


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a token is drawn: `temperature` above 0, `top_p` in (0, 1], `top_k` at least 1 or None; `seed` of the draws.

    As in transformers: the logits are divided by the temperature, all but the `top_k` largest are left out, and of the
    rest the nucleus stays (Holtzman et al. 2020): the fewest most likely tokens whose probabilities reach `top_p`.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None
    seed: int = 0


def distribution(logits: torch.Tensor, sampling: Sampling) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities (rows, m) in float64 and the token ids they are of, (rows, m) int64, for logits (rows, vocabulary).

    They add up to 1 up to `top_p`: what the nucleus leaves out is 0, the rest is not scaled up again.
    """
    wide, size = logits.double() / sampling.temperature, logits.shape[-1]
    if sampling.top_k is not None and sampling.top_k < size:
        wide, ids = wide.topk(sampling.top_k, dim=-1)
    elif sampling.top_p < 1:
        wide, ids = wide.sort(dim=-1, descending=True, stable=True)
    else:
        ids = torch.arange(size, device=logits.device).expand_as(wide)
    probabilities = wide.softmax(-1)
    if sampling.top_p < 1:
        before = probabilities.cumsum(-1) - probabilities
        probabilities = probabilities.where(before < sampling.top_p, 0.0)
    return probabilities, ids


def draw(logits: torch.Tensor, uniforms: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """The token of each row, (rows,) int64: where `uniforms` (rows,), in [0, 1), falls on the cumulative sum."""
    probabilities, ids = distribution(logits, sampling)
    cumulative = probabilities.cumsum(-1)
    targets = uniforms[:, None] * cumulative[:, -1:]
    places = torch.searchsorted(cumulative, targets, right=True).clamp(max=ids.shape[-1] - 1)
    return ids.gather(-1, places)[:, 0]


def uniform_draws(seed: int, prompt_ids: Sequence[int], sample: int, count: int) -> npt.NDArray[np.float64]:
    """`count` numbers in [0, 1), one for each token to come: a function of seed, prompt and number of the sample.

    From the raw Philox stream, which numpy promises for all versions; samples have different parts of one prompt's.
    """
    digest = hashlib.sha256(np.asarray(prompt_ids, dtype="<i8").tobytes()).digest()
    key = np.array([seed, int.from_bytes(digest[:8], "little")], dtype=np.uint64)
    counter = np.array([0, 0, 0, sample], dtype=np.uint64)
    words = np.random.Philox(key=key, counter=counter).random_raw(count)
    return (words >> np.uint64(64 - _BITS)).astype(np.float64) / 2.0**_BITS
