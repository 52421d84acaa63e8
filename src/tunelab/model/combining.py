"""Makes one LoRA adapter of several for the same base model, through PEFT's weighted combinations."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from peft import LoraConfig, PeftConfig, PeftModel, load_peft_weights
from transformers import PreTrainedModel

from tunelab.config import Combination
from tunelab.errors import ConfigError, ModelError, first_line
from tunelab.model.adapter import require_all_weights
from tunelab.model.adapter_folder import read_shapes
from tunelab.model.initializing import changes_the_base
from tunelab.model.origin import read_origin

SAME_RANK = ("linear", "ties", "dare_linear", "dare_ties", "magnitude_prune")
WHERE = ("layers_to_transform", "layers_pattern", "exclude_modules")


@dataclass(frozen=True, slots=True)
class Mixture:
    """Adapters, each with its weight, and how they are combined. `density`: what pruning keeps, a fraction."""

    folders: tuple[Path, ...]
    weights: tuple[float, ...]
    combination: Combination
    density: float | None


def check_mixture(mixture: Mixture, configs: Sequence[PeftConfig]) -> None:
    """Check that adapters of these configurations can be combined so.

    Raises:
        ModelError: one is no plain LoRA.
        ConfigError: their ranks differ where the combination wants one or exceed the layers, or they name modules in
            different ways.
    """
    loras = [_plain_lora(config, folder) for config, folder in zip(configs, mixture.folders, strict=True)]
    _check_ranks(mixture, loras)
    if len({isinstance(lora.target_modules, str) for lora in loras}) > 1:
        raise ConfigError(
            "adapters: expected target_modules as names in all adapters or as a pattern in all, found both; "
            "train one of them again."
        )
    for key in WHERE:
        found = {_comparable(getattr(lora, key, None)) for lora in loras}
        if len(found) > 1:
            raise ConfigError(
                f"adapters: expected one {key} for all adapters, since PEFT keeps the first's, found "
                f"{' and '.join(sorted(found))}; leave one of them out."
            )


def _comparable(value: object) -> str:
    """Of a pattern, or of one or several names or numbers, in any order."""
    if value is None or isinstance(value, str):
        return repr(value)
    return str(sorted(value, key=str) if isinstance(value, list | set | tuple) else [value])


def _check_ranks(mixture: Mixture, loras: Sequence[LoraConfig]) -> None:
    """Raises ConfigError where PEFT would refuse, or write weights of other ranks than the configuration says."""
    name, ranks = mixture.combination.value, [_rank(lora) for lora in loras]
    if name in SAME_RANK and len(set(ranks)) > 1:
        raise ConfigError(
            f"combination: expected adapters of one rank for {name}, found ranks {', '.join(map(str, ranks))}; "
            "set combination=cat (exact) or svd."
        )
    for lora, folder in zip(loras, mixture.folders, strict=True):
        if name in SAME_RANK and lora.rank_pattern:
            raise ConfigError(
                f"combination: expected one rank in all layers for {name}, found a rank_pattern in {str(folder)!r}; "
                "set combination=cat (exact) or svd."
            )
        most = min(_widths(folder)) if name.endswith("svd") else None
        if most is not None and max(ranks) > most:
            raise ConfigError(
                f"combination: expected ranks of at most {most} for {name}, the width of the narrowest layer in "
                f"{str(folder)!r}, found {max(ranks)}; set combination=cat (exact)."
            )


def _widths(folder: Path) -> list[int]:
    """Inputs (of A: rank, in) and outputs (of B: out, rank) of the layers that an adapter has."""
    shapes = read_shapes(folder, "adapters")
    inputs = [shape[1] for name, shape in shapes.items() if ".lora_A" in name or ".lora_embedding_A" in name]
    return inputs + [shape[0] for name, shape in shapes.items() if ".lora_B" in name or ".lora_embedding_B" in name]


def combine(base: PreTrainedModel, mixture: Mixture) -> PeftModel:
    """Put the combined adapter, and none else, on `base`.

    `cat` is the exact weighted sum of the adapters' changes, of the sum of their ranks; `svd` is its best
    approximation of the highest rank; the others are as PEFT defines them (`linear` mixes the two factors, which is no
    weighted sum of the changes).

    Raises:
        ModelError: PEFT cannot combine them.
    """
    names = [f"part{number}" for number in range(len(mixture.folders))]
    options: dict[str, Any] = {} if mixture.density is None else {"density": mixture.density}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Found missing adapter keys")  # refused below, in a sentence
            warnings.filterwarnings("ignore", message="The following .* keys did not match")
            model: Any = PeftModel.from_pretrained(base, str(mixture.folders[0]), names[0], use_safetensors=True)
            for name, folder in zip(names[1:], mixture.folders[1:], strict=True):
                model.load_adapter(str(folder), name, use_safetensors=True)
            for name, folder in zip(names, mixture.folders, strict=True):
                _require_whole(model, name, folder)
            first = model.peft_config[names[0]]  # the new adapter takes over its settings …
            first.use_rslora = False  # … and would be scaled by them once more
            first.init_lora_weights = True  # … and would change the base
            model.add_weighted_adapter(
                names, list(mixture.weights), "default", combination_type=mixture.combination.value, **options
            )
            model.set_adapter("default")
            for name in names:
                model.delete_adapter(name)
    except (ValueError, TypeError, KeyError, RuntimeError, OSError) as error:
        raise ModelError(f"adapters: they cannot be combined ({first_line(error)}); set combination=cat.") from error
    return cast(PeftModel, model)


def _require_whole(model: PeftModel, name: str, folder: Path) -> None:
    try:
        require_all_weights(model, load_peft_weights(str(folder), device="cpu"), name)
    except ValueError as error:
        raise ModelError(f"adapters: {str(folder)!r} is incomplete ({first_line(error)}); export it again.") from error


def _plain_lora(config: PeftConfig, folder: Path) -> LoraConfig:
    """Refuse what PEFT would combine wrongly or not at all."""
    problem = None
    if type(config) is not LoraConfig:
        problem = type(config).__name__.removesuffix("Config")
    elif config.layer_replication:
        problem = "one with layer_replication, which PEFT would apply once for each adapter"
    elif config.use_dora:
        problem = "one with use_dora"
    elif changes_the_base(config):
        problem = "one whose start was taken out of the base"
    elif (origin := read_origin(folder)) is not None and origin.start:
        problem = "one that makes up for the error of quantised weights (LoftQ)"
    elif config.bias != "none" or config.lora_bias:
        problem = "one with trained biases"
    elif config.modules_to_save or config.trainable_token_indices or config.target_parameters:
        problem = "one that trained whole modules, tokens or parameters besides"
    if problem:
        raise ModelError(f"adapters: expected plain LoRA adapters, found {problem} in {str(folder)!r}; leave it out.")
    return cast(LoraConfig, config)


def _rank(config: LoraConfig) -> int:
    pattern: dict[str, int] = config.rank_pattern or {}
    return max(config.r, *pattern.values()) if pattern else config.r
