"""What evaluate, export and chat work on: a base model and what was trained on it, found, checked and loaded."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tunelab.config import ModelConfig, Precision, Quantization, RunConfig, SubjectConfig, mark_read
from tunelab.data.prompting import Prompter
from tunelab.data.rendering import ChosenTemplate, decide_template
from tunelab.data.rendering.plain import PLAIN_TEMPLATES
from tunelab.embedded import locate
from tunelab.errors import ModelError
from tunelab.model.adapter import CausalLM, hands_on_float32, load_adapter, ready_for_adapter, skip_input_casts
from tunelab.model.adapter_folder import has_tokenizer, is_adapter_folder, read_adapter_config
from tunelab.model.combining import Mixture, combine
from tunelab.model.generation import completion_ends
from tunelab.model.initializing import changes_the_base, initialization
from tunelab.model.loading import check_base_model, load_base_model, torch_dtype, tuned_as_base
from tunelab.model.locating import is_hub_name
from tunelab.model.matching import check_adapter, check_vocabulary, check_whole
from tunelab.model.new_tokens import require_known_tokens
from tunelab.model.origin import Origin, origin_of_run, read_origin, require_same_quantization, stored_as
from tunelab.model.quantizing import FOUR_BITS, check_quantization, stored_method
from tunelab.model.tokenizer import load_saved_tokenizer, load_tokenizer
from tunelab.run import RunFolder
from tunelab.training.doctor import require_computable
from tunelab.training.trainer import resolve_precision


@dataclass(frozen=True, slots=True)
class Subject:
    """A base model and what was made of it.

    `run` holds model, data and precision, for one device of this machine; `folder` is that of the run which trained it,
    where that is known. `adapters` are PEFT folders, checked against the base; several are combined as `mixture` says.
    `whole` is a fully tuned model. `tokenizer` is that of training, `template_name` what `decide_template` makes its
    template of. `quantization` is that of the base, by the configuration or in its checkpoint; `origin` that with which
    the (first) adapter was trained, None where it is not recorded.
    """

    run: RunConfig
    folder: RunFolder | None
    adapters: tuple[Path, ...]
    whole: Path | None
    tokenizer: PreTrainedTokenizerBase
    template_name: str
    architecture: Any  # of the base: what its config.json says
    quantization: str | None
    origin: Origin | None
    mixture: Mixture | None = None

    @property
    def makes_up_for_quantization(self) -> bool:
        """Whether the adapter is right on the quantised weights only, and not on those they were made of."""
        return self.origin is not None and bool(self.origin.start)

    def template(self) -> ChosenTemplate:
        """The template of training.

        Raises:
            DataError: the tokenizer has none, or its file cannot be read.
        """
        return decide_template(self.template_name, self.tokenizer)

    def ends(self, prompter: Prompter) -> tuple[int, ...]:
        """Ids at which completions end that follow the prompts of `prompter`."""
        return completion_ends(self.run.model, self.tokenizer, prompter.end_of_turn)


def open_subject(
    config: SubjectConfig, run: RunConfig | None, folder: RunFolder | None, folders: Sequence[str] | None = None
) -> Subject:
    """Find and check what `config` names; `run` and `folder` are those of `config.run`, where it is given.

    `folders` stand for those that `config` names; with none of them the run's own adapter is meant.

    Raises:
        TunelabError: something is missing, or an adapter was made for another base; no weights were loaded.
    """
    named = tuple(Path(each) for each in (config.places if folders is None else folders))
    places = named or ((folder.adapter,) if folder else ())
    whole = _whole_model(places)
    adapters = () if whole else places
    settled = _on_one_device(run, config) if run else config.as_run()
    if run and folder:
        _require_base_folder(run.model.path, folder.adapter)
    base_tokenizer = load_tokenizer(settled.model)
    architecture = check_base_model(settled.model, len(base_tokenizer))
    quantization = _quantization(settled.model, architecture)
    origins = [read_origin(place) for place in adapters]
    if run and not named:
        origins = [origin or origin_of_run(settled, quantization) for origin in origins]
    require_same_quantization(adapters, origins, settled.model)
    for place in adapters:
        require_known_tokens(place, len(base_tokenizer))
        check_adapter(place, settled.model, config.other_base)
    if whole is not None and (named or run is None):
        check_whole(whole, settled.model, architecture, config.other_base)
    trusted = settled.model.trust_remote_code
    saved = [(place, load_saved_tokenizer(place, trusted)) for place in places if has_tokenizer(place)]
    for place, tokenizer in saved:
        if place in adapters:
            check_vocabulary(tokenizer, base_tokenizer, place)
    template = settled.data.template
    return Subject(
        run=settled,
        folder=None if named else folder,
        adapters=adapters,
        whole=whole,
        tokenizer=saved[0][1] if saved else base_tokenizer,
        template_name=_saved_template(template) if run and saved else template,
        architecture=architecture,
        quantization=quantization,
        origin=next(filter(None, origins), stored_as(settled.model, quantization) if quantization else None),
    )


def _require_base_folder(path: str, place: Path) -> None:
    """The base of a run is where the run found it; its own error would name a key that has no effect beside `run`."""
    if not is_hub_name(path) and not Path(locate(path)).expanduser().is_dir():
        raise ModelError(
            f"run: expected its base model in the folder {path!r}, found none there now; put it back, start where "
            f"it is found, or set adapter={place} model.path=<folder> and the data instead of run."
        )


def check_loading(subject: Subject) -> None:
    """Check that the base can be loaded as it was trained, and count as read what that will read, after the audit.

    Raises:
        ModelError: it is to be quantised a second time, or a package that reads the checkpoint is missing.
    """
    check_quantization(subject.architecture, subject.run.model)
    mark_read(subject.run.model, "dtype")


def load_base(subject: Subject, device: torch.device) -> PreTrainedModel:
    """The base model, quantised where the run had it so, and as the adapter will find it.

    Without autocast, the modules of a base in half types cannot compute with the float32 that some adapters hand on:
    for these the base, the very same values, is made float32.

    Raises:
        ModelError: as `load_base_model`; or it cannot be computed with, quantised as it is.
    """
    base = load_base_model(subject.run.model, device)
    base = ready_for_adapter(base) if subject.adapters else base
    if needs_float32(subject, device):
        base = base.float()
    if subject.quantization is not None:
        require_computable(base)
    return base


def load_tuned(
    subject: Subject, device: torch.device, precision: Precision, base: PreTrainedModel | None = None
) -> CausalLM:
    """What was trained, as it was while it trained. An adapter is put on `base`, which it may change, if given.

    Raises:
        ModelError: weights are missing or do not fit.
    """
    if subject.whole is not None:
        return load_base_model(tuned_as_base(subject.run.model, subject.whole), device)
    base = load_base(subject, device) if base is None else base
    model = combine(base, subject.mixture) if subject.mixture else load_adapter(base, subject.adapters[0])
    if precision is not Precision.fp32:
        skip_input_casts(model)
    return model


def needs_float32(subject: Subject, device: torch.device) -> bool:
    """Whether the base would be in half types, without autocast, and the adapter hands float32 on to it."""
    is_float32 = torch_dtype(subject.run.model.dtype, device) is torch.float32
    if is_float32 or subject.quantization is not None:
        return False
    precision = resolve_precision(subject.run.trainer.precision, device)
    handed = any(hands_on_float32(read_adapter_config(place)) for place in subject.adapters)
    return precision is Precision.fp32 and handed


def leaves_the_base(subject: Subject) -> bool:
    """Whether the base is as it was where PEFT switches the adapters off.

    Switching off leaves trained biases where they are, doubled layers, and what a start (PiSSA, OLoRA, …) has taken out
    of the weights.
    """
    configs = [read_adapter_config(place) for place in subject.adapters]
    return all(
        getattr(config, "bias", "none") == "none"
        and not getattr(config, "layer_replication", None)
        and not changes_the_base(config)
        and initialization(config) != "loftq"
        for config in configs
    )


def _whole_model(places: Sequence[Path]) -> Path | None:
    """The folder that holds a fully tuned model instead of an adapter."""
    if len(places) != 1 or is_adapter_folder(places[0]):
        return None
    if not (places[0] / "config.json").is_file():
        inside = RunFolder(places[0]).adapter
        is_run = is_adapter_folder(inside) or (inside / "config.json").is_file()
        raise ModelError(
            f"adapter: expected a PEFT folder or a tuned model, found {'a run folder' if is_run else 'neither'} in "
            f"{str(places[0])!r}; name {repr(str(inside)) if is_run else 'its folder'} instead."
        )
    return places[0]


def _quantization(model: ModelConfig, architecture: Any) -> str | None:
    """How the base is quantised, by the configuration or in its checkpoint; None where it is not."""
    if model.quantization is Quantization.none:
        return stored_method(architecture)
    if model.quantization in FOUR_BITS:
        mark_read(model, "double_quantization")
    return model.quantization.value


def _saved_template(template: str) -> str:
    """A template file became the chat template of the tokenizer that was saved."""
    return template if template in ("auto", "chatml", *PLAIN_TEMPLATES) else "chat"


def _on_one_device(run: RunConfig, config: SubjectConfig) -> RunConfig:
    return replace(run, trainer=replace(run.trainer, devices=1, accelerator=config.trainer.accelerator))
