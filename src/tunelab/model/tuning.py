"""What `peft` says besides the arguments of the PEFT class: our own keys, and choices that cannot be trained here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from peft import PeftConfig

from tunelab.config import to_plain
from tunelab.errors import ConfigError

# Adapters that are more than what a layer does to one token: training calls the decoder, not PEFT's wrapper around it.
UNSUPPORTED_TYPES = {
    "LILY": "its router averages over all positions of a micro-batch, later tokens and other examples included",
    "POLY": "it routes by task, and a row here names none",
    "SHADOW": "its second network is run by a hook of the whole model, and training calls the decoder inside",
    "XLORA": "it mixes adapters that were trained before, in PEFT's wrapper around the model",
}
UNSUPPORTED_OPTIONS = {
    "alora_invocation_tokens": "PEFT's wrapper finds the tokens, and training calls the decoder inside it",
    "arrow_config": "it mixes adapters that were trained before",
    "kasa_config": "PEFT leaves its regularisers to whoever computes the loss, and they would be left out",
    "layer_replication": "it changes the base too, and most models list their layers elsewhere besides",
    "monteclora_config": "PEFT leaves its variational loss to whoever computes the loss, and it would be left out",
    "velora_config": "it projects on averages of a micro-batch, whose size memory decides; init_type=random is fixed",
}


@dataclass(frozen=True, slots=True)
class Tuning:
    """Our own keys of `peft`.

    `lr_factor`: the peak rate where `optim.lr` is not given, as a multiple of that for LoRA (or for all weights).
    `num_layers`: without an adapter, train only the last so many decoder layers; None: everything.
    `num_calibration_examples`: training examples that a data-driven initialisation looks at.
    `from_adapter`: a PEFT folder or run folder whose adapter is trained on.
    """

    lr_factor: float = 1.0
    num_layers: int | None = None
    num_calibration_examples: int = 0
    from_adapter: str | None = None

    @property
    def folder(self) -> Path | None:
        """The PEFT folder to continue from; a run folder holds it under `adapter`."""
        if self.from_adapter is None:
            return None
        folder = Path(self.from_adapter)
        inside = folder / "adapter"
        return inside if inside.is_dir() and not (folder / "adapter_config.json").is_file() else folder


OWN_KEYS = tuple(field.name for field in fields(Tuning))


def read_tuning(node: Mapping[str, Any]) -> Tuning:
    """Take our own keys out of `peft`.

    Raises:
        ConfigError: a value is out of range, or another choice makes the key meaningless.
    """
    given = to_plain(node)  # which counts nothing as read: that is for those who use it
    tuning = Tuning(**{key: given[key] for key in OWN_KEYS if key in given})
    factor: Any = tuning.lr_factor
    _require(_is_number(factor) and factor > 0, "lr_factor", "a number above 0", factor)
    layers = tuning.num_layers
    _require(layers is None or (type(layers) is int and layers >= 1), "num_layers", "an integer of at least 1", layers)
    count = tuning.num_calibration_examples
    _require(type(count) is int and count >= 0, "num_calibration_examples", "an integer of at least 0", count)
    if layers is not None and node.get("_target_") is not None:
        raise ConfigError(
            "peft.num_layers: it says which layers full fine-tuning trains, an adapter has its own keys; "
            "remove it, or set peft=last_layers."
        )
    return tuning


def refuse_unsupported(config: PeftConfig) -> None:
    """Refuse what would train, but not as its authors meant.

    Raises:
        ConfigError: the method, or an option of it, needs more than what happens inside the layers.
    """
    kind = str(getattr(config.peft_type, "value", config.peft_type))
    if kind in UNSUPPORTED_TYPES:
        raise ConfigError(
            f"peft._target_: {type(config).__name__} cannot be trained here ({UNSUPPORTED_TYPES[kind]}); use peft=lora."
        )
    for option, reason in UNSUPPORTED_OPTIONS.items():
        value = getattr(config, option, None)
        if value and getattr(value, "init_type", None) != "random":
            raise ConfigError(f"peft.{option}: it cannot be trained here ({reason}); remove it.")


def refuse_contradictions(node: Mapping[str, Any], config: PeftConfig | None, overrides: Sequence[str]) -> None:
    """Where an adapter is continued, its own configuration holds: refuse another method, and typed keys that differ.

    The method has to be the chosen one, since our own keys (`lr_factor`) are those of the choice.

    Raises:
        ConfigError: a typed key, or the method, is not that of the adapter.
    """
    typed = {override.partition("=")[0].lstrip("+") for override in overrides}
    own = vars(config) if config else {}
    kind = type(config).__name__
    chosen = str(node.get("_target_") or "none").rpartition(".")[2]
    if chosen != kind:
        upstream: Any = own.get("peft_type")
        remedy = "leave peft=… out" if kind == "LoraConfig" else f"set peft={upstream.value.lower()}"
        raise ConfigError(f"peft: expected the method of peft.from_adapter, a {kind}, found {chosen}; {remedy}.")
    for name in sorted(key.removeprefix("peft.") for key in typed if key.startswith("peft.")):
        if name in node and name not in OWN_KEYS and _plain(node[name]) != _plain(own.get(name)):
            raise ConfigError(
                f"peft.{name}: the adapter of peft.from_adapter has {_plain(own.get(name))!r}, which stays, found "
                f"{node[name]!r}; remove peft.{name}."
            )


def _plain(value: object) -> object:
    return sorted(map(str, value)) if isinstance(value, list | set | tuple) else value


def check_numbers(config: PeftConfig) -> None:
    """Refuse ranks, alphas and dropouts that PEFT would refuse with the weights in memory, or not at all.

    Raises:
        ConfigError: one is out of range; the message names its key.
    """
    for key in ("r", "init_r", "target_r"):
        rank = getattr(config, key, None)
        unset = rank is None or (rank == 0 and bool(getattr(config, "oft_block_size", 0)))  # OFT: one of the two
        _require(unset or (type(rank) is int and rank >= 1), key, "an integer of at least 1", rank)
    for name, value in vars(config).items():
        if name in ("lora_alpha", "alpha") or name.endswith("_alpha"):
            _require(value is None or (_is_number(value) and value > 0), name, "a number above 0", value)
        if name.endswith("dropout"):
            _require(value is None or (_is_number(value) and 0 <= value < 1), name, "a fraction in [0, 1)", value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _require(condition: bool, key: str, expected: str, found: object) -> None:
    if not condition:
        name = "rank" if key in ("r", "init_r", "target_r") else "value"
        raise ConfigError(f"peft.{key}: expected {expected}, found {found!r}; set peft.{key}=<{name}>.")
