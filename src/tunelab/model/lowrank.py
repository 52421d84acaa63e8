"""LoRA's and DoRA's low-rank product without intermediate copies, for training: added in place to the frozen output.

PEFT computes `frozen(x) + B(A(x)) * scaling` as written: three tensors as wide as the layer's output, forward and again
backward, and more of them for DoRA. Here it is one product each way. Everything else stays PEFT's own code, evaluation
included: what is measured is bit for bit what plain PEFT computes.
"""

from types import MethodType
from typing import Any

import torch
from peft.tuners.adalora.layer import AdaLoraLayer
from peft.tuners.lora.layer import LoraLayer
from peft.tuners.lora.variants import DoraLinearVariant
from peft.utils.integrations import dequantize_module_weight
from torch import nn
from torch.autograd.function import once_differentiable


def add_low_rank_in_place(model: nn.Module) -> int:
    """Give the LoRA layers around linear ones the in-place product; return how many there are.

    It serves training with one adapter without dropout, bias or variant other than DoRA; every call decides anew, so
    that disabling, merging, adding an adapter and evaluation are PEFT's own forward.
    """
    adapted = [m for m in model.modules() if isinstance(m, LoraLayer) and isinstance(m.get_base_layer(), nn.Linear)]
    layers = [m for m in adapted if not isinstance(m, AdaLoraLayer)]  # a product of three
    for layer in layers:
        layer.forward = MethodType(_forward, layer)
    return len(layers)


def _forward(layer: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    name = _plain_adapter(layer)
    if name is None or args or kwargs:
        return type(layer).forward(layer, x, *args, **kwargs)
    frozen = layer.base_layer(x)
    if frozen._is_view():  # some of bitsandbytes' results are, and autograd changes no view of a custom function
        frozen = frozen.clone()
    first, second = layer.lora_A[name].weight, layer.lora_B[name].weight
    output = _AddLowRank.apply(frozen, x, first, second, layer.scaling[name])
    return _with_magnitudes(layer, name, output) if name in layer.lora_variant else output


def _plain_adapter(layer: Any) -> str | None:
    """The one active adapter of a layer in training, where its product is plain; else None."""
    if not layer.training or layer.disable_adapters or layer.merged or len(layer.active_adapters) != 1:
        return None
    name: str = layer.active_adapters[0]
    plain = (
        name in layer.lora_A
        and (name not in layer.lora_variant or type(layer.lora_variant[name]) is DoraLinearVariant)
        and isinstance(layer.lora_dropout[name], nn.Identity)
        and layer.lora_B[name].bias is None
    )
    return name if plain else None


def _with_magnitudes(layer: Any, name: str, output: torch.Tensor) -> torch.Tensor:
    """DoRA (arXiv:2402.09353): each row of `W + scaling * B @ A` scaled to its magnitude; its norm is a constant."""
    dora, base = layer.lora_magnitude_vector[name], layer.get_base_layer()
    with torch.no_grad(), torch.autocast(output.device.type, enabled=False):
        change = layer.lora_B[name].weight @ layer.lora_A[name].weight
        weight = dequantize_module_weight(base).to(change.dtype)
        norms = dora.get_weight_norm(weight, change, layer.scaling[name])
    ratios = dora.weight / norms  # in float32: near 1 half types have but a few values
    scaled = output * ratios
    if base.bias is not None:
        scaled = scaled + base.bias * (1 - ratios)
    return scaled.to(output.dtype)


class _AddLowRank(torch.autograd.Function):
    """`frozen += scaling * x @ A.T @ B.T`, with x (…, in), A (rank, in), B (out, rank), frozen (…, out).

    The products have the rank as their rows: on the CPU these are the fast shapes. All in the type of `frozen`, as
    autocast has it; the gradients of A and B come back in theirs.
    """

    @staticmethod
    def forward(
        ctx: Any, frozen: torch.Tensor, x: torch.Tensor, first: torch.Tensor, second: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        dtype = frozen.dtype
        with torch.autocast(frozen.device.type, enabled=False):  # a 4-bit layer's result need not have its type
            inner = first.to(dtype) @ x.reshape(-1, x.shape[-1]).to(dtype).T  # (rank, tokens)
            frozen.view(-1, frozen.shape[-1]).addmm_(inner.T, second.to(dtype).T, alpha=scaling)
        ctx.mark_dirty(frozen)
        ctx.save_for_backward(x, first, second, inner)
        ctx.scaling = scaling
        return frozen

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] (the base takes any number of gradients)
        ctx: Any, *grad_outputs: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        x, first, second, inner = ctx.saved_tensors
        slope = grad_outputs[0].reshape(-1, grad_outputs[0].shape[-1])
        inputs = x.reshape(-1, x.shape[-1]).to(slope.dtype)
        inner_slope = (second.to(slope.dtype).T @ slope.T).mul_(ctx.scaling)  # (rank, tokens)
        grad_x = (inner_slope.T @ first.to(slope.dtype)).view_as(x).to(x.dtype) if ctx.needs_input_grad[1] else None
        grad_first = (inner_slope @ inputs).to(first.dtype)
        grad_second = (inner @ slope).T.mul(ctx.scaling).to(second.dtype)
        return grad_outputs[0], grad_x, grad_first, grad_second, None
