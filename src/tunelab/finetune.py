"""One run from configuration to result: prepare, load, measure the base, train, export, measure again."""

from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import pytorch_lightning as pl
from rich.console import RenderableType
from transformers import PreTrainedModel

from tunelab.atomic import write_json, write_text
from tunelab.config import Precision, RunConfig
from tunelab.data.datamodule import SftDataModule
from tunelab.errors import TunelabError
from tunelab.evaluation.evaluating import Prediction
from tunelab.evaluation.generating import can_be_completed
from tunelab.evaluation.reporting import BASE, TUNED, results, sample_completions
from tunelab.export.card import run_card, run_record
from tunelab.measuring import Measurement, prove_shortcuts
from tunelab.model.adapter import CausalLM
from tunelab.model.budget import settle_ranks
from tunelab.model.generation import base_generation_config, taught_generation
from tunelab.model.initializing import as_plain_lora
from tunelab.model.locating import written_path
from tunelab.model.origin import RECORD
from tunelab.model.saving import export_model
from tunelab.model.tokenizer import pad_token_id
from tunelab.outcome import TEST, Measured, compare_all, keep, measure_all, show, write_answers
from tunelab.run import RunFolder, recorded
from tunelab.run_model import attach, load_base
from tunelab.session import Session, open_loggers, open_session
from tunelab.sharing import Shared, SharedBase, observe_base
from tunelab.terminal import ProgressReporter, RunConsole, closing_lines, config_tree, quiet_libraries
from tunelab.training.callbacks import (
    OrderlyStop,
    QuietEarlyStopping,
    RunCheckpoint,
    ValidateAtEnd,
)
from tunelab.training.checkpoint import BEST, read_checkpoint
from tunelab.training.figures import MetricsWriter, Samples
from tunelab.training.launcher import process_rank
from tunelab.training.loggers import Loggers, log_result, log_samples
from tunelab.training.module import MEASURED_WEIGHTS, CausalLMModule, StepSettings
from tunelab.training.monitoring import OF_THE_LOSS
from tunelab.training.overfitting import read_overfitting
from tunelab.training.trainer import build_trainer


def fine_tune(
    config: RunConfig,
    folder: RunFolder,
    overrides: Sequence[str],
    resuming: bool = False,
    shared: Shared | None = None,
) -> dict[str, float]:
    """Run everything `config` asks for and leave the result in `folder`; return the final metrics.

    `shared` is what other runs of a sweep have done already; it changes no result.

    Raises:
        TunelabError: the run cannot be done as asked, or training diverged; summary.json says why.
        Interrupted: a signal came; the run can be resumed.
    """
    is_main = process_rank() == 0
    quiet_libraries()
    log = closing(RunConsole(folder.path / "run.log", quiet=not is_main))
    with log as console, recorded(folder, config, console.print, is_main):
        console.print(config_tree(config))
        with folder.stage("prepare"):
            session = open_session(config, folder, overrides, console, resuming)
            loggers = open_loggers(session)
        with folder.stage("load"):
            base_model = load_base(session, shared)
            measure = prove_shortcuts(config, session.prepared, base_model, console)
        if is_main:
            folder.write_json("doctor.json", measure.diagnosis.to_dict())
        base = _measure_base(session, base_model, measure, shared)  # before an adapter may change it
        model = attach(session, base_model)
        with folder.stage("train"):
            best_step = _train(session, model, measure, loggers)
        if not is_main:
            return {}
        return _conclude(session, model, measure, loggers, base, best_step)


def _measure_base(session: Session, model: PreTrainedModel, measure: Measurement, shared: Shared | None) -> Measured:
    if not (session.config.evaluation.base and session.is_main and session.prepared.is_measured):
        return {}
    status = session.console.status("measuring the base model")
    parts = measure.parts(TEST, session.prepared.data.test)
    with session.folder.stage("evaluate_base"), status:
        seen = {
            name: observe_base(shared, session, *part, model) if shared else SharedBase()
            for name, part in parts.items()
        }
        base = {name: on(model, examples, seen[name].observations) for name, (on, examples) in parts.items()}
    measured_by = next((each.measured_by for each in seen.values() if each.measured_by), None)
    if measured_by:
        session.folder.summary.facts["base_measured_by"] = measured_by
        session.console.print(f"the base model was measured by {measured_by}, on the same data in the same way")
    for name, measured in base.items():
        keep(session.folder, results(name, {BASE: measured}, {}, first=TUNED))
    return base


def _train(session: Session, model: CausalLM, measure: Measurement, loggers: Loggers) -> int | None:
    """Train, leave the best weights in `model`, and return the step they are from."""
    config, prepared, plan, folder = session.config, session.prepared, session.plan, session.folder
    settings = StepSettings(
        config.optim,
        peak_lr=plan.peak_lr,
        total_steps=plan.steps.total_steps,
        seed=config.seed,
        padded=measure.padded,
        pad_token_id=pad_token_id(prepared.tokenizer),
        scaled_gradients=prepared.precision is Precision.fp16,
    )
    scores = partial(_score_answers, session, measure, model)
    budget = config.trainer.micro_batch_tokens
    module = CausalLMModule(model, measure.objective, settings, budget, scores, plan.scores_at)
    every = config.trainer.checkpoint_every_steps
    checkpoint = RunCheckpoint(folder.checkpoints, every, plan.validates_at, plan.monitor)
    with ProgressReporter(session.console, plan.steps.total_steps) as progress:
        trainer = build_trainer(
            config.trainer,
            prepared.device,
            prepared.precision,
            val_every_steps=plan.val_every_steps,
            callbacks=_callbacks(session, measure, model, checkpoint, progress),
            loggers=list(loggers.values()),
            folder=str(folder.path),
        )
        data = SftDataModule(prepared.data.train, prepared.data.validation.tokenized, plan.steps)
        trainer.fit(module, data, ckpt_path=str(session.resume_point.path) if session.resume_point else None)
    folder.summary.facts["num_steps"] = trainer.global_step
    if trainer.global_step < plan.steps.total_steps:
        patience = config.trainer.early_stopping_patience
        session.console.print(
            f"stopped early at step {trainer.global_step} of {plan.steps.total_steps}: "
            f"no better {plan.monitor.name} in {patience} validations"
        )
    if plan.val_every_steps is None:
        module.end_at_averages()
        return None
    _say_how_it_went(session, checkpoint)
    best = read_checkpoint(folder.checkpoints / BEST)
    module.load_state_dict(best.get(MEASURED_WEIGHTS, best["state_dict"]), strict=False)
    return checkpoint.best_step


def _say_how_it_went(session: Session, checkpoint: RunCheckpoint) -> None:
    """Into the summary: the monitored figure at its best, and whether the run overfitted."""
    facts = session.folder.summary.facts
    facts["best"] = {"metric": session.plan.monitor.name, "value": checkpoint.best_value, "step": checkpoint.best_step}
    overfitting = read_overfitting(session.folder.path / "metrics.jsonl") if session.is_main else None
    if overfitting is not None:
        facts["overfitting"] = overfitting.to_dict()
        if warning := overfitting.warning(checkpoint.best_step):
            facts["warnings"] = {"overfitting": warning}


def _score_answers(session: Session, measure: Measurement, model: CausalLM, step: int) -> dict[str, float]:
    """The figures of answers at the validation of `step`."""
    examples = session.prepared.data.validation
    places = session.plan.scoring.places if session.plan.scoring else ()
    figures = measure.answer_figures(model, [examples[place] for place in places])
    monitored = session.plan.monitor.name
    if monitored not in OF_THE_LOSS and monitored.removeprefix("val/") not in figures:
        raise TunelabError(
            f"trainer.monitor: expected a value of {monitored} at step {step}, found none: no prompt of the scored "
            "examples leaves room for an answer; lower data.max_length, or set trainer.monitor=val/loss."
        )
    return figures


def _callbacks(
    session: Session,
    measure: Measurement,
    model: CausalLM,
    checkpoint: RunCheckpoint,
    progress: ProgressReporter,
) -> list[pl.Callback]:
    """In the order they act: figures first, then early stopping (whose state a checkpoint holds), then saving."""
    config, plan, folder = session.config, session.plan, session.folder
    total = plan.steps.total_steps
    callbacks: list[pl.Callback] = [
        MetricsWriter(folder.path / "metrics.jsonl", config.trainer.log_every_steps, total, progress),
        ValidateAtEnd(total),
    ]
    if plan.val_every_steps is not None:
        if config.trainer.early_stopping_patience is not None:
            callbacks.append(QuietEarlyStopping(config.trainer.early_stopping_patience, plan.monitor))
        if config.trainer.num_sample_completions:
            callbacks.append(Samples(folder.path / "samples.jsonl", partial(_show_samples, session, measure, model)))
    return [*callbacks, checkpoint, OrderlyStop(checkpoint, plan.validates_at)]


def _show_samples(
    session: Session, measure: Measurement, model: CausalLM, trainer: pl.Trainer, step: int, is_first: bool
) -> list[Prediction]:
    """Complete a few validation prompts; to the terminal (the prompts once) and to TensorBoard."""
    samples = session.prepared.data.validation[: session.config.trainer.num_sample_completions]
    examples = [example for example in samples if can_be_completed(model, example.prompt_ids)]
    predictions = measure.predict(model, examples)
    session.console.print(sample_completions(predictions, with_prompts=is_first))
    log_samples(trainer.loggers, predictions, step)
    return predictions


def _conclude(
    session: Session,
    model: CausalLM,
    measure: Measurement,
    loggers: Loggers,
    base: Measured,
    best_step: int | None,
) -> dict[str, float]:
    """Export, measure the tuned model, and show and save the comparison."""
    config, prepared, folder, console = session.config, session.prepared, session.folder, session.console
    model.eval()
    settle_ranks(model)
    as_plain_lora(model)
    with folder.stage("export"):
        add = partial(_describe, session, measure.ends)
        base_path, revision = written_path(config.model.path), config.model.revision
        export_model(model, prepared.tokenizer, base_path, folder.adapter, add, revision)
    folder.summary.facts["best_step"] = best_step
    tables: list[RenderableType] = []
    if prepared.is_measured:
        with folder.stage("evaluate_tuned"), console.status("measuring the tuned model"):
            tuned = measure_all(measure, model, prepared.data.test)
        models = ({BASE: base} if base else {}) | {TUNED: tuned}
        found, tables = compare_all(models, reference=next(iter(models)), first=TUNED)
        keep(folder, found)
        write_answers(folder.path, models)
        write_text(folder.adapter / "README.md", run_card(config, prepared.data.report.template, folder))
    show(console, tables, folder.summary.facts.setdefault("warnings", {}))
    log_result(list(loggers.values()), session.hyperparameters(), folder.summary.metrics, session.overrides)
    console.print(closing_lines(folder.path, folder.adapter), soft_wrap=True)  # lines to be copied
    return dict(folder.summary.metrics)


def _describe(session: Session, ends: Sequence[int], staging: Path) -> None:
    """Put the end tokens and the model card beside the exported weights."""
    config, prepared = session.config, session.prepared
    settings = taught_generation(base_generation_config(config.model), ends, prepared.tokenizer)
    settings.save_pretrained(str(staging))
    tokens = [str(prepared.tokenizer.convert_ids_to_tokens(each)) for each in ends]
    record = run_record(config, prepared.data.report.template, tokens, prepared.quantization)
    write_json(staging / RECORD, record)
    write_text(staging / "README.md", run_card(config, prepared.data.report.template, session.folder, staging))
