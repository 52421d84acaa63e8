import math

import pytest
import torch

from tunelab.evaluation.sums import TokenScores, TokenSums


def make_sums(nll: float, count: int, correct: int) -> TokenSums:
    return TokenSums(torch.tensor(nll, dtype=torch.float64), torch.tensor(count), torch.tensor(correct))


def test_sums_are_divided_once():
    total = make_sums(2.0, 1, 1) + make_sums(3.0, 9, 4) + TokenSums.zero()
    assert total.loss == 0.5  # the mean of the two means would be 7/6
    assert total.perplexity == pytest.approx(math.exp(0.5))
    assert total.token_accuracy == 0.5


def test_perplexity_beyond_a_float_is_inf():
    assert make_sums(10_000.0, 1, 0).perplexity == math.inf


def test_no_tokens_is_nan():
    zero = TokenSums.zero()
    assert all(math.isnan(value) for value in (zero.loss, zero.perplexity, zero.token_accuracy))


def test_a_loss_that_is_nan_stays_nan():
    assert math.isnan(make_sums(math.nan, 3, 0).perplexity)


def test_tokens_are_summed_for_their_example():
    scores = TokenScores(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([True, False, True]), torch.tensor([2, 0, 2]))
    assert scores.per_example(4).tolist() == [[2, 1, 0], [0, 0, 0], [5, 2, 2], [0, 0, 0]]
