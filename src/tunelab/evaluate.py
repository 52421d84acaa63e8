"""Measures a base model and what was made of it (adapters, whole models), from what runs left on disk."""

import datetime
import shutil
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from tunelab.audit import refuse_unread_keys
from tunelab.config import EvaluateConfig, EvaluationConfig, ReviewConfig, RunConfig, Split, mark_read, to_plain
from tunelab.contamination import contamination
from tunelab.contenders import Contender, Opened, few_shot_name, open_contenders, remarks
from tunelab.data.few_shot import FewShot, few_shot
from tunelab.data.preparing import open_stage, report_table
from tunelab.data.records import EvaluationExample
from tunelab.errors import ConfigError, DataError
from tunelab.evaluation.harness.tasks import load_tasks
from tunelab.evaluation.reporting import BASE
from tunelab.folders import make_new_folder
from tunelab.model.virtual_tokens import num_virtual_tokens_of_folder
from tunelab.outcome import Measured, compare_all, show, write_answers
from tunelab.preflight import Prepared, mark_evaluation, prepare
from tunelab.review.command import review
from tunelab.run import RunFolder
from tunelab.subject import Subject, check_loading
from tunelab.switching import Bench
from tunelab.terminal import RunConsole, quiet_libraries

LOG = "run.log"


def evaluate(
    config: EvaluateConfig,
    run: RunConfig | None,
    folder: RunFolder | None,
    overrides: Sequence[str],
    more: Sequence[Opened] = (),
) -> dict[str, float]:
    """Measure what `config` names; `run` and `folder` are those of `config.run`, `more` those of `config.runs`.

    Writes predictions.jsonl (for other splits predictions-<split>.jsonl), harness.jsonl, and adds the metrics to
    summary.json.

    Raises:
        TunelabError: something is missing or does not fit.
    """
    quiet_libraries()
    opened = [*([(run, folder)] if run and folder else []), *more]
    settings, contenders, reference = _open(config, opened, overrides)
    subject, split = contenders[0].subject, config.split.value
    with _target(config, contenders, settings) as target, closing(RunConsole(target.path / LOG)) as console:
        prepared = prepare(subject.run, max(num_virtual_tokens_of_folder(each.place) for each in contenders))
        console.print(report_table(prepared.data.report))
        examples = _examples(prepared, config.split)[: settings.max_examples]
        shots = _shots(config, subject, prepared, examples)
        doubts = contamination(contenders, split, prepared.data.report)
        _mark_read_later(config, contenders)
        tasks = load_tasks(config.harness, subject.template()) if config.harness.tasks else None
        refuse_unread_keys(config, overrides)
        for line in (*remarks(contenders), *doubts.values(), *map(str, prepared.sets)):
            console.print(line, soft_wrap=True)
        models = _measure(contenders, Bench(prepared, console, split, tasks), examples, shots)
        write_answers(target.path, models)
        found, tables = compare_all(models, reference, contenders[0].name, {split: _left_out(settings, shots)})
        target.merge_results({**found, **_about(contenders, doubts, shots, settings)})
        show(console, tables, found.get("warnings", {}))
        console.print(f"metrics      {target.path / 'summary.json'}", soft_wrap=True)
        if config.pages:
            review(ReviewConfig(run=str(target.path), split=split), ())
        return dict(found["metrics"])


def _open(
    config: EvaluateConfig, opened: Sequence[Opened], overrides: Sequence[str]
) -> tuple[EvaluationConfig, list[Contender], str]:
    """How is measured, the tuned models that are, and the name of the model that the others are compared with."""
    settings = _settings(config, opened[0][0] if opened else None, overrides)
    contenders = open_contenders(config, opened, settings)
    names = _names(contenders, settings)
    reference = _reference(config, names)
    _check_pages(config, settings, names)
    return settings, contenders, reference


@contextmanager
def _target(
    config: EvaluateConfig, contenders: Sequence[Contender], settings: EvaluationConfig
) -> Generator[RunFolder]:
    """Where results go: a run's published figures are replaced by the same measurement only.

    A new folder that came to nothing but a log is removed again.
    """
    first = contenders[0]
    is_same = first.run is not None and settings == first.run.evaluation and not config.harness.tasks
    if len(contenders) == 1 and first.subject.folder and is_same:
        yield first.subject.folder
        return
    now = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    place = make_new_folder(Path(config.output_dir) / "evaluations" / now)
    try:
        yield RunFolder(place)
    finally:
        if {each.name for each in place.iterdir()} <= {LOG}:
            shutil.rmtree(place)


def _names(contenders: Sequence[Contender], settings: EvaluationConfig) -> list[str]:
    """All models, in the order in which they are measured."""
    few_shot = [few_shot_name(settings.num_few_shot)] if settings.num_few_shot else []
    return [*([BASE] if settings.base else []), *few_shot, *(each.name for each in contenders)]


def _reference(config: EvaluateConfig, names: Sequence[str]) -> str:
    """Raises ConfigError for a model that is not measured."""
    if config.reference is not None and config.reference not in names:
        raise ConfigError(
            f"reference: expected one of {', '.join(names)}, found {config.reference!r}; set reference={names[0]}."
        )
    return config.reference or names[0]


def _check_pages(config: EvaluateConfig, settings: EvaluationConfig, names: Sequence[str]) -> None:
    if config.pages and not (settings.generate and len(names) > 1):
        raise ConfigError(
            "pages: expected completions of base and tuned to show, found evaluation.base or evaluation.generate off; "
            "set both to true, or leave pages out."
        )


def _settings(config: EvaluateConfig, run: RunConfig | None, overrides: Sequence[str]) -> EvaluationConfig:
    """The run's own evaluation settings, with those changed that were typed, one by one or as a group."""
    if run is None:
        return config.evaluation
    given, usual = to_plain(config.evaluation), to_plain(EvaluationConfig())
    keys = (override.partition("=")[0].lstrip("+").split(".") for override in overrides)
    typed = {key[1] for key in keys if key[0] == "evaluation" and len(key) > 1}
    changed = {key: value for key, value in given.items() if key in typed or value != usual[key]}
    merged: dict[str, Any] = to_plain(run.evaluation) | changed
    merged["sets"] = (config if "sets" in changed else run).evaluation.sets
    return EvaluationConfig(**merged)


def _mark_read_later(config: EvaluateConfig, contenders: Sequence[Contender]) -> None:
    """Count as read what is read only after the unread-key audit, which comes before the weights."""
    run = contenders[0].subject.run
    if config.run is not None or config.runs:
        mark_read(config.evaluation, "sets", *run.evaluation.used_keys())
    mark_evaluation(run.evaluation, measures=True)
    for contender in contenders:
        check_loading(contender.subject)
    mark_read(run.model, "attention")
    mark_read(run.trainer, "micro_batch_tokens")


def _shots(
    config: EvaluateConfig, subject: Subject, prepared: Prepared, examples: Sequence[EvaluationExample]
) -> FewShot | None:
    """The prompts with worked examples in front, where they are asked for."""
    settings = subject.run.evaluation
    if not settings.num_few_shot:
        return None
    positions: int | None = getattr(subject.architecture.get_text_config(), "max_position_embeddings", None)
    stage = open_stage(subject.run.data, prepared.tokenizer)
    return few_shot(stage, config.split.value, examples, settings.num_few_shot, settings.seed, positions)


def _measure(
    contenders: Sequence[Contender], bench: Bench, examples: Sequence[EvaluationExample], shots: FewShot | None
) -> dict[str, Measured]:
    """The base before any adapter, then each tuned model, in one pass each; of each the split and the extra sets."""
    first = contenders[0].subject
    models: dict[str, Measured] = {}
    if first.run.evaluation.base:
        models[BASE] = bench.measure_base(first, examples)
    if shots is not None:
        models[few_shot_name(first.run.evaluation.num_few_shot)] = bench.measure_few_shot(first, shots)
    for contender in contenders:
        models[contender.name] = bench.measure_tuned(contender.subject, examples)
    return models


def _examples(prepared: Prepared, split: Split) -> Sequence[EvaluationExample]:
    data = prepared.data
    examples = data.test if split is Split.test else data.validation
    if not examples:
        raise DataError(f"split: expected examples to measure on, found none in {split.value!r}; choose another split.")
    return examples


def _left_out(settings: EvaluationConfig, shots: FewShot | None) -> list[str]:
    """Prompts that have no room for worked examples, in a sentence."""
    if shots is None or not shots.num_left_out:
        return []
    name, count = few_shot_name(settings.num_few_shot), len(shots.examples)
    return [
        f"{name}: {shots.num_left_out:,} of {count:,} prompts are too long with the examples before them (or their "
        "response was cut) and were left out; it is compared on the others"
    ]


def _about(
    contenders: Sequence[Contender], doubts: Mapping[str, str], shots: FewShot | None, settings: EvaluationConfig
) -> dict[str, dict[str, Any]]:
    """What summary.json says besides results: the models, where they are several, doubts, and worked examples."""
    about: dict[str, dict[str, Any]] = {}
    if len(contenders) > 1:
        about["models"] = {each.name: str(each.place) for each in contenders}
    if doubts:
        about["contamination"] = dict(doubts)
    if shots is not None:
        about["few_shot"] = {
            "count": settings.num_few_shot,
            "seed": settings.seed,
            "examples": shots.origins,
            "num_left_out": shots.num_left_out,
            "first_prompt": shots.first_prompt,
        }
    return about
