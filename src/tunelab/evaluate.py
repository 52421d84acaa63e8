"""Measures a base model and an adapter (or a fully tuned model) again, from what a run left on disk."""

import datetime
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from tunelab.audit import refuse_unread_keys
from tunelab.config import EvaluateConfig, EvaluationConfig, ReviewConfig, RunConfig, Split, mark_read, to_plain
from tunelab.data.preparing import report_table
from tunelab.data.records import EvaluationExample
from tunelab.errors import ConfigError, DataError
from tunelab.measuring import prove_shortcuts
from tunelab.model.adapter import CausalLM
from tunelab.model.virtual_tokens import num_virtual_tokens_of_folder
from tunelab.outcome import Measured, all_results, measure_all, show_results, show_warnings, write_all_predictions
from tunelab.preflight import Prepared, mark_evaluation, prepare
from tunelab.review.command import review
from tunelab.run import RunFolder, make_new_folder
from tunelab.subject import Subject, check_loading, load_base, load_tuned, open_subject
from tunelab.terminal import RunConsole, quiet_libraries

Examples = Mapping[str, Sequence[EvaluationExample]]  # of the split that is measured, by its name


def evaluate(
    config: EvaluateConfig, run: RunConfig | None, folder: RunFolder | None, overrides: Sequence[str]
) -> dict[str, float]:
    """Measure what `config` names; `run` and `folder` are those of `config.run`, where it is given.

    Writes predictions.jsonl (for other splits predictions-<split>.jsonl) and adds the metrics to summary.json.

    Raises:
        TunelabError: something is missing or does not fit.
    """
    quiet_libraries()
    settings = _settings(config, run, overrides)
    subject = open_subject(config, run, folder)
    subject = replace(subject, run=replace(subject.run, evaluation=settings))
    if config.pages and not (settings.base and settings.generate):
        raise ConfigError(
            "pages: expected completions of base and tuned to show, found evaluation.base or evaluation.generate off; "
            "set both to true, or leave pages out."
        )
    own = subject.folder if run and settings == run.evaluation else None
    target = own or _new_folder(config)  # a run's published figures are replaced by the same measurement only
    with closing(RunConsole(target.path / "run.log")) as console:
        place = subject.whole or subject.adapters[0]
        prepared = prepare(subject.run, num_virtual_tokens_of_folder(place))
        console.print(report_table(prepared.data.report))
        examples = _examples(prepared, config.split)
        _mark_read_later(config, subject)
        refuse_unread_keys(config, overrides)
        for each in prepared.sets:
            console.print(str(each))
        base, tuned = _measure(subject, prepared, {config.split.value: examples}, console)
        write_all_predictions(target.path, tuned, base)
        found = all_results(tuned, base)
        target.merge_results(found)
        show_results(console, tuned, base)
        show_warnings(console, found.get("warnings", {}))
        console.print(f"metrics      {target.path / 'summary.json'}", soft_wrap=True)
        if config.pages:
            review(ReviewConfig(run=str(target.path), split=config.split), ())
        return dict(found["metrics"])


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


def _mark_read_later(config: EvaluateConfig, subject: Subject) -> None:
    """Count as read what is read only after the unread-key audit, which comes before the weights."""
    if config.run is not None:
        mark_read(config.evaluation, *to_plain(config.evaluation))
    run = subject.run
    mark_evaluation(run.evaluation, measures=True)
    check_loading(subject)
    mark_read(run.model, "attention")
    mark_read(run.trainer, "micro_batch_tokens")


def _measure(subject: Subject, prepared: Prepared, examples: Examples, console: Console) -> tuple[Measured, Measured]:
    """Base, where it is asked for, and tuned; a fully tuned model is loaded after the base, an adapter put on it."""
    device, wants_base = prepared.device, subject.run.evaluation.base
    if subject.whole is not None:
        base = _measure_one(load_base(subject, device), subject, prepared, examples, console) if wants_base else {}
        tuned = load_tuned(subject, device, prepared.precision)
        return base, _measure_one(tuned, subject, prepared, examples, console)
    base_model = load_base(subject, device)
    measure = prove_shortcuts(subject.run, prepared, base_model, console)
    [(split, rows)] = examples.items()
    base = measure_all(measure, base_model, rows, split) if wants_base else {}  # before the adapter: some change it
    return base, measure_all(measure, load_tuned(subject, device, prepared.precision, base_model), rows, split)


def _measure_one(
    model: CausalLM, subject: Subject, prepared: Prepared, examples: Examples, console: Console
) -> Measured:
    [(split, rows)] = examples.items()
    return measure_all(prove_shortcuts(subject.run, prepared, model, console), model, rows, split)


def _examples(prepared: Prepared, split: Split) -> Sequence[EvaluationExample]:
    data = prepared.data
    examples = data.test if split is Split.test else data.validation
    if not examples:
        raise DataError(f"split: expected examples to measure on, found none in {split.value!r}; choose another split.")
    return examples


def _new_folder(config: EvaluateConfig) -> RunFolder:
    now = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    return RunFolder(make_new_folder(Path(config.output_dir) / "evaluations" / now))
