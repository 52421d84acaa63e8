import itertools

import numpy as np
import pytest
import torch
from transformers.generation.logits_process import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from tunelab.evaluation.sampling import Sampling, distribution, draw, uniform_draws


def by_token(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """The distribution over the whole vocabulary, adding up to 1."""
    probabilities, ids = distribution(logits, sampling)
    whole = torch.zeros(logits.shape, dtype=torch.float64).scatter(-1, ids, probabilities)
    return whole / whole.sum(-1, keepdim=True)


@pytest.mark.parametrize(
    ("temperature", "top_p", "top_k"),
    list(itertools.product([0.3, 1.0, 2.5], [1.0, 0.9, 0.3, 0.01], [None, 1, 4, 999])),
)
def test_the_distribution_is_that_of_transformers(temperature: float, top_p: float, top_k: int | None):
    logits = torch.randn(20, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3
    warped = TemperatureLogitsWarper(temperature)(None, logits)
    if top_k is not None:
        warped = TopKLogitsWarper(top_k)(None, warped)
    if top_p < 1:
        warped = TopPLogitsWarper(top_p)(None, warped)
    found = by_token(logits, Sampling(temperature, top_p, top_k))
    torch.testing.assert_close(found, warped.softmax(-1), rtol=1e-12, atol=1e-15)


def test_draws_follow_the_distribution():
    logits = torch.tensor([1.0, 0.0, 2.0, -3.0, 1.5])
    sampling = Sampling(temperature=0.8, top_p=0.95)
    count = 40_000
    uniforms = torch.from_numpy(uniform_draws(1, [3, 4], 0, count))
    tokens = draw(logits.expand(count, -1), uniforms, sampling)
    frequencies = torch.bincount(tokens, minlength=5) / count
    expected = by_token(logits[None], sampling)[0]
    assert frequencies[3] == expected[3] == 0
    torch.testing.assert_close(frequencies.double(), expected, atol=4 * 0.5 / count**0.5, rtol=0)


@pytest.mark.parametrize("top_p", [1.0, 0.5])
def test_the_last_draw_is_a_token_that_can_be(top_p: float):
    logits = torch.tensor([[0.0, 0.0, 0.0, -torch.inf, -torch.inf]])
    almost_one = torch.tensor([1 - 2.0**-48], dtype=torch.float64)
    assert int(draw(logits, almost_one, Sampling(top_p=top_p))) in (0, 1, 2)


def test_draws_depend_on_seed_prompt_and_sample_alone():
    first = uniform_draws(0, [1, 2], 0, 8)
    assert first.tolist() == uniform_draws(0, [1, 2], 0, 8).tolist() == uniform_draws(0, [1, 2], 0, 20)[:8].tolist()
    others = [uniform_draws(1, [1, 2], 0, 8), uniform_draws(0, [1, 3], 0, 8), uniform_draws(0, [1, 2], 1, 8)]
    assert all(not np.isin(first, other).any() for other in others)
    assert (first >= 0).all()
    assert (first < 1).all()
