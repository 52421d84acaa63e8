"""Completions of many prompts at once: the same for every prompt whatever batch it is in."""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from transformers import PreTrainedModel

from tunelab.errors import DataError, ModelError
from tunelab.evaluation.decoding import Completion, Decoding, Request, decode
from tunelab.model.attention import VARLEN, attention_implementation, dense_implementation
from tunelab.model.one_query import ONE_QUERY, attends_one_query
from tunelab.model.virtual_tokens import keeps_tokens_in_cache, num_virtual_tokens

T = TypeVar("T")
R = TypeVar("R")


def generate(
    model: torch.nn.Module,
    prompts: Sequence[list[int]],
    decoding: Decoding,
    samples: Sequence[int] | None = None,
) -> list[Completion]:
    """Complete each prompt, in input order: greedily, or drawn as `decoding` says.

    Draws are a function of (seed, prompt, its number in `samples`, position): a prompt that is given n times
    with the numbers 0 to n - 1 gets n independent samples; equal prompts with equal numbers get the same one.

    Prompts of like length share a batch, left-padded, and equal ones in a batch are read once. Out of memory: the
    batch is halved and repeated. A prompt of n tokens gets min(max_new_tokens, max_position_embeddings - n) new
    tokens, so that no position is beyond those the model has. Virtual tokens of a prompt method count as positions of
    every prompt. `model`: a transformers causal LM, or a PeftModel of one. It is in eval mode meanwhile, and as before
    afterwards.

    Raises DataError for a prompt without tokens or one that leaves no position free, ModelError for a model
    that this loop cannot decode.
    """
    causal_lm = causal_lm_of(model)
    requests = _requests(prompts, samples or [0] * len(prompts), decoding.max_new_tokens, max_positions_of(model))
    room = decoding.max_new_tokens + num_virtual_tokens(model)
    completions: dict[int, Completion] = {}
    with inference(model), _decoding_attention(causal_lm):
        for batch in _batches(requests, room, decoding.batch_tokens, even=_needs_even_rows(model, causal_lm)):
            decoded = in_halves(lambda part: decode(model, causal_lm, part, decoding), batch)
            completions |= {request.index: done for request, done in zip(batch, decoded, strict=True)}
    return [completions[index] for index in range(len(prompts))]


@contextmanager
def inference(model: torch.nn.Module) -> Generator[None]:
    """Eval mode without gradients; on leaving, every module is in the mode it was in, one by one.

    The 4-bit layers of bitsandbytes stay in training mode: in eval mode on a CPU with AVX512-BF16 they repack
    their weights for inference at the first call, for good, and every later backward pass is silently wrong
    (seen with bitsandbytes 0.50.2: a gradient norm of 1.08 instead of 3.58). They have no dropout, so nothing
    else changes.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    for module, _ in modes:
        if type(module).__module__.startswith("bitsandbytes."):
            module.training = True
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, training in modes:
            module.training = training


def dense_attention(causal_lm: PreTrainedModel) -> AbstractContextManager[None]:
    """Variable-length attention knows neither padding nor a cache, so a model that has it decodes without."""
    has_varlen = causal_lm.config._attn_implementation == VARLEN  # pyright: ignore[reportPrivateUsage]
    return attention_implementation(causal_lm, dense_implementation(causal_lm)) if has_varlen else nullcontext()


def _decoding_attention(causal_lm: PreTrainedModel) -> AbstractContextManager[None]:
    """Attention that is fast for one token a row, in place of `sdpa`; any other choice of the model stays."""
    implementation = str(causal_lm.config._attn_implementation)  # pyright: ignore[reportPrivateUsage]
    if implementation in ("sdpa", VARLEN) and attends_one_query(causal_lm):
        return attention_implementation(causal_lm, ONE_QUERY)
    return dense_attention(causal_lm)


def causal_lm_of(model: torch.nn.Module) -> PreTrainedModel:
    """The transformers model inside `model`."""
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            return module
    raise ModelError(f"generation: expected a transformers causal LM, found {type(model).__name__}.")


def can_be_completed(model: torch.nn.Module, prompt_ids: Sequence[int]) -> bool:
    """Whether there is a prompt, and a position left behind it: not so for a document, or a prompt cut to the limit."""
    max_positions = max_positions_of(model)
    return bool(prompt_ids) and (max_positions is None or len(prompt_ids) < max_positions)


def max_positions_of(model: torch.nn.Module) -> int | None:
    """Positions for prompt and completion together, less those of virtual tokens; None where there is no limit."""
    config: Any = causal_lm_of(model).config
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    return None if positions is None else positions - num_virtual_tokens(model)


def _needs_even_rows(model: torch.nn.Module, causal_lm: PreTrainedModel) -> bool:
    """Whether padding would change a completion: between virtual tokens in the cache and a prompt, it eats a window."""
    config: Any = causal_lm.config
    return keeps_tokens_in_cache(model) and getattr(config.get_text_config(), "sliding_window", None) is not None


def _requests(
    prompts: Sequence[list[int]], samples: Sequence[int], max_new_tokens: int, max_positions: int | None
) -> list[Request]:
    """Give each prompt its number of new tokens, or refuse it."""
    requests: list[Request] = []
    for index, (prompt_ids, sample) in enumerate(zip(prompts, samples, strict=True)):
        if not prompt_ids:
            raise DataError(f"generation: expected at least 1 token, found none in prompt number {index + 1}.")
        room = max_new_tokens if max_positions is None else max_positions - len(prompt_ids)
        if room < 1:
            raise DataError(
                f"generation: expected prompts shorter than the {max_positions} positions of the model, "
                f"found {len(prompt_ids)} tokens in prompt number {index + 1}; "
                f"set data.max_length={max_positions} or less."
            )
        requests.append(Request(index, prompt_ids, min(max_new_tokens, room), sample))
    return requests


def _batches(requests: list[Request], room: int, batch_tokens: int, even: bool) -> Iterator[list[Request]]:
    """Longest first, so that the largest batch shows at once whether it fits.

    `room`: positions of a row besides its prompt; `even`: only prompts of one length share a batch.
    """
    batch: list[Request] = []
    for request in sorted(requests, key=lambda request: (-len(request.prompt_ids), request.index)):
        longest = len(batch[0].prompt_ids) if batch else 0
        full = (longest + room) * (len(batch) + 1) > batch_tokens
        if batch and (full or (even and len(request.prompt_ids) < longest)):
            yield batch
            batch = []
        batch.append(request)
    if batch:
        yield batch


def in_halves(work: Callable[[list[T]], list[R]], batch: list[T]) -> list[R]:
    """Do the work on a batch; where memory runs out, on its halves: what comes out of a row depends on no other."""
    try:
        return work(batch)
    except torch.OutOfMemoryError:
        if len(batch) == 1:
            raise
    halves = batch[: len(batch) // 2], batch[len(batch) // 2 :]
    return [done for half in halves for done in in_halves(work, half)]
