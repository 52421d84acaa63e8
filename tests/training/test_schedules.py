"""The learning rate at every step: closed forms, and transformers' own schedulers."""

import math

import pytest
import torch
from transformers import optimization

from tunelab.config import DecayShape, OptimConfig, Schedule
from tunelab.errors import ConfigError
from tunelab.training.schedules import learning_rate


def rates(total: int, **settings) -> list[float]:
    return [learning_rate(OptimConfig(**settings), settings["lr"], step, total) for step in range(total)]


def test_constant():
    assert rates(4, lr=0.5, schedule=Schedule.constant, warmup_fraction=0.0) == [0.5] * 4


def test_linear_falls_evenly_towards_the_step_after_the_last():
    found = rates(5, lr=1.0, schedule=Schedule.linear, warmup_fraction=0.0)
    assert found == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])


def test_linear_ends_at_the_least_rate():
    found = rates(4, lr=2.0, schedule=Schedule.linear, warmup_fraction=0.0, min_lr_fraction=0.5)
    assert found == pytest.approx([2.0, 1.75, 1.5, 1.25])


def test_cosine_is_half_a_wave():
    found = rates(8, lr=3.0, schedule=Schedule.cosine, warmup_fraction=0.0, min_lr_fraction=0.1)
    assert found == pytest.approx([0.3 + 2.7 * (1 + math.cos(math.pi * k / 8)) / 2 for k in range(8)])
    assert found[4] == pytest.approx((3.0 + 0.3) / 2)


@pytest.mark.parametrize("schedule", list(Schedule))
def test_warmup_rises_evenly_from_above_zero_to_the_peak(schedule: Schedule):
    found = rates(20, lr=1.0, schedule=schedule, warmup_fraction=0.2)
    assert found[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert max(found) == 1.0
    assert min(found) > 0


@pytest.mark.parametrize(("fraction", "steps"), [(0.0, 0), (0.01, 1), (0.03, 1), (0.25, 3), (1.0, 10)])
def test_warmup_steps_are_rounded_up(fraction: float, steps: int):
    found = rates(10, lr=1.0, schedule=Schedule.constant, warmup_fraction=fraction)
    assert found.count(1.0) == 10 - steps


def test_a_run_of_one_step_has_a_rate():
    assert 0 < rates(1, lr=1.0, schedule=Schedule.cosine)[0] <= 1.0


def upstream(make, total: int, **settings) -> list[float]:
    """The factors of one of transformers' schedulers over a run of `total` steps."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer, **settings)
    found = []
    for _ in range(total):
        found.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return found


DECAYS = {DecayShape.linear: "linear", DecayShape.cosine: "cosine", DecayShape.sqrt: "1-sqrt"}


@pytest.mark.parametrize("num_warmup_steps", [1, 4, 10])
def test_every_step_after_warmup_is_that_of_transformers(num_warmup_steps: int):
    total, least, given = 40, 0.1, {"num_warmup_steps": num_warmup_steps}
    steps = {**given, "num_training_steps": total}
    ours = {"lr": 1.0, "warmup_fraction": num_warmup_steps / total}
    pairs = [
        ({"schedule": Schedule.constant}, optimization.get_constant_schedule_with_warmup, given),
        ({"schedule": Schedule.linear}, optimization.get_linear_schedule_with_warmup, steps),
        ({"schedule": Schedule.cosine}, optimization.get_cosine_schedule_with_warmup, steps),
        (
            {"schedule": Schedule.cosine, "min_lr_fraction": least},
            optimization.get_cosine_with_min_lr_schedule_with_warmup,
            {**steps, "min_lr_rate": least},
        ),
        (
            {"schedule": Schedule.cosine_with_restarts, "num_cycles": 4},
            optimization.get_cosine_with_hard_restarts_schedule_with_warmup,
            {**steps, "num_cycles": 4},
        ),
        ({"schedule": Schedule.inverse_sqrt}, optimization.get_inverse_sqrt_schedule, given),
    ]
    for shape, decay_type in DECAYS.items():
        pairs.append(
            (
                {"schedule": Schedule.wsd, "decay_fraction": 0.25, "decay_shape": shape, "min_lr_fraction": least},
                optimization.get_wsd_schedule,
                {**steps, "num_decay_steps": 10, "decay_type": decay_type, "min_lr_ratio": least},
            )
        )
    for settings, make, arguments in pairs:
        found, expected = rates(total, **ours, **settings), upstream(make, total, **arguments)
        assert found[num_warmup_steps:] == pytest.approx(expected[num_warmup_steps:], rel=1e-12), settings


def test_wsd_is_flat_until_its_decay():
    found = rates(20, lr=2.0, schedule=Schedule.wsd, warmup_fraction=0.1, decay_fraction=0.2)
    assert found[2:17] == [2.0] * 15
    assert found[16:] == pytest.approx([2 * (1 - math.sqrt(k / 4)) for k in range(4)])


def test_wsd_may_decay_from_the_end_of_its_warmup():
    settings = {"warmup_fraction": 0.3, "decay_fraction": 0.7}
    found = rates(10, lr=1.0, schedule=Schedule.wsd, decay_shape=DecayShape.linear, **settings)
    assert found[3:] == pytest.approx([1 - k / 7 for k in range(7)])


def test_restarts_begin_at_the_peak():
    found = rates(12, lr=1.0, schedule=Schedule.cosine_with_restarts, warmup_fraction=0.0, num_cycles=3)
    assert found == pytest.approx([(1 + math.cos(math.pi * (k % 4) / 4)) / 2 for k in range(12)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"schedule": Schedule.wsd, "warmup_fraction": 0.5, "decay_fraction": 0.6},
            r"^optim\.decay_fraction: expected at most 1 - optim\.warmup_fraction \(0\.5\).*found 0\.6",
        ),
        (
            {"schedule": Schedule.inverse_sqrt, "warmup_fraction": 0.0},
            r"^optim\.warmup_fraction: expected above 0 with schedule=inverse_sqrt",
        ),
        ({"num_cycles": 0}, r"^optim\.num_cycles: expected at least 1, found 0"),
        ({"decay_fraction": 1.5}, r"^optim\.decay_fraction: expected a fraction"),
        ({"lr_factor": 0.0}, r"^optim\.lr_factor: expected a finite factor above 0"),
        ({"lora_plus_ratio": -1.0}, r"^optim\.lora_plus_ratio: expected null or a finite ratio above 0"),
    ],
)
def test_values_that_make_no_schedule_are_refused(settings: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        OptimConfig(**settings)
