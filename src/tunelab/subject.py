"""Finds what a command is to work on: the base model, what was trained on it, and the template it was trained with."""

from dataclasses import dataclass, replace
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from tunelab.config import ChatConfig, DataConfig, ExportConfig, RunConfig
from tunelab.data.rendering import ChosenTemplate, decide_template
from tunelab.data.rendering.plain import PLAIN_TEMPLATES
from tunelab.errors import ModelError
from tunelab.model.adapter import is_adapter_folder
from tunelab.model.matching import check_adapter, check_vocabulary
from tunelab.model.tokenizer import load_saved_tokenizer, load_tokenizer
from tunelab.run import RunFolder


@dataclass(frozen=True, slots=True)
class Subject:
    """A base model and what was made of it.

    `run` holds model, data and precision, for one device of this machine; `folder` is that of the run which trained it,
    where that is known. `adapters` are PEFT folders, checked against
    the base; `whole` is a fully tuned model. `tokenizer` and `template` are those of training.
    """

    run: RunConfig
    folder: RunFolder | None
    adapters: tuple[Path, ...]
    whole: Path | None
    tokenizer: PreTrainedTokenizerBase
    template: ChosenTemplate


def open_subject(config: ExportConfig | ChatConfig, run: RunConfig | None, folder: RunFolder | None) -> Subject:
    """Find and check what `config` names; `run` and `folder` are those of `config.run`, where it is given.

    Raises:
        TunelabError: something is missing, or an adapter was made for another base; no weights were loaded.
    """
    several = config.adapters if isinstance(config, ExportConfig) else []
    if several:
        places = [Path(each) for each in several]
    elif config.adapter or folder:
        places = [Path(config.adapter) if config.adapter else folder.adapter if folder else Path()]
    else:
        places = list[Path]()
    run = _on_one_device(run, config) if run else _run_of(config)
    whole = places[0] if len(places) == 1 and not is_adapter_folder(places[0]) else None
    if whole is not None and not (whole / "config.json").is_file():
        raise ModelError(f"adapter: expected a PEFT folder or a tuned model, found neither in {str(whole)!r}.")
    adapters = () if whole else tuple(places)
    base_tokenizer = load_tokenizer(run.model)
    saved = [_saved_tokenizer(place) for place in places]
    for place, tokenizer in zip(places, saved, strict=True):
        if place in adapters:
            check_adapter(place, run.model, config.other_base)
            if tokenizer is not None:
                check_vocabulary(tokenizer, base_tokenizer, place)
    tokenizer = next((each for each in saved if each is not None), base_tokenizer)
    template = decide_template(_as_trained(run.data.template), tokenizer)
    own = folder if not (config.adapter or several) else None
    return Subject(run, own, adapters, whole, tokenizer, template)


def _on_one_device(run: RunConfig, config: ExportConfig | ChatConfig) -> RunConfig:
    return replace(run, trainer=replace(run.trainer, devices=1, accelerator=config.trainer.accelerator))


def _run_of(config: ExportConfig | ChatConfig) -> RunConfig:
    data = config.data if isinstance(config, ExportConfig) else DataConfig(template=config.template)
    return RunConfig(model=config.model, data=data, trainer=config.trainer)


def _saved_tokenizer(folder: Path) -> PreTrainedTokenizerBase | None:
    return load_saved_tokenizer(folder) if (folder / "tokenizer_config.json").is_file() else None


def _as_trained(template: str) -> str:
    """A template file, or chatml, became the chat template of the tokenizer that was saved."""
    return template if template in ("auto", *PLAIN_TEMPLATES) or template == "chatml" else "chat"
