"""What an exported adapter says of the base that it was trained on: how that was quantised, and where it started."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tunelab.config import ModelConfig, Quantization, RunConfig, to_plain
from tunelab.errors import ModelError
from tunelab.model.quantizing import FOUR_BITS
from tunelab.model.tuning import read_tuning

RECORD = "export.json"  # beside the adapter, under the key `trained_on`
LOFTQ = "loftq"


@dataclass(frozen=True, slots=True)
class Origin:
    """How the base was stored while the adapter was trained.

    `quantization`: none, nf4, fp4, int8, or the method of a checkpoint that was quantised already. `start`: loftq where
    the adapter began as what quantisation had lost, so that it is right on those very weights only; else empty.
    """

    quantization: str
    double_quantization: bool = False
    start: str = ""

    def __str__(self) -> str:
        if self.quantization == Quantization.none.value:
            return "the unquantised base"
        double = ", its constants too" if self.double_quantization else ""
        start = ", from a start that makes up for the error of that (LoftQ)" if self.start else ""
        return f"the base quantised to {self.quantization}{double}{start}"

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON can hold them."""
        return asdict(self)


def stored_as(model: ModelConfig, quantization: str | None, start: str = "") -> Origin:
    """The origin of an adapter that is trained on `model`, whose weights are quantised by `quantization` (or not)."""
    plain = to_plain(model)
    is_double = quantization in [each.value for each in FOUR_BITS] and plain["double_quantization"]
    return Origin(quantization or Quantization.none.value, is_double, start)


def origin_of_run(run: RunConfig, quantization: str | None) -> Origin:
    """The origin of the adapter that `run` trains; one that is trained on keeps the start that it had."""
    node: dict[str, Any] = to_plain(run)["peft"]
    before = read_tuning(node).folder
    known = read_origin(before) if before else None
    own_start = LOFTQ if str(node.get("init_lora_weights")).lower() == LOFTQ else ""
    return stored_as(run.model, quantization, (known.start if known else "") if before else own_start)


def read_origin(folder: Path) -> Origin | None:
    """What is recorded beside an adapter; None where nothing is."""
    try:
        found: Any = json.loads((folder / RECORD).read_text(encoding="utf-8"))["trained_on"]
        return Origin(str(found["quantization"]), bool(found["double_quantization"]), str(found["start"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def require_same_quantization(adapters: Sequence[Path], origins: Sequence[Origin | None], model: ModelConfig) -> None:
    """Refuse an adapter that makes up for the error of other quantised weights than those it is put on.

    Raises:
        ModelError: with the keys to set.
    """
    here = stored_as(model, to_plain(model)["quantization"])
    for folder, origin in zip(adapters, origins, strict=True):
        if origin is None or not origin.start:
            continue
        wanted = replace(origin, start="")
        if here != wanted:
            double = str(wanted.double_quantization).lower()
            raise ModelError(
                f"model.quantization: expected {wanted}, whose error the LoftQ adapter in {str(folder)!r} makes up "
                f"for, found {here}; set model.quantization={wanted.quantization} model.double_quantization={double}."
            )
