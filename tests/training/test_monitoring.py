"""The figure that decides which weights are the best."""

import math

import pytest

from tunelab.training.monitoring import Monitor, spaced


def test_examples_are_evenly_spaced_and_never_twice():
    assert spaced(10, 4) == (0, 2, 5, 7)
    assert spaced(3, 64) == (0, 1, 2)
    assert spaced(0, 64) == ()
    for count in range(1, 40):
        places = spaced(count, 7)
        gaps = [b - a for a, b in zip(places, [*places[1:], count], strict=True)]
        assert len(places) == min(7, count)
        assert max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize(
    ("higher", "value", "loss", "is_better"),
    [(True, 0.6, 9.0, True), (True, 0.4, 0.1, False), (True, 0.5, 0.9, True), (True, 0.5, 1.0, False),
     (False, 0.4, 9.0, True), (False, 0.6, 0.1, False), (True, math.nan, 0.1, False), (True, None, 0.1, False)],
)  # fmt: skip
def test_better_by_the_figure_then_by_the_loss(higher: bool, value: float | None, loss: float, is_better: bool):
    figures = {"val/loss": loss} if value is None else {"val/loss": loss, "val/x": value}
    assert Monitor("val/x", higher).prefers(figures, {"val/loss": 1.0, "val/x": 0.5}) is is_better


def test_the_first_number_is_the_best_so_far_whatever_it_is():
    assert Monitor("val/perplexity", False).prefers({"val/loss": 900.0, "val/perplexity": math.inf}, None)
    assert not Monitor("val/loss", False).prefers({"val/loss": math.nan}, None)
