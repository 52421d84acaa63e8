"""Quantised base models: what each kind needs, and that training and measuring compute with the same weights."""

import importlib.util
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from transformers import BitsAndBytesConfig, PreTrainedModel

from tunelab.config import ModelConfig, Quantization
from tunelab.errors import ModelError

# What transformers imports to read a checkpoint of this kind: module → the package that has it.
PACKAGES: dict[str, dict[str, str]] = {
    "bitsandbytes": {"bitsandbytes": "bitsandbytes"},
    "gptq": {"gptqmodel": "gptqmodel", "optimum": "optimum"},
    "awq": {"gptqmodel": "gptqmodel"},
    "torchao": {"torchao": "torchao"},
    "compressed-tensors": {"compressed_tensors": "compressed-tensors"},
    "aqlm": {"aqlm": "aqlm"},
    "auto-round": {"auto_round": "auto-round"},
    "eetq": {"kernels": "kernels"},
    "fbgemm_fp8": {"fbgemm_gpu": "fbgemm-gpu"},
    "fp8": {"kernels": "kernels"},
    "hqq": {"hqq": "hqq"},
    "mxfp4": {"kernels": "kernels"},
    "quanto": {"optimum.quanto": "optimum-quanto"},
    "quark": {"quark": "amd-quark"},
    "vptq": {"vptq": "vptq"},
}
FOUR_BITS = (Quantization.nf4, Quantization.fp4)


@dataclass(frozen=True, slots=True)
class QuantizationReport:
    """Which layers are quantised, and what is stored in which floating-point type beside them."""

    method: str
    num_quantized: int
    num_linear: int
    kept: Mapping[str, tuple[str, ...]]  # type → what has it: lm_head, embeddings, norms, …
    compute_dtype: str | None

    def __str__(self) -> str:
        kept = "".join(f"; in {dtype}: {', '.join(names)}" for dtype, names in self.kept.items())
        return f"quantised {self.num_quantized} of {self.num_linear} linear layers to {self.method}{kept}"

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON can hold them."""
        return asdict(self)


def check_quantization(architecture: Any, config: ModelConfig) -> str | None:
    """Return how the base model will be quantised, by `config` or by its own checkpoint; None where it will not.

    Raises:
        ModelError: it is to be quantised a second time, or a package that reads the checkpoint is missing.
    """
    stored = stored_method(architecture)
    wanted = None if config.quantization is Quantization.none else config.quantization.value
    if stored is None:
        return wanted
    if wanted is not None:
        raise ModelError(
            f"model.quantization: expected none, because {config.path!r} is quantised already ({stored}), found "
            f"{wanted!r}; set model.quantization=none."
        )
    if stored not in PACKAGES:
        raise ModelError(
            f"model.path: expected weights that are not quantised, or by one of {', '.join(PACKAGES)}, found "
            f"{stored!r} in {config.path!r}; use its unquantised weights with model.quantization=nf4."
        )
    missing = [package for module, package in PACKAGES[stored].items() if not _is_installed(module)]
    if missing:
        raise ModelError(
            f"model.path: {config.path!r} is quantised by {stored}, which needs {' and '.join(missing)}, found not "
            f"installed; pip install {' '.join(missing)}, or use its unquantised weights with model.quantization=nf4."
        )
    return stored


def quantization_config(config: ModelConfig, device: torch.device) -> BitsAndBytesConfig:
    """What transformers is to quantise to: 4 bits as in QLoRA (Dettmers et al. 2023), or 8 as in LLM.int8() (2022).

    4-bit weights are computed with in float32 on the CPU and in bfloat16 on CUDA, int8 ones in the type of their input.
    """
    if config.quantization is Quantization.int8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=config.quantization.value,
        bnb_4bit_use_double_quant=config.double_quantization,
        bnb_4bit_compute_dtype=torch.float32 if device.type == "cpu" else torch.bfloat16,
    )


def compute_with_stored_weights(model: PreTrainedModel, device: torch.device) -> None:
    """Make bitsandbytes compute with the weights as they are stored, the same in training and evaluation.

    4 bits: on the CPU it would repack the weights at the first evaluation, with rounded scales, for a kernel that
    passes no gradient on. A checkpoint's own compute type, made for CUDA, gives way to float32 there.

    8 bits: it would quantise the activations too, by scales and outlier columns found over the whole micro-batch, so
    that examples of one micro-batch changed each other's results; and on the CPU only in evaluation.
    """
    for module in model.modules():
        layer: Any = module
        if type(module).__name__ == "Linear4bit" and device.type == "cpu":
            layer.support_avx512bf16_for_cpu = False
            layer.compute_dtype, layer.compute_type_is_set = torch.float32, True
        if type(module).__name__ == "Linear8bitLt":
            layer.forward = partial(_int8_forward, layer)


def quantization_report(model: PreTrainedModel, method: str) -> QuantizationReport:
    """Look at every layer of `model`: which are quantised, and what is kept in floating point."""
    kept: dict[str, set[str]] = {}
    num_quantized = num_linear = 0
    compute_dtype: str | None = None
    for name, module in model.named_modules():
        is_linear = "linear" in type(module).__name__.lower() or type(module).__name__ == "Conv1D"
        quantised = is_linear and _is_quantised(module)
        num_linear, num_quantized = num_linear + is_linear, num_quantized + quantised
        own: Any = getattr(module, "compute_dtype", None)
        compute_dtype = _name(own) if quantised and own is not None else compute_dtype
        for parameter_name, parameter in module.named_parameters(recurse=False):
            if not (quantised and parameter_name == "weight") and parameter.is_floating_point():
                kept.setdefault(_name(parameter.dtype), set()).add(_kind(name, module, quantised))
    sorted_kept = {dtype: tuple(sorted(names)) for dtype, names in sorted(kept.items())}
    return QuantizationReport(method, num_quantized, num_linear, sorted_kept, compute_dtype)


class Int8Product(torch.autograd.Function):
    """Inputs (…, in) times int8 weights (out, in) with a scale a row (out, 1), made floating-point for each product.

    The floating-point weights are not kept for the backward pass, which passes no gradient on to them.
    """

    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """Return outputs (…, out)."""
        ctx.save_for_backward(weight, scale)
        return torch.nn.functional.linear(inputs, weight.to(scale.dtype) * scale)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """Return the gradient of the inputs."""
        weight, scale = ctx.saved_tensors
        return grad_outputs[0] @ (weight.to(scale.dtype) * scale), None, None


def _int8_forward(layer: Any, inputs: torch.Tensor) -> torch.Tensor:
    kind = inputs.device.type
    if torch.is_autocast_enabled(kind):
        inputs = inputs.to(torch.get_autocast_dtype(kind))
    scale: torch.Tensor = layer.weight.SCB.to(inputs.dtype)[:, None] / 127
    output: Any = Int8Product.apply(inputs, layer.weight, scale)
    return output if layer.bias is None else output + layer.bias.to(output.dtype)


def stored_method(architecture: Any) -> str | None:
    """The method named in config.json; bitsandbytes' early files name only their bits."""
    stored: Any = getattr(architecture, "quantization_config", None)
    if stored is None:
        return None
    fields: Mapping[str, Any] = stored if isinstance(stored, dict) else stored.to_dict()
    method = fields.get("quant_method")
    return str(getattr(method, "value", method or "bitsandbytes")).lower()


def _is_quantised(module: torch.nn.Module) -> bool:
    """By the class of the layer, or of its weight: torchao keeps the layers, with tensors of its own in them."""
    weight: Any = getattr(module, "weight", None)
    own_weight = isinstance(weight, torch.Tensor) and type(weight) not in (torch.Tensor, torch.nn.Parameter)
    return own_weight or (type(module) is not torch.nn.Linear and type(module).__name__ != "Conv1D")


def _is_installed(module: str) -> bool:
    parent, _, _ = module.rpartition(".")
    return (not parent or _is_installed(parent)) and importlib.util.find_spec(module) is not None


def _kind(name: str, module: torch.nn.Module, quantised: bool) -> str:
    if quantised:
        return "biases"
    if isinstance(module, torch.nn.Embedding):
        return "embeddings"
    return "norms" if "norm" in type(module).__name__.lower() else name.rpartition(".")[2]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
