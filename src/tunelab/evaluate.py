"""Measures a base model and what was made of it (adapters, whole models), from what runs left on disk."""

import datetime
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import RenderableType

from tunelab.audit import refuse_unread_keys
from tunelab.config import EvaluateConfig, EvaluationConfig, ReviewConfig, RunConfig, Split, mark_read, to_plain
from tunelab.contamination import contamination
from tunelab.contenders import BASE, TUNED, Contender, Opened, few_shot_name, open_contenders, remarks
from tunelab.data.few_shot import FewShot, few_shot
from tunelab.data.preparing import open_stage, report_table
from tunelab.data.records import EvaluationExample
from tunelab.errors import ConfigError, DataError
from tunelab.evaluation.comparing import compare_models
from tunelab.evaluation.evaluating import SplitEvaluation
from tunelab.evaluation.harness.results import write_samples
from tunelab.evaluation.harness.tasks import load_tasks
from tunelab.evaluation.regressions import regressions
from tunelab.evaluation.reporting import comparison_table, results_of, write_predictions
from tunelab.evaluation.scores import spread
from tunelab.evaluation.side_by_side import ModelsTable
from tunelab.model.virtual_tokens import num_virtual_tokens_of_folder
from tunelab.outcome import HARNESS, SPLITS, Measured, predictions_name, show_warnings
from tunelab.preflight import Prepared, mark_evaluation, prepare
from tunelab.review.command import review
from tunelab.run import RunFolder, make_new_folder
from tunelab.subject import Subject, check_loading
from tunelab.switching import Bench
from tunelab.terminal import RunConsole, quiet_libraries


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
    settings = _settings(config, opened[0][0] if opened else None, overrides)
    contenders = open_contenders(config, opened, settings)
    names = _names(contenders, settings)
    reference = _reference(config, names)
    _check_pages(config, settings, names)
    subject, target = contenders[0].subject, _target(config, contenders, settings)
    with closing(RunConsole(target.path / "run.log")) as console:
        prepared = prepare(subject.run, max(num_virtual_tokens_of_folder(each.place) for each in contenders))
        console.print(report_table(prepared.data.report))
        examples = _examples(prepared, config.split)[: settings.max_examples]
        shots = _shots(config, subject, prepared, examples)
        doubts = contamination(contenders, config.split.value, prepared.data.report)
        _mark_read_later(config, contenders)
        tasks = load_tasks(config.harness, subject.template()) if config.harness.tasks else None
        refuse_unread_keys(config, overrides)
        for line in (*remarks(contenders), *doubts.values(), *map(str, prepared.sets)):
            console.print(line, soft_wrap=True)
        models = _measure(contenders, Bench(prepared, console, config.split.value, tasks), examples, shots)
        left_out = {config.split.value: _left_out(settings, shots)}
        found, tables = _compared(target.path, models, reference, contenders[0].name, left_out)
        about = {"models": _places(contenders)} if len(contenders) > 1 else {}
        about |= {"contamination": doubts} if doubts else {}
        about |= {"few_shot": _about(shots, settings)} if shots else {}
        target.merge_results({**found, **about})
        for table in tables:
            console.print(table)
        show_warnings(console, found.get("warnings", {}))
        console.print(f"metrics      {target.path / 'summary.json'}", soft_wrap=True)
        if config.pages:
            review(ReviewConfig(run=str(target.path), split=config.split), ())
        return dict(found["metrics"])


def _target(config: EvaluateConfig, contenders: Sequence[Contender], settings: EvaluationConfig) -> RunFolder:
    """Where results go: a run's published figures are replaced by the same measurement only."""
    first = contenders[0]
    if len(contenders) == 1 and first.subject.folder and first.run and settings == first.run.evaluation:
        return first.subject.folder
    now = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    return RunFolder(make_new_folder(Path(config.output_dir) / "evaluations" / now))


def _names(contenders: Sequence[Contender], settings: EvaluationConfig) -> list[str]:
    """All models, in the order in which they are measured."""
    few_shot = [few_shot_name(settings.few_shot)] if settings.few_shot else []
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
    typed = {override.partition("=")[0].rpartition(".")[2] for override in overrides if "evaluation." in override}
    changed = {key: value for key, value in given.items() if key in typed or value != usual[key]}
    merged: dict[str, Any] = to_plain(run.evaluation) | changed
    merged["sets"] = (config if "sets" in changed else run).evaluation.sets
    return EvaluationConfig(**merged)


def _mark_read_later(config: EvaluateConfig, contenders: Sequence[Contender]) -> None:
    """Count as read what is read only after the unread-key audit, which comes before the weights."""
    if config.run is not None or config.runs:
        mark_read(config.evaluation, *to_plain(config.evaluation))
    run = contenders[0].subject.run
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
    if not settings.few_shot:
        return None
    positions: int | None = getattr(subject.architecture.get_text_config(), "max_position_embeddings", None)
    stage = open_stage(subject.run.data, prepared.tokenizer)
    return few_shot(stage, config.split.value, examples, settings.few_shot, settings.seed, positions)


def _measure(
    contenders: Sequence[Contender], bench: Bench, examples: Sequence[EvaluationExample], shots: FewShot | None
) -> dict[str, Measured]:
    """The base before any adapter, then each tuned model, in one pass each; of each the split and the extra sets."""
    first = contenders[0].subject
    models: dict[str, Measured] = {}
    if first.run.evaluation.base:
        models[BASE] = bench.measure_base(first, examples)
    if shots is not None:
        kept_examples = [example for example in shots.examples if example]
        [(split, measured)] = bench.measure_few_shot(first, kept_examples).items()
        kept = np.array([example is not None for example in shots.examples])
        name = few_shot_name(first.run.evaluation.few_shot)
        models[name] = {split: replace(measured, scores=[spread(each, kept) for each in measured.scores])}
    for contender in contenders:
        models[contender.name] = bench.measure_tuned(contender.subject, examples)
    return models


def _examples(prepared: Prepared, split: Split) -> Sequence[EvaluationExample]:
    data = prepared.data
    examples = data.test if split is Split.test else data.validation
    if not examples:
        raise DataError(f"split: expected examples to measure on, found none in {split.value!r}; choose another split.")
    return examples


def _compared(
    folder: Path, models: Mapping[str, Measured], reference: str, first: str, left_out: Mapping[str, Sequence[str]]
) -> tuple[dict[str, dict[str, Any]], list[RenderableType]]:
    """Everything of all models, part by part (split, extra sets, harness): for summary.json, and as tables.

    Writes the completions of each part into `folder`. `left_out`: part → what its table says below.
    """
    found, tables, warnings = dict[str, dict[str, Any]](), list[RenderableType](), dict[str, str]()
    for part in models[first]:
        on_it = {model: measured[part] for model, measured in models.items() if part in measured}
        _write_answers(folder, part, on_it)
        entries, table = _compare(part, on_it, reference, first, left_out.get(part, ()))
        found = {kind: found.get(kind, {}) | entries.get(kind, {}) for kind in [*found, *entries]}
        tables += [table] if part in SPLITS else [f"\n{part if part == HARNESS else f'extra set {part}'}", table]
        warnings |= {} if part in (*SPLITS, HARNESS) else regressions(part, found)
    return (found | {"warnings": warnings} if warnings else found), tables


def _write_answers(folder: Path, part: str, models: Mapping[str, SplitEvaluation]) -> None:
    """What the models wrote for a split or a set; what the harness asked and got."""
    if part == HARNESS:
        write_samples(folder / "harness.jsonl", {name: measured.samples for name, measured in models.items()})
    predictions = {name: measured.predictions for name, measured in models.items() if measured.predictions}
    if predictions:
        write_predictions(folder / predictions_name(part), predictions)


def _compare(
    split: str, models: Mapping[str, SplitEvaluation], reference: str, first: str, left_out: Sequence[str]
) -> tuple[dict[str, dict[str, Any]], RenderableType]:
    """What summary.json keeps of a split or a set, and the table; without the reference the first model is it."""
    reference = reference if reference in models else next(iter(models))
    compared = compare_models({name: measured.scores for name, measured in models.items()}, reference)
    found = results_of(split, models, compared, first)
    if set(models) == {TUNED} or (set(models) == {BASE, TUNED} and reference == BASE):
        return found, comparison_table(models[TUNED], models.get(BASE))
    return found, ModelsTable(models, compared, reference, left_out)


def _left_out(settings: EvaluationConfig, shots: FewShot | None) -> list[str]:
    """Prompts that have no room for worked examples, in a sentence."""
    if shots is None or not shots.num_left_out:
        return []
    name, count = few_shot_name(settings.few_shot), len(shots.examples)
    return [
        f"{name}: {shots.num_left_out:,} of {count:,} prompts are too long with the examples before them (or their "
        "response was cut) and were left out; it is compared on the others"
    ]


def _about(shots: FewShot, settings: EvaluationConfig) -> dict[str, Any]:
    """What summary.json says of the worked examples."""
    return {
        "count": settings.few_shot,
        "seed": settings.seed,
        "examples": shots.origins,
        "num_left_out": shots.num_left_out,
        "first_prompt": shots.first_prompt,
    }


def _places(contenders: Sequence[Contender]) -> dict[str, str]:
    return {each.name: str(each.place) for each in contenders}
