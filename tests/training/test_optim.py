"""The schedule in closed form, and how the optimizer is built."""

import math

import pytest
import torch

from tunelab.config import OptimConfig, Schedule
from tunelab.errors import ConfigError
from tunelab.training.optim import build_optimizer, learning_rate, suggested_learning_rate

ADAMW = {"_target_": "torch.optim.AdamW", "betas": [0.9, 0.999]}


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


def test_only_trained_parameters_are_optimised():
    trained, frozen = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2), requires_grad=False)
    [group] = build_optimizer(ADAMW, [frozen, trained], 0.25, False).param_groups
    assert [parameter is trained for parameter in group["params"]] == [True]
    assert (group["lr"], list(group["betas"])) == (0.25, [0.9, 0.999])


@pytest.mark.parametrize(
    ("node", "scaled", "fused"),
    [
        (ADAMW, False, True),
        (ADAMW, True, False),  # float16: gradients are unscaled before they are clipped
        ({**ADAMW, "fused": False}, False, False),
        ({"_target_": "torch.optim.SGD"}, False, True),
        ({"_target_": "torch.optim.Adadelta"}, False, None),
    ],
)
def test_fused_where_there_is_such_a_kernel(node: dict, scaled: bool, fused: bool | None):
    optimizer = build_optimizer(node, [torch.nn.Parameter(torch.ones(2))], 0.1, scaled)
    assert optimizer.defaults.get("fused") is fused


def test_fused_and_plain_steps_agree():
    def stepped(fused: bool) -> torch.Tensor:
        torch.manual_seed(0)
        parameter = torch.nn.Parameter(torch.randn(50, dtype=torch.float64))
        optimizer = build_optimizer({**ADAMW, "fused": fused}, [parameter], 0.1, False)
        for _ in range(3):
            (parameter**3).sum().backward()
            optimizer.step()
        return parameter.detach()

    torch.testing.assert_close(stepped(True), stepped(False), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("node", [{}, {"_target_": None}, {"_target_": "torch.optim.lr_scheduler.StepLR"}])
def test_what_is_no_optimizer_is_refused(node: dict):
    with pytest.raises(ConfigError, match=r"^optim\.optimizer\._target_: expected a class of torch\.optim"):
        build_optimizer(node, [torch.nn.Parameter(torch.ones(2))], 0.1, False)


@pytest.mark.parametrize(
    ("hidden_size", "adapter", "expected"), [(4096, True, 2.9e-4), (2000, True, 5e-4), (2000, False, 5e-5)]
)
def test_suggested_learning_rate_is_that_of_the_published_rule(hidden_size: int, adapter: bool, expected: float):
    assert suggested_learning_rate(hidden_size, adapter) == expected


@pytest.mark.parametrize("option", ["foreach", "differentiable"])
def test_what_excludes_a_fused_kernel_can_be_chosen(option: str):
    node = {"_target_": "torch.optim.AdamW", option: True}
    optimizer = build_optimizer(node, [torch.nn.Parameter(torch.zeros(2))], 0.1, False)
    assert optimizer.defaults[option] is True
    assert not optimizer.defaults["fused"]
