"""The optimizer, and the learning rate as a pure function of the step."""

import inspect
import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from tunelab.components import build_component, resolve_target
from tunelab.config import OptimConfig, Schedule


def build_optimizer(
    node: Mapping[str, Any], parameters: Iterable[torch.nn.Parameter], lr: float, scaled_gradients: bool
) -> torch.optim.Optimizer:
    """Build the optimizer that `optim.optimizer` names over the trainable parameters.

    Where the class has a fused kernel it is used unless the configuration says otherwise: adapters are hundreds of
    small tensors. Not with a gradient scaler (float16), whose unscaling has to come before the clipping.

    Raises:
        ConfigError: unknown class or argument, or a value the class refuses.
    """
    cls = resolve_target(str(node.get("_target_")), "optim.optimizer", torch.optim.Optimizer)
    other = node.get("foreach") or node.get("differentiable")  # which torch does not combine with fused
    fused = {"fused": not scaled_gradients} if "fused" in inspect.signature(cls).parameters and not other else {}
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    return build_component({**fused, **node}, "optim.optimizer", torch.optim.Optimizer, trained, lr=lr)


def suggested_learning_rate(hidden_size: int, adapter: bool) -> float:
    """The peak rate where none is given: 5e-5 * (2000 / hidden size)^0.781, and ten times that for adapters.

    The rule of "LoRA Without Regret" (Schulman et al. 2025) in its values for Llama models: 2.9e-4 for LoRA on a model
    of hidden size 4096, 3.1e-3 at 192. Two significant digits. A starting point, not a tuned value.
    """
    rate = 5e-5 * (10 if adapter else 1) * (2000 / hidden_size) ** 0.781
    return float(f"{rate:.1e}")


def learning_rate(config: OptimConfig, peak: float, step: int, total_steps: int) -> float:
    """The learning rate of optimizer step `step` (from 0) of `total_steps`, `peak` being the highest.

    Linear warm-up over `warmup_fraction` of the steps, its first step above 0; then constant, linear or half a cosine
    down to `min_lr_fraction` of the peak, which the step after the last would reach.
    """
    warmup_steps = math.ceil(round(config.warmup_fraction * total_steps, 6))  # 0.07 * 100 is above 7
    if step < warmup_steps:
        return peak * (step + 1) / (warmup_steps + 1)
    if config.schedule is Schedule.constant:
        return peak
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    shape = 1 - progress if config.schedule is Schedule.linear else (1 + math.cos(math.pi * progress)) / 2
    return peak * (config.min_lr_fraction + (1 - config.min_lr_fraction) * shape)
