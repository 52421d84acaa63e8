"""The decoding loop of one batch of prompts, greedy or sampling, over a cache that is reserved once."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from tunelab.errors import ModelError
from tunelab.evaluation.sampling import Sampling, draw, uniform_draws
from tunelab.model.virtual_tokens import keeps_tokens_in_cache, num_virtual_tokens, prompt_cache, prompt_embeddings

# Dropping finished rows copies the cache, so it waits until a fifth of the rows is done.
COMPACT_BELOW = 0.8


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
    """What all batches share: the tokens that end a completion, the pad token, and how tokens are drawn.

    `sampling` None: greedy, always the most likely token. `scored`: completions have their log-probability.
    """

    ends: Sequence[int]
    pad: int
    sampling: Sampling | None = None
    scored: bool = False


class ReservedLayer(DynamicLayer):
    """A cache layer that writes into room reserved at the first use.

    transformers' own layer concatenates, which allocates and copies the whole cache at every token: most of
    the time of a small model.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType]
        self._capacity = capacity
        self._rooms: list[torch.Tensor] = []

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add (rows, heads, new positions, head size) of keys and values; return all so far, as views."""
        states = (key_states, value_states)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._rooms = [s.new_empty((*s.shape[:-2], self._capacity, s.shape[-1])) for s in states]
        first = self.get_seq_length()
        last = first + key_states.shape[-2]
        for room, new in zip(self._rooms, states, strict=True):
            room[..., first:last, :] = new
        self.keys, self.values = (room[..., :last, :] for room in self._rooms)
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep the rows `indices` only."""
        length = self.get_seq_length()
        self._rooms = [room[indices] for room in self._rooms]
        self.keys, self.values = (room[..., :length, :] for room in self._rooms)


def decode(
    model: torch.nn.Module,
    causal_lm: PreTrainedModel,
    batch: Sequence[Request],
    decoding: Decoding,
) -> list[Completion]:
    """Complete the prompts of one batch, in its order. `causal_lm`: the transformers model inside `model`."""
    ends = decoding.ends
    state = _State(model, causal_lm, batch, decoding.pad)
    choose = _chooser(batch, decoding.sampling, causal_lm.device)
    end_tokens = torch.tensor(list(ends), device=causal_lm.device)
    caller = causal_lm if num_virtual_tokens(model) else model  # PEFT would put them in front again at every token
    for _ in range(max(request.num_new_tokens for request in batch)):
        logits = _next_logits(caller, state)
        tokens = choose(logits, state)
        if decoding.scored:
            state.add_scores(logits, tokens)
        if not state.accept(tokens, end_tokens):
            break
    rows = cast(list[list[int]], state.written.tolist())  # pyright: ignore[reportUnknownMemberType]
    scores = cast(list[float], state.scores.tolist()) if decoding.scored else [None] * len(batch)
    return [
        _completion(row[: request.num_new_tokens], ends, score)
        for row, request, score in zip(rows, batch, scores, strict=True)
    ]


class _State:
    """What the next forward pass needs, and what has been written; rows that are done leave it in groups."""

    def __init__(self, model: torch.nn.Module, causal_lm: PreTrainedModel, batch: Sequence[Request], pad: int) -> None:
        device, num_virtual = causal_lm.device, num_virtual_tokens(model)
        num_rows, num_new = len(batch), max(request.num_new_tokens for request in batch)
        in_cache = keeps_tokens_in_cache(model)
        # Where virtual tokens are inputs, they take the place of that many pads between the padding and the prompt.
        input_ids, prompt_mask = left_padded(batch, pad, device, 0 if in_cache else num_virtual)
        if in_cache:
            prompt_mask = torch.cat([prompt_mask.new_ones(num_rows, num_virtual), prompt_mask], dim=1)
        self.num_seen, self.num_written = prompt_mask.shape[1], 0
        # The whole mask at once: each pass takes the columns so far.
        self.mask = torch.cat([prompt_mask, prompt_mask.new_ones(num_rows, num_new)], dim=1)
        self.positions = (prompt_mask.cumsum(1) - 1).clamp(min=0)[:, -input_ids.shape[1] :]
        self.written = torch.full((num_rows, num_new), pad, device=device)
        self.scores = torch.zeros(num_rows, dtype=torch.float64, device=device)
        self.rows = torch.arange(num_rows, device=device)
        self.limits = torch.tensor([request.num_new_tokens for request in batch], device=device)
        self.active = torch.ones(num_rows, dtype=torch.bool, device=device)
        longest = max(len(request.prompt_ids) + request.num_new_tokens for request in batch)
        self.last_position = num_virtual + longest - 1
        self.cache = reserved_cache(causal_lm, self.num_seen + num_new)
        self._cache_name = cache_name(causal_lm)
        self.tokens = {"input_ids": input_ids}
        if in_cache:
            _fill(self.cache, prompt_cache(model, num_rows))
        elif num_virtual:
            self.tokens = {"inputs_embeds": _embedded(model, causal_lm, input_ids, prompt_mask, num_virtual)}

    def inputs(self) -> dict[str, Any]:
        """What the model gets besides positions; where all layers are recurrent, no mask after the prompt."""
        recurrent = self._cache_name == "cache_params"
        mask = None if recurrent and self.num_written else self.mask[:, : self.num_seen + self.num_written]
        return {**self.tokens, "attention_mask": mask, self._cache_name: self.cache}

    def add_scores(self, logits: torch.Tensor, tokens: torch.Tensor) -> None:
        """Add the log-probability of the next token of each row that is not done."""
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        found = wide.log_softmax(-1).gather(-1, tokens[:, None])[:, 0].double()
        self.scores[self.rows] += found.where(self.active, 0.0)

    def accept(self, tokens: torch.Tensor, end_tokens: torch.Tensor) -> bool:
        """Write the next token of each row, (rows,), and prepare another pass; False where all are done."""
        self.written[self.rows, self.num_written] = tokens
        self.num_written += 1
        self.active &= ~torch.isin(tokens, end_tokens) & (self.limits > self.num_written)
        num_active = int(self.active.sum())
        # A finished row that is still here must not ask for a position beyond the model's table.
        self.positions = (self.positions[:, -1:] + 1).clamp(max=self.last_position)
        self.tokens = {"input_ids": tokens[:, None]}
        if 0 < num_active <= COMPACT_BELOW * len(tokens):
            self._keep(self.active.nonzero().squeeze(1))
        return num_active > 0

    def _keep(self, kept: torch.Tensor) -> None:
        # Recurrent layers of other architectures have no such operation; their finished rows stay.
        if not all(isinstance(layer, DynamicLayer) for layer in self.cache.layers):
            return
        self.cache.batch_select_indices(kept)
        self.tokens = {name: tensor[kept] for name, tensor in self.tokens.items()}
        self.positions, self.mask = self.positions[kept], self.mask[kept]
        self.rows, self.limits, self.active = self.rows[kept], self.limits[kept], self.active[kept]


def _chooser(
    batch: Sequence[Request], sampling: Sampling | None, device: torch.device
) -> Callable[[torch.Tensor, _State], torch.Tensor]:
    """What picks the next token of each row, (rows,) int64, from logits (rows, vocabulary)."""
    if sampling is None:
        return lambda logits, _: logits.argmax(-1)
    uniforms = np.zeros((len(batch), max(request.num_new_tokens for request in batch)))
    for row, request in zip(uniforms, batch, strict=True):
        count = request.num_new_tokens
        row[:count] = uniform_draws(sampling.seed, request.prompt_ids, request.sample, count)
    drawn = torch.from_numpy(uniforms).to(device)
    return lambda logits, state: draw(logits, drawn[state.rows, state.num_written], sampling)


def _next_logits(model: torch.nn.Module, state: _State) -> torch.Tensor:
    """One forward pass: the logits of the next token of each row, (rows, vocabulary)."""
    output = model(
        position_ids=state.positions,
        **state.inputs(),
        use_cache=True,
        logits_to_keep=1,
    )
    return output.logits[:, -1]


def cache_name(causal_lm: PreTrainedModel) -> str:
    """The argument that takes the cache. Under another name it would be ignored, and every completion wrong."""
    parameters = inspect.signature(causal_lm.forward).parameters
    for name in ("past_key_values", "cache_params"):
        if name in parameters:
            return name
    raise ModelError(
        f"generation: expected a model that takes a cache, found {type(causal_lm).__name__}, which takes none that is "
        "known here; set evaluation.generate=false."
    )


def reserved_cache(causal_lm: PreTrainedModel, capacity: int) -> DynamicCache:
    """The cache transformers would make for this model, its plain layers replaced by reserved ones."""
    cache = DynamicCache(config=causal_lm.config)
    cache.layers = [ReservedLayer(capacity) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def _fill(cache: DynamicCache, prompt: DynamicCache) -> None:
    """Write the virtual tokens into a cache that is empty."""
    layers: list[Any] = list(prompt.layers)
    for index, layer in enumerate(layers):
        if layer.is_initialized:
            cache.update(layer.keys, layer.values, index)


def _embedded(
    model: torch.nn.Module, causal_lm: PreTrainedModel, input_ids: torch.Tensor, mask: torch.Tensor, num_virtual: int
) -> torch.Tensor:
    """Inputs of the first layer (rows, width, hidden size); a row's first `num_virtual` unmasked ones are virtual."""
    embedded = causal_lm.get_input_embeddings()(input_ids)
    prompt = prompt_embeddings(model).to(embedded.dtype)
    embedded[(mask == 1) & (mask.cumsum(1) <= num_virtual)] = prompt[0].repeat(len(input_ids), 1)
    return embedded


def left_padded(
    batch: Sequence[Request], pad: int, device: torch.device, room: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, both (rows, room + longest prompt) int64; `room` pads before a prompt count."""
    width = room + max(len(request.prompt_ids) for request in batch)
    ids = [[pad] * (width - len(r.prompt_ids)) + r.prompt_ids for r in batch]
    mask = [[0] * (width - room - len(r.prompt_ids)) + [1] * (room + len(r.prompt_ids)) for r in batch]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def _completion(tokens: list[int], ends: Sequence[int], score: float | None) -> Completion:
    """Cut at the first end token."""
    end = next((place for place, token in enumerate(tokens) if token in ends), None)
    return Completion(tokens[:end], finished=end is not None, log_probability=score)
