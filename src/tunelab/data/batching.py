"""Which examples make up optimizer step k, and how a step is cut into micro-batches: pure functions only."""

import heapq
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from tunelab.data.records import TokenizedExample


def num_steps(num_examples: int, batch_size: int, max_epochs: int, max_steps: int | None) -> int:
    """Return the number of optimizer steps: `max_steps` where given, else those of `max_epochs` epochs."""
    return max_steps if max_steps is not None else -(-num_examples * max_epochs // batch_size)


def step_indices(
    step: int, num_examples: int, batch_size: int, seed: int, total_examples: int | None = None
) -> list[int]:
    """Return the indices of the examples of optimizer step `step` (counted from 0), over all devices.

    The examples form one endless stream of permutations, one for each epoch, cut every `batch_size`
    examples: a batch may straddle two epochs, and no epoch has a tail. `total_examples` (`num_examples *
    max_epochs`) ends the stream, so that each example is seen exactly `max_epochs` times and the last step
    may be smaller; None (a run of `max_steps`) leaves every batch full. Raises ValueError for a step
    outside the stream.
    """
    first, last = step * batch_size, (step + 1) * batch_size
    if total_examples is not None:
        last = min(last, total_examples)
    if step < 0 or num_examples < 1 or first >= last:
        raise ValueError(
            f"expected a step within the {total_examples} examples of the run, found step {step} of "
            f"{batch_size} examples each over {num_examples} examples"
        )
    epochs = range(first // num_examples, (last - 1) // num_examples + 1)
    stream = np.concatenate([_permutation(seed, epoch, num_examples) for epoch in epochs])
    start = first - epochs.start * num_examples
    return stream[start : start + last - first].tolist()


@lru_cache(maxsize=2)  # the current epoch, and the next where a batch straddles the two
def _permutation(seed: int, epoch: int, num_examples: int) -> npt.NDArray[np.int64]:
    """Return a permutation of `num_examples` that depends on (seed, epoch) only.

    Sorting raw Philox words, because numpy promises the raw stream of a bit generator for all versions and
    does not promise `Generator.permutation`.
    """
    words = np.random.Philox(key=np.array([seed, epoch], dtype=np.uint64)).random_raw(num_examples)
    return np.argsort(words, kind="stable")


def share(examples: Sequence[TokenizedExample], rank: int, world_size: int) -> list[TokenizedExample]:
    """Return the examples of one step that `rank` computes; the shares of all ranks are a partition of the
    step.

    Balanced by tokens: longest first, each to the rank with the fewest tokens so far. Deterministic, so
    every rank finds the same division without talking. A share is empty where there are fewer examples than
    ranks.
    """
    loads = [(0, other) for other in range(world_size)]
    mine: list[int] = []
    for index in _longest_first([example.num_tokens for example in examples]):
        tokens, owner = heapq.heappop(loads)
        heapq.heappush(loads, (tokens + examples[index].num_tokens, owner))
        if owner == rank:
            mine.append(index)
    return [examples[index] for index in mine]


def cut(lengths: Sequence[int], budget_tokens: int, padded: bool) -> list[list[int]]:
    """Cut examples of `lengths` tokens into micro-batches of indices, the longest examples first.

    No micro-batch computes more than `budget_tokens` positions: the sum of its lengths, or where `padded`
    its rows times its longest. An example longer than the budget stands alone. An empty input gives no
    micro-batches.
    """
    return _cut_padded(lengths, budget_tokens) if padded else _cut_packed(lengths, budget_tokens)


def _longest_first(lengths: Sequence[int]) -> list[int]:
    return sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))


def _cut_packed(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """First-fit decreasing."""
    bins: list[list[int]] = []
    room: list[int] = []
    for index in _longest_first(lengths):
        length = lengths[index]
        fit = next((b for b, free in enumerate(room) if length <= free), None)
        if fit is None:
            bins.append([index])
            room.append(budget - length)
        else:
            bins[fit].append(index)
            room[fit] -= length
    return bins


def _cut_padded(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Next fit: lengths fall, so the first of a micro-batch is its width."""
    bins: list[list[int]] = []
    for index in _longest_first(lengths):
        if bins and (len(bins[-1]) + 1) * lengths[bins[-1][0]] <= budget:
            bins[-1].append(index)
        else:
            bins.append([index])
    return bins
