"""Schedule-free optimizers: the average is measured and exported, and measuring it changes no step."""

import sys
from collections.abc import Callable

import pytest
import torch
from safetensors.torch import load_file

from tunelab.components import resolve_target
from tunelab.config import OptimConfig
from tunelab.errors import ConfigError
from tunelab.run import RunFolder
from tunelab.training.averaging import averaged_weights
from tunelab.training.checkpoint import BEST, LAST, PREVIOUS, read_checkpoint
from tunelab.training.module import MEASURED_WEIGHTS
from tunelab.training.optim import Trained, build_optimizer, check_optimizer, set_learning_rate

CPU = torch.device("cpu")
NODE = {"_target_": "schedulefree.AdamWScheduleFree", "betas": [0.9, 0.99], "eps": 1e-8}


def need_package() -> None:
    pytest.importorskip("schedulefree", reason="needs schedulefree: pip install 'tunelab[optimizers]'")


def test_without_the_package_the_error_names_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "schedulefree", None)
    with pytest.raises(
        ConfigError, match=r"^optim\.optimizer\._target_: .* needs the package 'schedulefree', .* pip in"
    ):
        resolve_target(NODE["_target_"], "optim.optimizer", torch.optim.Optimizer)


def test_the_average_is_that_of_the_paper():
    """Against the three sequences written out in float64: gradients at y, steps of z, the average x."""
    need_package()
    torch.manual_seed(0)
    model, target = torch.nn.Linear(3, 2, bias=False, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    optimizer = build_optimizer(OptimConfig(optimizer=NODE), model, 0.1, False)
    z = x = model.weight.detach().clone()
    moment, weights = torch.zeros_like(z), 0.0
    rates = (0.05, 0.1, 0.1, 0.1)
    for step, rate in enumerate(rates, 1):
        y = 0.1 * z + 0.9 * x
        torch.testing.assert_close(model.weight.detach(), y, rtol=1e-12, atol=1e-12)
        gradient = 4 * (y - target) ** 3
        moment = 0.99 * moment + 0.01 * gradient**2
        z = z - rate * gradient / ((moment / (1 - 0.99**step)).sqrt() + 1e-8)
        weights += max(rates[:step]) ** 2
        share = max(rates[:step]) ** 2 / weights
        x = (1 - share) * x + share * z
        set_learning_rate(optimizer, rate)
        ((model.weight - target) ** 4).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        before, state = model.weight.detach().clone(), repr(optimizer.state_dict())
        [found] = averaged_weights(optimizer)
        torch.testing.assert_close(found.average, x, rtol=1e-12, atol=1e-12)
        assert torch.equal(found.trained_at, before)
        assert torch.equal(model.weight, before)
        assert repr(optimizer.state_dict()) == state


def test_other_optimizers_keep_no_average():
    plain = OptimConfig(optimizer={"_target_": "torch.optim.SGD"})
    assert averaged_weights(build_optimizer(plain, torch.nn.Linear(2, 2), 1, False)) == []


@pytest.fixture(scope="module")
def averaged(run: Callable[..., RunFolder]) -> Callable[..., RunFolder]:
    def train(*overrides: str, folder: RunFolder | None = None) -> RunFolder:
        need_package()
        return run("optim=schedule_free_adamw", *overrides, folder=folder, resuming=folder is not None)

    return train


def exported(folder: RunFolder) -> list[torch.Tensor]:
    weights = load_file(folder.adapter / "adapter_model.safetensors")
    return [weights[name] for name in sorted(weights)]


def held(folder: RunFolder, checkpoint: str, part: str) -> list[torch.Tensor]:
    weights = read_checkpoint(folder.checkpoints / checkpoint)[part]
    return [weights[name] for name in sorted(weights)]


def equal(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_run_exports_the_average_and_resumes_with_the_same_bits(averaged):
    folder = averaged()
    result = exported(folder)
    assert equal(result, held(folder, BEST, MEASURED_WEIGHTS))
    assert not equal(result, held(folder, BEST, "state_dict"))
    (folder.checkpoints / LAST).unlink()
    assert read_checkpoint(folder.checkpoints / PREVIOUS)["global_step"] == 3
    assert equal(exported(averaged(folder=folder)), result)


def test_measuring_more_often_changes_no_step(averaged):
    often, seldom = averaged("trainer.val_every_steps=1"), averaged("trainer.val_every_steps=6")
    assert equal(held(often, LAST, "state_dict"), held(seldom, LAST, "state_dict"))
    assert equal(exported(often), exported(seldom))


def test_without_validation_the_last_average_is_exported(averaged):
    options = ("data.validation_fraction=0", "trainer.val_every_steps=null")
    folder = averaged(*options)
    result = exported(folder)
    assert MEASURED_WEIGHTS not in read_checkpoint(folder.checkpoints / LAST)
    assert not equal(result, held(folder, LAST, "state_dict"))
    assert equal(exported(averaged(*options, folder=folder)), result)  # resumed after its last step


def test_what_does_not_go_together_is_refused():
    need_package()
    without_average = OptimConfig(optimizer={**NODE, "betas": [0.0, 0.99]})
    with pytest.raises(ConfigError, match=r"cannot take a step with these arguments .*; change or remove .*betas"):
        check_optimizer(without_average, 0.1, 2, Trained(True, False), CPU)
    with pytest.raises(ConfigError, match=r"leaves the gradients as they are, by which the adapter prunes its ranks"):
        check_optimizer(OptimConfig(optimizer=NODE), 0.1, 2, Trained(True, False, weighs_gradients=True), CPU)
