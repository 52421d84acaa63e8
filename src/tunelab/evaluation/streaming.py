"""One answer at a time, token by token: sampled or greedy, over the same cache as evaluation's completions."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from tunelab.evaluation.reserving import cache_name, reserved_cache
from tunelab.evaluation.sampling import Sampling, draw
from tunelab.model.adapter import CausalLM, base_of

Chooser = Callable[[torch.Tensor], int]


def stream(
    model: CausalLM, prompt_ids: Sequence[int], num_new_tokens: int, ends: Sequence[int], choose: Chooser
) -> Iterator[int]:
    """Yield the ids that `model` writes after a prompt, without the end token.

    The prompt is read once, every further pass reads one token. `choose` picks a token from its logits, (vocabulary,).
    Call it within `generating.inference`.
    """
    causal_lm: Any = model
    device = next(model.parameters()).device
    name, cache = cache_name(base_of(model)), reserved_cache(base_of(model), num_rows=1)
    ids = torch.tensor([list(prompt_ids)], device=device)
    num_seen = 0
    for _ in range(num_new_tokens):
        first, num_seen = num_seen, num_seen + ids.shape[1]
        recurrent = name == "cache_params" and first > 0  # such layers take a mask for the prompt alone
        logits = causal_lm(
            input_ids=ids,
            attention_mask=None if recurrent else ids.new_ones(1, num_seen),
            position_ids=torch.arange(first, num_seen, device=device)[None],
            use_cache=True,
            logits_to_keep=1,
            **{name: cache},
        ).logits[0, -1]
        token = choose(logits)
        if token in ends:
            return
        yield token
        ids = torch.tensor([[token]], device=device)


def make_chooser(temperature: float, top_p: float, seed: int) -> Chooser:
    """Greedy at temperature 0; else drawn from the nucleus of the tempered distribution (see `Sampling`).

    The draws are a function of `seed`, the same on every device.
    """
    if temperature == 0:
        return lambda logits: int(logits.argmax())
    sampling = Sampling(temperature, top_p)
    generator = torch.Generator().manual_seed(seed)
    return lambda logits: int(
        draw(logits.cpu()[None], torch.rand(1, generator=generator, dtype=torch.float64), sampling)
    )


class TextPieces:
    """Turns ids that come one by one into text that comes piece by piece; half a character waits for its other half."""

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._start = self._shown = 0  # ids from `_start` are decoded; those before `_shown` have been shown

    def add(self, token: int) -> str:
        """The text that `token` adds to what was shown; empty where it ends within a character."""
        self._ids.append(token)
        text = self._new_text()
        if text.endswith("\ufffd"):
            return ""
        self._start, self._shown = self._shown, len(self._ids)
        return text

    def rest(self) -> str:
        """What was held back, as it is."""
        text = self._new_text()
        self._start = self._shown = len(self._ids)
        return text

    def _new_text(self) -> str:
        # A token's text may depend on the one before it (a space, the first of a word), so that is decoded as well.
        known = self._decode(self._ids[self._start : self._shown])
        return self._decode(self._ids[self._start :])[len(known) :]
