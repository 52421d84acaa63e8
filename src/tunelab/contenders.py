"""The models of one comparison: what `run`, `runs`, `adapter` and `adapters` name, checked against one another."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tunelab.config import EvaluateConfig, EvaluationConfig, RunConfig, to_plain
from tunelab.data.rendering import decide_template
from tunelab.data.rendering.plain import PLAIN_TEMPLATES
from tunelab.embedded import locate
from tunelab.errors import ConfigError, ModelError
from tunelab.evaluation.reporting import BASE, TUNED
from tunelab.model.origin import RECORD
from tunelab.model.tokenizer import load_tokenizer
from tunelab.naming import RESERVED, is_name, names_by_place, names_by_settings
from tunelab.run import RunFolder
from tunelab.subject import Subject, open_subject

Opened = tuple[RunConfig, RunFolder]


@dataclass(frozen=True, slots=True)
class Contender:
    """A tuned model of a comparison; `run` is the configuration that trained it, where known.

    `subject.run` has the data and the settings of the first one, with the base as this one wants it.
    """

    name: str  # empty until one is found
    subject: Subject
    run: RunConfig | None

    @property
    def place(self) -> Path:
        """Its folder."""
        return self.subject.whole or self.subject.adapters[0]


def remarks(contenders: Sequence[Contender]) -> list[str]:
    """What is not the same for all of them, and is not measured as it was for the first."""
    first = contenders[0]
    lines: list[str] = []
    for each in contenders[1:]:
        stored, other = each.subject.quantization, first.subject.quantization
        if stored != other:
            lines.append(
                f"{each.name}: on its own base ({stored or 'not quantised'}); the base that is measured is that of "
                f"{first.name} ({other or 'not quantised'})"
            )
        if each.run and first.run and to_plain(each.run)["data"]["path"] != to_plain(first.run)["data"]["path"]:
            lines.append(f"{each.name}: trained on other data, measured on those of {first.name}")
    return lines


def few_shot_name(count: int) -> str:
    """What the base model is called that sees `count` examples before each prompt."""
    return f"{BASE}-{count}-shot"


def open_contenders(config: EvaluateConfig, opened: Sequence[Opened], settings: EvaluationConfig) -> list[Contender]:
    """Find and check the tuned models that `config` names, the first of which says on what data all are measured.

    `opened` are the runs of `config.run` and `config.runs`, in this order; `settings` those of the measurement. One
    model alone is called `tuned`. No weights are loaded.

    Raises:
        TunelabError: one is missing or damaged, was made for another base, another vocabulary or another template, is
            named twice, or has a name that it cannot have.
    """
    entries = _open(config, opened)
    first = entries[0].subject
    run = replace(first.run, evaluation=settings)
    if len(entries) == 1:
        return [replace(entries[0], name=entries[0].name or TUNED, subject=replace(first, run=run))]
    _require_different_places(entries)
    names = _names(entries, settings)
    template = decide_template(first.run.data.template, load_tokenizer(first.run.model))
    for name, entry in zip(names, entries, strict=True):
        _require_same_base(first.run, entry.subject.run, name)
        _require_same_template(template.name, template.text, entry, name)
    return [
        replace(entry, name=name, subject=replace(entry.subject, run=_on_the_data_of(run, entry.subject.run)))
        for name, entry in zip(names, entries, strict=True)
    ]


def _open(config: EvaluateConfig, opened: Sequence[Opened]) -> list[Contender]:
    run, folder = opened[0] if opened else (None, None)
    entries: list[Contender] = []
    if config.run is not None or config.adapter is not None:
        subject = open_subject(config, run, folder)
        entries.append(Contender("", subject, run if subject.folder else None))
    later = opened[1:] if config.run is not None else opened
    for (name, _), (its_run, its_folder) in zip(config.listed("runs"), later, strict=True):
        entries.append(Contender(name or "", open_subject(config, its_run, its_folder, ()), its_run))
    for name, path in config.listed("adapters"):
        entries.append(Contender(name or "", open_subject(config, run, folder, (path,)), None))
    return entries


def _names(entries: Sequence[Contender], settings: EvaluationConfig) -> list[str]:
    """The given names, and for the others the shortest that tell.

    Raises:
        ConfigError: a given one cannot be part of a key, or has another meaning.
    """
    nameless = [entry for entry in entries if not entry.name]
    runs = [entry.run for entry in nameless if entry.run is not None]
    by_settings = len(runs) == len(nameless) > 1 and names_by_settings([to_plain(run) for run in runs])
    found = iter(by_settings or (names_by_place([entry.place for entry in nameless]) if nameless else []))
    names = [entry.name or next(found) for entry in entries]
    few_shot = [few_shot_name(settings.num_few_shot)] if settings.num_few_shot else []
    taken = (*RESERVED, *few_shot, *to_plain(settings)["sets"])
    for name in names:
        if not is_name(name) or name in taken or names.count(name) > 1:
            raise ConfigError(
                f"adapters, runs: expected different names of letters, digits, '.', '_', '+' and '-', other than "
                f"{', '.join(taken)}, found {name!r}; set adapters={{<name>:<folder>,<name>:<folder>}}."
            )
    return names


def _require_different_places(entries: Sequence[Contender]) -> None:
    places = [entry.place.resolve() for entry in entries]
    twice = next((entry.place for entry in entries if places.count(entry.place.resolve()) > 1), None)
    if twice is not None:
        raise ConfigError(
            f"adapters, runs: expected each model once, found {str(twice)!r} twice; remove it from adapters or runs."
        )


def _require_same_base(first: RunConfig, other: RunConfig, name: str) -> None:
    """It may be stored otherwise (quantised, another type), but not have other tokens."""
    wanted, found = ((_where(run.model.path), run.model.revision, run.model.new_tokens) for run in (first, other))
    if wanted != found:
        parts = [f"{run.model.path!r}{_more(run)}" for run in (first, other)]
        raise ModelError(
            f"runs: expected models of one base, {parts[0]}, found {name} on {parts[1]}: other tokens, other prompts; "
            "measure it by itself, or leave it out."
        )


def _more(run: RunConfig) -> str:
    revision = f" at {run.model.revision}" if run.model.revision else ""
    return revision + (f" with {len(run.model.new_tokens)} new tokens" if run.model.new_tokens else "")


def _where(path: str) -> str:
    folder = Path(locate(path)).expanduser()
    return str(folder.resolve()) if folder.is_dir() else path


def _require_same_template(name: str, text: str, entry: Contender, model: str) -> None:
    """All are measured on the same prompts, which are in the form that each of them was trained on."""
    subject = entry.subject
    recorded = _recorded_template(entry.place)
    if recorded in PLAIN_TEMPLATES:
        found, is_same = recorded, PLAIN_TEMPLATES[recorded].definition == text
    elif recorded is not None:
        found, is_same = recorded, decide_template("chat", subject.tokenizer).text == text
    else:
        found = subject.run.data.template
        is_same = subject.template().text == text
    if not is_same:
        raise ModelError(
            f"runs: expected models trained with one template, {name} (that of the data measured on), found {model} "
            f"with {found}: it would be asked in a form that it does not know; measure it by itself, and compare the "
            "files: python -m tunelab review 'predictions=[<file>,<file>]'."
        )


def _recorded_template(place: Path) -> str | None:
    """The name of the template beside an export; None where nothing is recorded."""
    try:
        found: Any = json.loads((place / RECORD).read_text(encoding="utf-8"))["template"]
        return str(found)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _on_the_data_of(first: RunConfig, own: RunConfig) -> RunConfig:
    """The configuration of the first, with the base and the precision of this model."""
    same = first.trainer.precision is own.trainer.precision
    trainer = first.trainer if same else replace(first.trainer, precision=own.trainer.precision)
    return replace(first, model=own.model, trainer=trainer)
