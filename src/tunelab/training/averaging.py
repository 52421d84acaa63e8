"""Optimizers that train at other weights than those to be measured: schedule-free ones average theirs as they go.

Defazio et al. 2024, "The Road Less Scheduled": gradients are taken at y, between the average x and the fast weights z.
Their package turns y into x and back in place, which rounds; here y is kept, so that looking changes nothing.
"""

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class Averaged:
    """A parameter, the value it is trained at, and its average."""

    parameter: torch.nn.Parameter
    trained_at: torch.Tensor
    average: torch.Tensor


def begin_training(optimizer: torch.optim.Optimizer) -> None:
    """Tell an optimizer that averages, or those parts of a combined one that do, that steps come now."""
    for part in _averaging(optimizer):
        part.train()


@torch.no_grad()
def averaged_weights(optimizer: torch.optim.Optimizer) -> list[Averaged]:
    """The averages, of the optimizers that keep some; parameters and optimizer stay as they are, bit for bit."""
    parts = _averaging(optimizer)
    trained = [p for part in parts for group in part.param_groups for p in group["params"]]
    before = [p.detach().clone() for p in trained]
    for part in parts:
        part.eval()
    averages = [p.detach().clone() for p in trained]
    for part in parts:
        part.train()
    for parameter, value in zip(trained, before, strict=True):
        parameter.copy_(value)
    return [Averaged(*each) for each in zip(trained, before, averages, strict=True)]


def _averaging(optimizer: torch.optim.Optimizer) -> list[Any]:
    """The optimizers that have two modes, for steps and for measuring."""
    parts: list[Any] = getattr(optimizer, "parts", [optimizer])
    return [part for part in parts if callable(getattr(part, "eval", None))]
