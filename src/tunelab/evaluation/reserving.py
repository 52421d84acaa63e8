"""The cache of a batch that is completed: its room grows seldom, and its rows can be chosen anew."""

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from tunelab.errors import ModelError

GROWTH = 32  # positions by which the room of a layer grows; each time, what is written is copied


class ReservedLayer(DynamicLayer):
    """A cache layer of `num_rows` rows that writes into room reserved for many tokens to come.

    transformers' own layer concatenates, which allocates and copies the whole cache at every token: most of the time of
    a small model. `whole`: a single new position sees all of the room, what is not written yet included, which the mask
    leaves out: a CPU reads memory without gaps twice as fast.
    """

    def __init__(self, num_rows: int, whole: bool) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType]
        self._num_rows, self._whole = num_rows, whole
        self._rooms: list[torch.Tensor] = []  # of keys and of values, (rows, heads, size, head size)
        self._size = self._length = 0  # positions reserved and written
        self._rows = slice(None)

    def turn_to(self, rows: slice, length: int) -> None:
        """Write what comes next for `rows` alone, behind their first `length` positions."""
        self._rows, self._length = rows, length

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add (rows, heads, new positions, head size) of keys and values; return those to be seen, as views."""
        states, num_new = (key_states, value_states), key_states.shape[-2]
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        num_seen = self.get_mask_sizes(num_new)[0]
        first, last = self._length, self._length + num_new
        if last > self._size:
            self._size = self._size_for(last)
            self._rooms = [self._copied(room, self._num_rows, first) for room in self._rooms or states]
        for room, new in zip(self._rooms, states, strict=True):
            room[self._rows, ..., first:last, :] = new
        self._length = last
        self.keys, self.values = (room[self._rows, ..., :num_seen, :] for room in self._rooms)
        return self.keys, self.values

    def get_seq_length(self) -> int:
        """Positions written."""
        return self._length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """How many positions `query_length` new ones will see, themselves included, and the place of the first."""
        last = self._length + query_length
        # Not for a prompt of one token: in an empty cache transformers leaves out the mask, meaning the first position.
        is_whole = self._whole and query_length == 1 and self._length > 0
        return (self._size_for(last) if is_whole else last), 0

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Make row `indices[i]` row i. Where there are no more rows than before, those that keep their place stay."""
        num_rows = len(indices)
        if num_rows > self._num_rows:
            self._rooms = [self._copied(room, num_rows, self._length, indices) for room in self._rooms]
        else:
            moved = (indices != torch.arange(num_rows, device=indices.device)).nonzero().squeeze(1)
            for room in self._rooms:
                written = room[..., : self._length, :]
                written[moved] = written[indices[moved]]
            self._rooms = [room[:num_rows] for room in self._rooms]
        self._num_rows = num_rows

    def _size_for(self, last: int) -> int:
        return self._size if last <= self._size else last + GROWTH

    def _copied(
        self, states: torch.Tensor, num_rows: int, length: int, rows: torch.Tensor | slice = slice(None)
    ) -> torch.Tensor:
        """New room, of zeros behind `length`: what a mask leaves out must still be a number."""
        room = states.new_empty((num_rows, *states.shape[1:-2], self._size, states.shape[-1]))
        room[..., length:, :] = 0
        if length:
            room[..., :length, :] = states[..., :length, :][rows]
        return room


def reserved_cache(causal_lm: PreTrainedModel, num_rows: int, whole: bool = False) -> DynamicCache:
    """The cache transformers would make for this model, its plain layers replaced by reserved ones."""
    cache = DynamicCache(config=causal_lm.config)
    cache.layers = [ReservedLayer(num_rows, whole) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def can_select_rows(cache: DynamicCache) -> bool:
    """Whether rows can leave it or be repeated; recurrent layers of other architectures have no such operation."""
    return all(isinstance(layer, DynamicLayer) for layer in cache.layers)


def in_parts(cache: DynamicCache, num_rows: int, part_rows: int) -> Iterator[slice]:
    """Yield `part_rows` rows at a time, for which the next positions are written; all at once where layers cannot."""
    layers = [layer for layer in cache.layers if isinstance(layer, ReservedLayer)]
    if len(layers) < len(cache.layers):
        yield slice(None)
        return
    first = cache.get_seq_length()
    for start in range(0, num_rows, part_rows):
        rows = slice(start, start + part_rows)
        for layer in layers:
            layer.turn_to(rows, first)
        yield rows
    for layer in layers:
        layer.turn_to(slice(None), layer.get_seq_length())


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
