"""The cache of a batch that is completed: its room is reserved once, and its rows can be chosen anew."""

import inspect
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from tunelab.errors import ModelError


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
            self._rooms = [self._reserve(s, len(s)) for s in states]
        first = self.get_seq_length()
        last = first + key_states.shape[-2]
        for room, new in zip(self._rooms, states, strict=True):
            room[..., first:last, :] = new
        self._show(last)
        return self.keys, self.values  # pyright: ignore[reportReturnType]

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Make row `indices[i]` row i. Only rows that change place are copied, and only what is written of them.

        Up to as many rows as there were stay in their room; more get a new one.
        """
        length, num_rows = self.get_seq_length(), len(indices)
        if num_rows > len(self._rooms[0]):
            news = [self._reserve(room, num_rows) for room in self._rooms]
            for room, new in zip(self._rooms, news, strict=True):
                new[..., :length, :] = room[..., :length, :][indices]
            self._rooms = news
        else:
            moved = (indices != torch.arange(num_rows, device=indices.device)).nonzero().squeeze(1)
            for room in self._rooms:
                room[moved, ..., :length, :] = room[indices[moved], ..., :length, :]
            self._rooms = [room[:num_rows] for room in self._rooms]
        self._show(length)

    def _reserve(self, states: torch.Tensor, num_rows: int) -> torch.Tensor:
        return states.new_empty((num_rows, *states.shape[1:-2], self._capacity, states.shape[-1]))

    def _show(self, length: int) -> None:
        self.keys, self.values = (room[..., :length, :] for room in self._rooms)


def reserved_cache(causal_lm: PreTrainedModel, capacity: int) -> DynamicCache:
    """The cache transformers would make for this model, its plain layers replaced by reserved ones."""
    cache = DynamicCache(config=causal_lm.config)
    cache.layers = [ReservedLayer(capacity) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def can_select_rows(cache: DynamicCache) -> bool:
    """Whether rows can leave it or be repeated; recurrent layers of other architectures have no such operation."""
    return all(isinstance(layer, DynamicLayer) for layer in cache.layers)


def fill(cache: DynamicCache, prompt: DynamicCache) -> None:
    """Write the keys and values of `prompt`, virtual tokens, into a cache that is empty."""
    layers: list[Any] = list(prompt.layers)
    for index, layer in enumerate(layers):
        if layer.is_initialized:
            cache.update(layer.keys, layer.values, index)


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
