"""What of a base model an adapter is put on: which modules there are for it, which it has taken, which it leaves."""

import copy
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from peft import AdaptionPromptConfig, PeftConfig, PeftModel
from peft.tuners.tuners_utils import (
    BaseTunerLayer,
    _check_lora_target_modules_mamba,  # pyright: ignore[reportPrivateUsage]
)
from peft.utils.other import AuxiliaryTrainingWrapper
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

ALL_LINEAR = "all-linear"  # PEFT's word; it knows torch's own linear layers and those that inherit from them


@dataclass(frozen=True, slots=True)
class Coverage:
    """How many modules of each name an adapter is on, and of those that it leaves as they are, `experts` among them."""

    adapted: Mapping[str, int]
    left: Mapping[str, int]
    experts: tuple[str, ...] = ()  # names of parameters

    def __str__(self) -> str:
        left = f"; left as they are: {_listed(self.left)}" if self.left else ""
        remedy = f" (peft=lora takes the experts with 'peft.target_parameters=[{','.join(self.experts)}]')"
        return f"the adapter is on {_listed(self.adapted)}{left}{remedy if self.experts else ''}"

    def to_dict(self) -> dict[str, dict[str, int]]:
        """The fields as JSON can hold them."""
        return {"adapted": dict(self.adapted), "left": dict(self.left)}


def is_all_linear(config: PeftConfig | None) -> bool:
    """Whether the adapter is to be on all linear layers."""
    return str(getattr(config, "target_modules", None)).lower() == ALL_LINEAR


def fitted(config: PeftConfig, model: PreTrainedModel) -> PeftConfig:
    """A copy of `config` that PEFT applies to this model as it is meant, here and wherever the export is loaded.

    What lies outside the text model has no part in it: no gradient would reach it. Linear layers are named one by one
    where PEFT, asked for all of them, would take others: there, where a quantising package has put its own, and where
    Mamba reads a weight past the adapter, which PEFT refuses.
    """
    copied: Any = copy.copy(config)
    outside = outside_text(model)
    if is_all_linear(copied):
        found = linear_paths(model)
        usable = {path for path in found if not _is_read_past(copied, model, path)}
        if outside or len(usable) < len(found) or any(map(is_foreign_linear, model.modules())):
            copied.target_modules = usable
    elif outside and hasattr(copied, "exclude_modules"):
        copied.exclude_modules = _excluding(copied.exclude_modules, outside)
    return copied


def _is_read_past(config: PeftConfig, model: PreTrainedModel, path: str) -> bool:
    try:
        _check_lora_target_modules_mamba(config, model, path.rpartition(".")[2])
    except ValueError:
        return True
    return False


def _excluding(given: Any, outside: Iterable[str]) -> str:
    """A pattern of whole paths for all below `outside`, and for what is `given` to be excluded: a pattern, or names."""
    ours = rf"({'|'.join(map(re.escape, outside))})(\..*)?"
    if not given:
        return ours
    theirs = given if isinstance(given, str) else rf"(.*\.)?({'|'.join(map(re.escape, sorted(given)))})"
    return theirs if ours in theirs else f"{ours}|{theirs}"


def coverage(model: Any, everything: bool) -> Coverage | None:
    """What the adapter of `model` is on; None where it is on no module (prompts) or there is no adapter.

    `everything`: it was asked to take all linear layers, so that those it leaves are told. The head is no such layer,
    nor is what lies outside the text model.
    """
    modules: list[str] = list(getattr(model, "targeted_module_names", ()))
    parameters: list[str] = list(getattr(model, "targeted_parameter_names", ()))
    if not isinstance(model, PeftModel) or not modules + parameters:
        return None
    adapted = Counter(name.rpartition(".")[2] for name in modules) + Counter(map(_last_two, parameters))
    base: Any = model.get_base_model()
    layers = [path for path in linear_paths(base) if not _inside_adapter(base, path)] if everything else []
    experts = sorted(expert_stacks(base).keys() - set(parameters)) if everything else []
    left = Counter(map(_last_two, [*layers, *experts]))
    return Coverage(_sorted(adapted), _sorted(left), tuple(last_names(experts)))


def untied_end(model: Any) -> str | None:
    """What is to be said where an adapter is on the head or the embeddings alone, and the two are one tensor."""
    if not isinstance(model, PeftModel):
        return None
    base: Any = model.get_base_model()
    ends = {"embeddings": base.get_input_embeddings(), "head": base.get_output_embeddings()}
    adapted = [name for name, end in ends.items() if isinstance(end, BaseTunerLayer | AuxiliaryTrainingWrapper)]
    if not base.config.get_text_config().tie_word_embeddings or len(adapted) != 1:
        return None
    return (
        f"warning: embeddings and head of this model are one tensor, and the adapter is on the {adapted[0]} alone: "
        "merged, they would be two; peft.ensure_weight_tying=true adapts both alike, without them in "
        "peft.target_modules and peft.modules_to_save neither is"
    )


def linear_paths(model: PreTrainedModel) -> list[str]:
    """Paths of the linear layers of the text model, without the head; those of quantising packages too.

    Packages for GPTQ, AWQ and the like have classes of their own, which neither torch nor PEFT know as linear layers.
    """
    outside, head = outside_text(model), model.get_output_embeddings()
    return [
        path
        for path, module in model.named_modules()
        if (isinstance(module, torch.nn.Linear | Conv1D) or is_foreign_linear(module))
        and module is not head
        and not _is_under(path, outside)
    ]


def linear_names(model: PreTrainedModel) -> list[str]:
    """What the linear layers of `linear_paths` are called."""
    return last_names(linear_paths(model))


def last_names(paths: Iterable[str]) -> list[str]:
    """The different last parts of paths, sorted."""
    return sorted({path.rpartition(".")[2] for path in paths})


def has_name(name: str, paths: Iterable[str]) -> bool:
    """Whether one of `paths` is `name` or ends in it, as PEFT looks for the modules that are named."""
    return any(path == name or path.endswith(f".{name}") for path in paths)


def named_targets(config: PeftConfig | None) -> Any:
    """The pattern or the names that `config` gives for modules; empty where it gives none, or all linear layers."""
    targets: Any = getattr(config, "target_modules", None)
    if not targets or is_all_linear(config):
        return ()
    return [targets] if isinstance(config, AdaptionPromptConfig) and isinstance(targets, str) else targets  # one name


def missing_targets(model: PreTrainedModel, targets: Any) -> list[str]:
    """Those of `targets`, a pattern or names, that fit no module of the text model, by PEFT's rules."""
    names = text_paths(model)
    if not isinstance(targets, str):
        return [t for t in sorted(map(str, targets)) if not has_name(t, names)]
    try:
        return [] if any(re.fullmatch(targets, name) for name in names) else [targets]
    except re.error:
        return [targets]


def text_paths(model: PreTrainedModel) -> list[str]:
    """Paths of the modules of the text model, which alone is trained."""
    outside = outside_text(model)
    return [path for path, _ in model.named_modules() if path and not _is_under(path, outside)]


def is_foreign_linear(module: torch.nn.Module) -> bool:
    """Whether `module` stands for a linear layer without being one of torch's: by its name, with inputs and outputs."""
    if isinstance(module, torch.nn.Linear | Conv1D):
        return False
    widths = (getattr(module, "in_features", None), getattr(module, "out_features", None))
    own = not isinstance(module, BaseTunerLayer) and "linear" in type(module).__name__.lower()
    return own and all(isinstance(width, int) for width in widths)


def expert_stacks(model: PreTrainedModel) -> dict[str, torch.nn.Parameter]:
    """The weights of experts that lie in one tensor for all of a layer, (experts, …, …), by their paths."""
    outside = outside_text(model)
    return {
        f"{path}.{name}".replace(".base_layer", ""): weight
        for path, module in model.named_modules()
        if not isinstance(module, torch.nn.Conv1d) and not _is_under(path, outside)  # whose weights have three, too
        for name, weight in module.named_parameters(recurse=False)
        if weight.ndim == 3 and "default" not in (name, *path.split("."))  # PEFT's name for what it adds
    }


def outside_text(model: PreTrainedModel) -> tuple[str, ...]:
    """Paths of what text does not pass in a model of several modalities: towers for images and sound, projectors."""
    if model.config.get_text_config() is model.config:
        return ()
    paths = {id(module): path for path, module in model.named_modules()}
    decoder = paths.get(id(model.get_decoder()), "")
    inside = (decoder, paths.get(id(model.get_output_embeddings()), decoder))
    if not decoder:
        return ()
    return tuple(_beside(model, "", inside))


def _beside(module: torch.nn.Module, path: str, inside: Iterable[str]) -> list[str]:
    """The outermost modules under `module` that neither hold nor are one of `inside`."""
    found: list[str] = []
    for name, child in module.named_children():
        here = f"{path}.{name}".removeprefix(".")
        if any(_is_under(kept, (here,)) for kept in inside):
            found += [] if here in inside else _beside(child, here, inside)
        elif any(True for _ in child.parameters()):
            found.append(here)
    return found


def _inside_adapter(model: torch.nn.Module, path: str) -> bool:
    parts = path.split(".")
    above = (model.get_submodule(".".join(parts[:count])) for count in range(1, len(parts)))
    return any(isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper) for module in above)


def _is_under(path: str, roots: Iterable[str]) -> bool:
    """Whether a module is one of `roots` or inside it."""
    return any(path == root or path.startswith(f"{root}.") for root in roots)


def _last_two(path: str) -> str:
    return ".".join(path.split(".")[-2:])


def _sorted(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items()))


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} × {name}" for name, count in counts.items())
