"""The decoding loop of one batch of prompts: the next token of each row, greedy or drawn, until all are done."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from transformers import PreTrainedModel

from tunelab.evaluation.reading import Reader
from tunelab.evaluation.sampling import Sampling, draw, uniform_draws


@dataclass(frozen=True, slots=True)
class Completion:
    """What a model wrote after a prompt: neither the prompt, nor the end token, nor anything after it.

    `finished` is True where the model ended by itself, False where it ran out of new tokens or positions.
    `log_probability`: of these tokens and the end token, in nats, where it was asked for.
    """

    token_ids: list[int]
    finished: bool
    log_probability: float | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt: its place in the input, its tokens, how many new tokens it may have, and which sample it is."""

    index: int
    prompt_ids: list[int]
    num_new_tokens: int
    sample: int = 0


@dataclass(frozen=True, slots=True)
class Decoding:
    """How prompts are completed.

    `batch_tokens`: positions of one batch at most, (longest prompt + max_new_tokens) x rows; a single prompt may exceed
    it. `end_token_ids`: any of them ends a completion. `sampling` None: greedy, always the most likely token. `scored`:
    completions have their log-probability, of the model as it is, without temperature or nucleus.
    """

    max_new_tokens: int
    batch_tokens: int
    end_token_ids: Sequence[int]
    pad_token_id: int
    sampling: Sampling | None = None
    scored: bool = False


def decode(
    model: torch.nn.Module, causal_lm: PreTrainedModel, batch: Sequence[Request], decoding: Decoding
) -> list[Completion]:
    """Complete the prompts of one batch, in its order. `causal_lm`: the transformers model inside `model`."""
    reader = Reader(
        model,
        causal_lm,
        [request.prompt_ids for request in batch],
        pad=decoding.pad_token_id,
        room=max(request.num_new_tokens for request in batch),
        last_position=max(len(request.prompt_ids) + request.num_new_tokens for request in batch) - 1,
    )
    text = _Text(batch, decoding, causal_lm.device)
    choose = _chooser(batch, decoding.sampling, causal_lm.device)
    logits = reader.read_prompts()
    while True:
        tokens = choose(logits, text)
        if decoding.scored:
            text.add_scores(logits, tokens)
        text.add(tokens)
        num_active = int(text.active.sum())
        if num_active == 0:
            return text.completions(batch)
        if num_active < len(tokens) and reader.can_select:
            kept = _kept_rows(text.active, num_active)
            reader.select(kept)
            text.select(kept)
            tokens = tokens[kept]
        logits = reader.read(tokens)


class _Text:
    """What has been written; rows that are done leave it, in an order of their own.

    `rows`: the places in the batch of the rows that are still here; `active`: which of them are not done.
    """

    def __init__(self, batch: Sequence[Request], decoding: Decoding, device: torch.device) -> None:
        limits = [request.num_new_tokens for request in batch]
        self._ends = list(decoding.end_token_ids)
        self._end_tokens = torch.tensor(self._ends, device=device)
        self._written = torch.full((len(batch), max(limits)), decoding.pad_token_id, device=device)
        self._scores = torch.zeros(len(batch), dtype=torch.float64, device=device) if decoding.scored else None
        self._limits = torch.tensor(limits, device=device)
        self.rows = torch.arange(len(batch), device=device)
        self.active = torch.ones(len(batch), dtype=torch.bool, device=device)
        self.num_written = 0

    def add_scores(self, logits: torch.Tensor, tokens: torch.Tensor) -> None:
        """Add the log-probability of the next token of each row that is not done."""
        assert self._scores is not None
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        found = wide.log_softmax(-1).gather(-1, tokens[:, None])[:, 0].double()
        self._scores[self.rows] += found.where(self.active, 0.0)

    def add(self, tokens: torch.Tensor) -> None:
        """Write the next token of each row, (rows,)."""
        self._written[self.rows, self.num_written] = tokens
        self.num_written += 1
        self.active &= ~torch.isin(tokens, self._end_tokens) & (self._limits > self.num_written)

    def select(self, rows: torch.Tensor) -> None:
        """Keep `rows` alone."""
        self.rows, self.active, self._limits = self.rows[rows], self.active[rows], self._limits[rows]

    def completions(self, batch: Sequence[Request]) -> list[Completion]:
        """Of each request, in the order of the batch."""
        rows = cast(list[list[int]], self._written.tolist())  # pyright: ignore[reportUnknownMemberType]
        scores = [None] * len(batch) if self._scores is None else cast(list[float], self._scores.tolist())
        return [
            _completion(row[: request.num_new_tokens], self._ends, score)
            for row, request, score in zip(rows, batch, scores, strict=True)
        ]


def _kept_rows(active: torch.Tensor, num_active: int) -> torch.Tensor:
    """The places of the active rows, (num_active,): as many as can stay do, the last ones fill the gaps."""
    kept = torch.arange(num_active, device=active.device)
    kept[~active[:num_active]] = active[num_active:].nonzero().squeeze(1) + num_active
    return kept


def _chooser(
    batch: Sequence[Request], sampling: Sampling | None, device: torch.device
) -> Callable[[torch.Tensor, _Text], torch.Tensor]:
    """What picks the next token of each row, (rows,) int64, from logits (rows, vocabulary)."""
    if sampling is None:
        return lambda logits, _: logits.argmax(-1)
    uniforms = np.zeros((len(batch), max(request.num_new_tokens for request in batch)))
    for row, request in zip(uniforms, batch, strict=True):
        count = request.num_new_tokens
        row[:count] = uniform_draws(sampling.seed, request.prompt_ids, request.sample, count)
    drawn = torch.from_numpy(uniforms).to(device)
    return lambda logits, text: draw(logits, drawn[text.rows, text.num_written], sampling)


def _completion(tokens: list[int], ends: Sequence[int], score: float | None) -> Completion:
    """Cut at the first end token."""
    end = next((place for place, token in enumerate(tokens) if token in ends), None)
    return Completion(tokens[:end], finished=end is not None, log_probability=score)
