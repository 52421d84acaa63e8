"""Measures a base model and an adapter (or a fully tuned model) again, from what a run left on disk."""

import datetime
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from tunelab.audit import refuse_unread_keys
from tunelab.config import EvaluateConfig, EvaluationConfig, ReviewConfig, RunConfig, Split, mark_read, to_plain
from tunelab.data.preparing import report_table
from tunelab.data.records import EvaluationExample
from tunelab.errors import ConfigError, DataError
from tunelab.evaluation.evaluating import SplitEvaluation
from tunelab.evaluation.harness.results import write_samples
from tunelab.evaluation.harness.tasks import Tasks, load_tasks
from tunelab.evaluation.reporting import comparison_table, results, write_predictions
from tunelab.measuring import Measurement, prove_shortcuts
from tunelab.model.adapter import CausalLM
from tunelab.model.virtual_tokens import num_virtual_tokens_of_folder
from tunelab.preflight import Prepared, mark_evaluation, prepare
from tunelab.review.command import review
from tunelab.review.predictions import predictions_file
from tunelab.run import RunFolder, make_new_folder
from tunelab.subject import Subject, check_loading, load_base, load_tuned, open_subject
from tunelab.terminal import RunConsole, quiet_libraries

HARNESS = "harness"  # what stands for the split in the names of its metrics
_Measured = dict[str, SplitEvaluation]  # split, or HARNESS → what one model got


def evaluate(
    config: EvaluateConfig, run: RunConfig | None, folder: RunFolder | None, overrides: Sequence[str]
) -> dict[str, float]:
    """Measure what `config` names; `run` and `folder` are those of `config.run`, where it is given.

    Writes predictions.jsonl (for other splits predictions-<split>.jsonl), harness.jsonl, and adds the metrics to
    summary.json.

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
        tasks = load_tasks(config.harness, subject.template()) if config.harness.tasks else None
        refuse_unread_keys(config, overrides)
        wanted = _Wanted(config.split.value, examples, tasks)
        base, tuned = _measure(subject, prepared, wanted, console)
        models = {"base": base, "tuned": tuned} if base else {"tuned": tuned}
        predictions = {key: found[wanted.split].predictions for key, found in models.items()}
        if predictions["tuned"]:
            write_predictions(target.path / predictions_file(config.split), predictions)
        if tasks:
            write_samples(target.path / "harness.jsonl", {key: found[HARNESS].samples for key, found in models.items()})
        metrics: dict[str, float] = {}
        for name in tuned:
            before = base[name] if base else None
            found = results(name, tuned[name], before)
            target.merge_results(found)
            metrics |= found["metrics"]
            console.print(comparison_table(tuned[name], before))
        console.print(f"metrics      {target.path / 'summary.json'}", soft_wrap=True)
        if config.pages:
            review(ReviewConfig(run=str(target.path), split=config.split), ())
        return metrics


def _settings(config: EvaluateConfig, run: RunConfig | None, overrides: Sequence[str]) -> EvaluationConfig:
    """The run's own evaluation settings, with those changed that were typed, one by one or as a group."""
    if run is None:
        return config.evaluation
    given, usual = to_plain(config.evaluation), to_plain(EvaluationConfig())
    typed = {override.partition("=")[0].rpartition(".")[2] for override in overrides if "evaluation." in override}
    changed = {key: value for key, value in given.items() if key in typed or value != usual[key]}
    return EvaluationConfig(**{**to_plain(run.evaluation), **changed})


def _mark_read_later(config: EvaluateConfig, subject: Subject) -> None:
    """Count as read what is read only after the unread-key audit, which comes before the weights."""
    if config.run is not None:
        mark_read(config.evaluation, *to_plain(config.evaluation))
    run = subject.run
    mark_evaluation(run.evaluation, measures=True)
    check_loading(subject)
    mark_read(run.model, "attention")
    mark_read(run.trainer, "micro_batch_tokens")


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What each model is measured on."""

    split: str
    examples: Sequence[EvaluationExample]
    tasks: Tasks | None

    def of(self, model: CausalLM, measure: Measurement) -> _Measured:
        found = {self.split: measure(model, self.examples)}
        return found | ({HARNESS: measure.on_tasks(model, self.tasks)} if self.tasks else {})


def _measure(
    subject: Subject, prepared: Prepared, wanted: _Wanted, console: Console
) -> tuple[_Measured | None, _Measured]:
    """Base, where it is asked for, and tuned; a fully tuned model is loaded after the base, an adapter put on it."""
    device, wants_base = prepared.device, subject.run.evaluation.base
    if subject.whole is not None:
        base = _measure_one(load_base(subject, device), subject, prepared, wanted, console) if wants_base else None
        tuned = load_tuned(subject, device, prepared.precision)
        return base, _measure_one(tuned, subject, prepared, wanted, console)
    base_model = load_base(subject, device)
    measure = prove_shortcuts(subject.run, prepared, base_model, console)
    base = wanted.of(base_model, measure) if wants_base else None  # before the adapter: some change the base
    return base, wanted.of(load_tuned(subject, device, prepared.precision, base_model), measure)


def _measure_one(model: CausalLM, subject: Subject, prepared: Prepared, wanted: _Wanted, console: Console) -> _Measured:
    return wanted.of(model, prove_shortcuts(subject.run, prepared, model, console))


def _examples(prepared: Prepared, split: Split) -> Sequence[EvaluationExample]:
    data = prepared.data
    examples = data.test if split is Split.test else data.validation
    if not examples:
        raise DataError(f"split: expected examples to measure on, found none in {split.value!r}; choose another split.")
    return examples


def _new_folder(config: EvaluateConfig) -> RunFolder:
    now = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    return RunFolder(make_new_folder(Path(config.output_dir) / "evaluations" / now))
