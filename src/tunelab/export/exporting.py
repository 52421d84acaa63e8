"""Writes what was trained as other programs read it: an adapter, or a whole model that was compared with it."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tunelab.atomic import write_json, write_text
from tunelab.audit import refuse_unread_keys
from tunelab.config import Combination, ExportConfig, ExportKind, ModelConfig, RunConfig, mark_read, to_plain
from tunelab.data.prompting import Prompter
from tunelab.embedded import locate
from tunelab.errors import CheckpointError, ConfigError, ModelError
from tunelab.export.card import Card, method_without_adapter, read_method
from tunelab.export.merge import Merging, merge_and_compare
from tunelab.export.serving import Served, modelfile, serving_commands
from tunelab.folders import complete_folder
from tunelab.model.adapter_folder import CONFIG, WEIGHTS, read_adapter_config, read_settings
from tunelab.model.combining import Mixture, check_mixture, combine
from tunelab.model.generation import base_generation_config, taught_generation
from tunelab.model.loading import load_unquantized
from tunelab.model.locating import written_path
from tunelab.model.matching import refuse_unmergeable
from tunelab.model.origin import RECORD
from tunelab.model.saving import export_model
from tunelab.run import RunFolder
from tunelab.subject import Subject, open_subject
from tunelab.terminal import RunConsole, quiet_libraries


@dataclass(frozen=True, slots=True)
class Written:
    """What is in the folder besides tokenizer and card. `kind`: adapter, merged or full; `facts`: for export.json."""

    kind: str
    method: str
    facts: dict[str, Any]
    notes: dict[str, str]


def export(config: ExportConfig, run: RunConfig | None, folder: RunFolder | None, overrides: Sequence[str]) -> None:
    """Write what `config` names to the new folder `config.to`: all of it, read back, or nothing.

    `run` and `folder` are those of `config.run`, where it is given.

    Raises:
        TunelabError: it cannot be exported so; there is nothing under the name of the folder.
    """
    console = RunConsole()
    quiet_libraries()
    with complete_folder(Path(config.to)) as staging:
        subject = open_subject(config, run, folder)
        subject = replace(subject, mixture=_mixture(config, subject))
        if config.kind is ExportKind.adapter:
            _require_adapter(subject)
            refuse_unread_keys(config, overrides)
            with console.status("writing the adapter"):
                written = _write_adapter(subject, staging)
        else:
            for place in subject.adapters:
                refuse_unmergeable(read_adapter_config(place), subject.run.model)
            mark_read(config, "output_dir")
            merging = Merging(subject, config.dtype, config.split, config.max_examples)
            found = merge_and_compare(merging, staging, partial(refuse_unread_keys, config, overrides), console)
            kind = "merged" if subject.adapters else "full"
            written = Written(kind, _method(subject), found.facts(), {"Fidelity": found.markdown()})
            console.print(found.line(), soft_wrap=True)
        served = _finish(Path(config.to), subject, written, staging)
    console.print(f"folder       {config.to}\n{serving_commands(served)}", soft_wrap=True)


def _mixture(config: ExportConfig, subject: Subject) -> Mixture | None:
    """How several adapters are combined, checked against their configurations; None for one."""
    if len(subject.adapters) < 2:
        return None
    mark_read(config, "adapters", "weights", "combination")
    if config.combination.prunes:
        mark_read(config, "density")
    weights = tuple(config.weights) or (1 / len(subject.adapters),) * len(subject.adapters)
    density = config.density if config.combination.prunes else None
    mixture = Mixture(subject.adapters, weights, config.combination, density)
    check_mixture(mixture, [read_adapter_config(place) for place in subject.adapters])
    return mixture


def _require_adapter(subject: Subject) -> None:
    if not subject.adapters:
        raise ConfigError(
            f"kind: expected an adapter for kind=adapter, found a fully tuned model in {str(subject.whole)!r}; "
            "set kind=merged, which exports it as it is."
        )


def _write_adapter(subject: Subject, staging: Path) -> Written:
    """Copy the files of one adapter, or make one of several."""
    mixture = subject.mixture
    if mixture is None:
        _copy_adapter(subject.adapters[0], staging)
        _name_base(staging, subject.run.model)
        return Written("adapter", _method(subject), {}, {})
    base = load_unquantized(subject.run.model, torch.device("cpu"))
    model = combine(base, mixture)
    base_config = subject.run.model
    export_model(model, subject.tokenizer, written_path(base_config.path), staging, revision=base_config.revision)
    return Written("adapter", read_method(staging), {"mixture": _parts(mixture)}, {"Combined of": _described(mixture)})


def _copy_adapter(source: Path, staging: Path) -> None:
    """Copy the two files that are the adapter, and compare what was written with them bit for bit.

    Raises:
        CheckpointError: the copy differs.
        ModelError: the adapter has weights that are not finite.
    """
    for name in (CONFIG, WEIGHTS):
        shutil.copyfile(source / name, staging / name)
        if (staging / name).read_bytes() != (source / name).read_bytes():
            raise CheckpointError(f"{source / name}: the copy differs from it; check the disk and export again.")
    odd = sorted(name for name, tensor in load_file(staging / WEIGHTS).items() if not torch.isfinite(tensor).all())
    if odd:
        raise ModelError(
            f"adapter: expected finite weights in {str(source)!r}, found {len(odd)} that are not, first {odd[0]}; "
            "train it again, with a lower optim.lr."
        )


def _name_base(staging: Path, model: ModelConfig) -> None:
    """The base that PEFT will look for is the one this export is for."""
    settings = read_settings(staging) | {
        "base_model_name_or_path": written_path(model.path),
        "revision": model.revision,
    }
    write_json(staging / CONFIG, settings)


def _finish(target: Path, subject: Subject, written: Written, staging: Path) -> Served:
    """Add tokenizer, end tokens, card, Modelfile and export.json; return what the commands for serving need."""
    tokenizer, model, template = subject.tokenizer, subject.run.model, subject.template()
    tokenizer.save_pretrained(str(staging))
    ends = subject.ends(Prompter(template, tokenizer))
    settings = taught_generation(base_generation_config(model), ends, tokenizer)
    settings.save_pretrained(str(staging))
    plain = to_plain(model)
    served = Served(
        folder=target,
        base=locate(plain["path"]),
        is_adapter=written.kind == "adapter",
        rank=_lora_rank(staging) if written.kind == "adapter" and not subject.makes_up_for_quantization else None,
        revision=model.revision,
        has_chat_template=template.writes_bos and (staging / "chat_template.jinja").is_file(),
    )
    tokens = [str(tokenizer.convert_ids_to_tokens(each)) for each in ends]
    write_text(staging / "Modelfile", modelfile(served, template, tokenizer, tokens))
    write_text(staging / "README.md", _card(target.name, subject, template.name, written).render())
    facts = {"kind": written.kind, "base_model": plain, "template": template.name, "end_tokens": tokens}
    origin = subject.origin.to_dict() if subject.origin else None
    write_json(staging / RECORD, {**facts, "method": written.method, "trained_on": origin, **written.facts})
    return served


def _card(title: str, subject: Subject, template: str, written: Written) -> Card:
    folder = subject.folder
    return Card(
        title=title,
        kind=written.kind,
        base=subject.run.model,
        method=written.method,
        template=template,
        trained_on=subject.origin,
        metrics=folder.read_summary().get("metrics", {}) if folder else {},
        provenance=folder.read_json("provenance.json") if folder else {},
        notes=written.notes,
    )


def _method(subject: Subject) -> str:
    if (mixture := subject.mixture) is not None:
        return f"{len(mixture.folders)} LoRA adapters combined by {mixture.combination.value}"
    return read_method(subject.adapters[0]) if subject.adapters else method_without_adapter(subject.run)


def _parts(mixture: Mixture) -> dict[str, Any]:
    parts = [
        {"adapter": str(place), "weight": weight}
        for place, weight in zip(mixture.folders, mixture.weights, strict=True)
    ]
    return {"combination": mixture.combination.value, "density": mixture.density, "parts": parts}


def _described(mixture: Mixture) -> str:
    exact = " (the exact weighted sum of their changes)" if mixture.combination is Combination.cat else ""
    rows = [
        f"- weight {weight:g}: `{place.name}`, {read_method(place)}"
        for place, weight in zip(mixture.folders, mixture.weights, strict=True)
    ]
    density = f", density {mixture.density:g}" if mixture.density is not None else ""
    return "\n".join([f"Combination `{mixture.combination.value}`{density}{exact}:", "", *rows])


def _lora_rank(folder: Path) -> int | None:
    """The rank of a plain LoRA adapter, which the other programs read; None for any other."""
    settings = read_settings(folder)
    special = ("use_dora", "modules_to_save", "trainable_token_indices", "target_parameters", "lora_bias")
    if settings.get("peft_type") != "LORA" or any(settings.get(name) for name in special):
        return None
    ranks: dict[str, int] = settings.get("rank_pattern") or {}
    return max(int(settings["r"]), *ranks.values()) if ranks else int(settings["r"])
