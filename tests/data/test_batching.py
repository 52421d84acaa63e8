from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tunelab.data.batching import cut, num_steps, share, step_indices
from tunelab.data.records import TokenizedExample

SIZES = st.integers(1, 40)
LENGTHS = st.lists(st.integers(1, 50), max_size=40)


def example(length: int, name: str = "") -> TokenizedExample:
    return TokenizedExample(torch.arange(length), torch.arange(length) > 0, name)


@given(SIZES, SIZES, st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_each_example_is_seen_exactly_max_epochs_times(num_examples, batch_size, max_epochs, seed):
    total = num_examples * max_epochs
    steps = num_steps(num_examples, batch_size, max_epochs, None)
    batches = [step_indices(step, num_examples, batch_size, seed, total) for step in range(steps)]
    assert Counter(index for batch in batches for index in batch) == dict.fromkeys(range(num_examples), max_epochs)
    assert all(len(batch) == batch_size for batch in batches[:-1])
    assert 1 <= len(batches[-1]) <= batch_size


@given(SIZES, SIZES, st.integers(0, 200), st.integers(0, 5))
def test_a_step_does_not_depend_on_the_steps_before(num_examples, batch_size, step, seed):
    alone = step_indices(step, num_examples, batch_size, seed)
    stream = [i for k in range(step + 1) for i in step_indices(k, num_examples, batch_size, seed)]
    assert stream[step * batch_size :] == alone
    epochs = [stream[i : i + num_examples] for i in range(0, len(stream), num_examples)]
    assert all(sorted(epoch) == list(range(num_examples)) for epoch in epochs[:-1])


def test_max_steps_gives_full_batches_without_end():
    assert num_steps(10, 4, 3, 7) == 7
    assert num_steps(10, 4, 3, None) == 8
    assert len(step_indices(1000, 3, 4, seed=0)) == 4


def test_the_order_is_pinned():
    """A change here changes every published run."""
    assert step_indices(0, 10, 10, seed=0) == [0, 2, 9, 1, 8, 5, 4, 3, 6, 7]
    assert step_indices(1, 10, 10, seed=0) != step_indices(0, 10, 10, seed=0)
    assert step_indices(0, 10, 10, seed=1) != step_indices(0, 10, 10, seed=0)


@pytest.mark.parametrize(("step", "num_examples", "total"), [(3, 10, 12), (-1, 10, None), (0, 0, None)])
def test_a_step_outside_the_run_is_refused(step, num_examples, total):
    with pytest.raises(ValueError, match=f"found step {step} of 4 examples"):
        step_indices(step, num_examples, 4, seed=0, total_examples=total)


@given(LENGTHS, st.integers(1, 120), st.booleans())
def test_cut_keeps_every_example_and_the_budget(lengths, budget, padded):
    parts = cut(lengths, budget, padded)
    assert sorted(index for part in parts for index in part) == list(range(len(lengths)))
    for part in parts:
        widths = [lengths[index] for index in part]
        positions = len(widths) * max(widths) if padded else sum(widths)
        assert positions <= budget or len(part) == 1
        assert widths == sorted(widths, reverse=True)
    firsts = [lengths[part[0]] for part in parts]
    assert firsts == sorted(firsts, reverse=True)


def test_cut_exact():
    assert cut([3, 9, 4, 2, 5], 9, padded=False) == [[1], [4, 2], [0, 3]]
    assert cut([3, 9, 4, 2, 5], 9, padded=True) == [[1], [4], [2, 0], [3]]
    assert cut([20, 1], 9, padded=False) == [[0], [1]]
    assert cut([], 9, padded=True) == []


@given(LENGTHS, st.integers(1, 5))
def test_shares_are_a_balanced_partition(lengths, world_size):
    examples = [example(length, str(i)) for i, length in enumerate(lengths)]
    shares = [share(examples, rank, world_size) for rank in range(world_size)]
    assert sorted(e.origin for part in shares for e in part) == sorted(e.origin for e in examples)
    loads = [sum(e.num_tokens for e in part) for part in shares]
    assert max(loads) - min(loads) <= max(lengths, default=0)
