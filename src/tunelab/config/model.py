"""The base model: where it is, how it is stored and how it attends."""

from dataclasses import dataclass
from enum import Enum

from tunelab.config.section import MISSING, Section


class DType(Enum):
    """Storage type of the base weights. `auto`: as the checkpoint has them (float32 on CPU)."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Quantization(Enum):
    """How the frozen base weights are quantised (bitsandbytes)."""

    none = "none"
    nf4 = "nf4"  # 4 bits, levels at the quantiles of a normal distribution
    fp4 = "fp4"  # 4 bits, floating point
    int8 = "int8"


class Attention(Enum):
    """`varlen`: padding-free rows; `padded`: right-padded rows; `auto`: varlen where proved equal on this model."""

    auto = "auto"
    varlen = "varlen"
    padded = "padded"


@dataclass(kw_only=True)
class ModelConfig(Section):
    """The base model."""

    path: str = MISSING  # a folder or a hub name; embedded:tiny lies in the package
    revision: str | None = None  # commit, tag or branch on the hub
    dtype: DType = DType.auto
    quantization: Quantization = Quantization.none
    double_quantization: bool = True  # quantise the quantisation constants too (nf4, fp4)
    attention: Attention = Attention.auto
