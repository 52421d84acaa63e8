"""What a model reads of a batch: each distinct prompt once, then one token of each row a pass, over one cache."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from tunelab.evaluation.reserving import cache_name, can_select_rows, fill, in_parts, reserved_cache
from tunelab.model.one_query import ONE_QUERY
from tunelab.model.virtual_tokens import keeps_tokens_in_cache, num_virtual_tokens, prompt_cache, prompt_embeddings

PROMPT_TOKENS = 4096  # positions of a pass over prompts: more of them gain nothing, and take memory


class Reader:
    """The rows of one batch as a model has read them so far.

    `prompts`: of each row. `room`: new tokens that a row may have at most. `last_position`: the last that a row needs.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        causal_lm: PreTrainedModel,
        prompts: Sequence[list[int]],
        *,
        pad: int,
        room: int,
        last_position: int,
    ) -> None:
        num_virtual, in_cache = num_virtual_tokens(model), keeps_tokens_in_cache(model)
        self._cache_name = cache_name(causal_lm)
        self.can_select = can_select_rows(reserved_cache(causal_lm, 0))
        prompts, self._owners = _distinct(prompts, causal_lm.device) if self.can_select else (prompts, None)
        whole = causal_lm.config._attn_implementation == ONE_QUERY  # pyright: ignore[reportPrivateUsage]
        self._cache = reserved_cache(causal_lm, len(prompts), whole)
        # Where virtual tokens are inputs, they take the place of that many pads between the padding and the prompt.
        input_ids, mask = left_padded(prompts, pad, causal_lm.device, 0 if in_cache else num_virtual)
        self._prompts = {"input_ids": input_ids}
        if in_cache:
            mask = torch.cat([mask.new_ones(len(prompts), num_virtual), mask], dim=1)
            fill(self._cache, prompt_cache(model, len(prompts)))
        elif num_virtual:
            self._prompts = {"inputs_embeds": _embedded(model, causal_lm, input_ids, mask, num_virtual)}
        self._positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -input_ids.shape[1] :]
        self._last_position = num_virtual + last_position
        self._mask = torch.cat([mask, mask.new_ones(len(prompts), room)], dim=1)  # each pass takes the columns so far
        self._num_seen = mask.shape[1]
        # PEFT would put virtual tokens in front again at every token.
        self._model = causal_lm if num_virtual else model

    def read_prompts(self) -> torch.Tensor:
        """The logits of the first new token of each row, (rows, vocabulary)."""
        num_rows, num_seen = len(self._mask), self._num_seen
        found: list[torch.Tensor] = []
        for rows in in_parts(self._cache, num_rows, max(1, PROMPT_TOKENS // num_seen)):
            inputs = {name: tensor[rows] for name, tensor in self._prompts.items()}
            found.append(self._forward(inputs, self._positions[rows], self._mask[rows, :num_seen]))
        logits = torch.cat(found)
        if self._owners is None:
            return logits
        self.select(self._owners)
        return logits[self._owners]

    def read(self, tokens: torch.Tensor) -> torch.Tensor:
        """Read the next token of each row, (rows,); returns the logits of the one after, (rows, vocabulary)."""
        # A finished row that is still here must not ask for a position beyond the model's table.
        self._positions = (self._positions[:, -1:] + 1).clamp(max=self._last_position)
        self._num_seen += 1
        # Where all layers are recurrent, there is no mask after the prompt.
        mask = None if self._cache_name == "cache_params" else self._mask[:, : self._num_seen]
        return self._forward({"input_ids": tokens[:, None]}, self._positions, mask)

    def select(self, rows: torch.Tensor) -> None:
        """Make row `rows[i]` row i: leave rows out, or repeat them. Only where `can_select`."""
        self._cache.batch_select_indices(rows)
        self._positions, self._mask = self._positions[rows], self._mask[rows]

    def _forward(
        self, inputs: dict[str, torch.Tensor], positions: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        cache: dict[str, Any] = {self._cache_name: self._cache}
        output = self._model(
            **inputs, **cache, attention_mask=mask, position_ids=positions, use_cache=True, logits_to_keep=1
        )
        return output.logits[:, -1]


def _distinct(prompts: Sequence[list[int]], device: torch.device) -> tuple[Sequence[list[int]], torch.Tensor | None]:
    """Each prompt once, and which of them each row has, (rows,); None where all differ."""
    places: dict[tuple[int, ...], int] = {}
    owners = [places.setdefault(tuple(prompt), len(places)) for prompt in prompts]
    if len(places) == len(prompts):
        return prompts, None
    return [list(prompt) for prompt in places], torch.tensor(owners, device=device)


def left_padded(
    prompts: Sequence[list[int]], pad: int, device: torch.device, room: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, both (rows, room + longest prompt) int64; `room` pads before a prompt count."""
    width = room + max(map(len, prompts))
    ids = [[pad] * (width - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (width - room - len(prompt)) + [1] * (room + len(prompt)) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def _embedded(
    model: torch.nn.Module, causal_lm: PreTrainedModel, input_ids: torch.Tensor, mask: torch.Tensor, num_virtual: int
) -> torch.Tensor:
    """Inputs of the first layer (rows, width, hidden size); a row's first `num_virtual` unmasked ones are virtual."""
    embedded = causal_lm.get_input_embeddings()(input_ids)
    prompt = prompt_embeddings(model).to(embedded.dtype)
    embedded[(mask == 1) & (mask.cumsum(1) <= num_virtual)] = prompt[0].repeat(len(input_ids), 1)
    return embedded
