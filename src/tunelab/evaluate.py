"""Measures a base model and an adapter (or a fully tuned model) again, from what a run left on disk."""

import datetime
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from rich.console import Console

from tunelab.audit import refuse_unread_keys
from tunelab.config import EvaluateConfig, ObjectiveConfig, RunConfig, Split
from tunelab.data.preparing import report_table
from tunelab.data.records import EvaluationExample
from tunelab.errors import DataError, ModelError
from tunelab.evaluation.evaluating import SplitEvaluation
from tunelab.evaluation.reporting import comparison_table, write_predictions
from tunelab.measuring import prove_shortcuts
from tunelab.model.adapter import (
    CausalLM,
    adapter_disabled,
    is_adapter_folder,
    load_adapter,
    skip_input_casts,
)
from tunelab.model.loading import load_base_model
from tunelab.preflight import Prepared, prepare
from tunelab.run import RunFolder, make_new_folder
from tunelab.terminal import RunConsole, quiet_libraries


def evaluate(
    config: EvaluateConfig, run: RunConfig | None, folder: RunFolder | None, overrides: Sequence[str]
) -> dict[str, float]:
    """Measure what `config` names; `run` and `folder` are those of `config.run`, where it is given.

    Writes predictions.jsonl (for other splits predictions-<split>.jsonl) and adds the metrics to summary.json.

    Raises:
        TunelabError: something is missing or does not fit.
    """
    console = RunConsole(folder.path / "run.log" if folder else None)
    quiet_libraries()
    run = replace(run, evaluation=config.evaluation) if run else _run_config(config)
    adapter = Path(config.adapter or folder.adapter) if folder else Path(config.adapter or "")
    prepared = prepare(run)
    console.print(report_table(prepared.data.report))
    examples = _examples(prepared, config.split)
    base, tuned = _measure(run, prepared, adapter, examples, console, partial(refuse_unread_keys, config, overrides))
    target = folder or _new_folder(config)
    split = config.split.value
    name = "predictions.jsonl" if config.split is Split.test else f"predictions-{split}.jsonl"
    measured = {"base": base} if base else {}
    write_predictions(target.path / name, {k: m.predictions for k, m in {**measured, "tuned": tuned}.items()})
    metrics = {f"base/{split}/{key}": value for key, value in (base.metrics if base else {}).items()}
    metrics |= {f"{split}/{key}": value for key, value in tuned.metrics.items()}
    target.merge_metrics(metrics)
    console.print(comparison_table(tuned.metrics, base.metrics if base else None))
    console.print(f"predictions  {target.path / name}\nmetrics      {target.path / 'summary.json'}")
    return metrics


def _measure(
    run: RunConfig,
    prepared: Prepared,
    adapter: Path,
    examples: list[EvaluationExample],
    console: Console,
    audit: Callable[[], None],
) -> tuple[SplitEvaluation | None, SplitEvaluation]:
    """Base, where it is asked for, and tuned; a fully tuned model is loaded after the base."""
    full = not is_adapter_folder(adapter)
    if full and not (adapter / "config.json").is_file():
        raise ModelError(f"adapter: expected a PEFT folder or a tuned model, found neither in {str(adapter)!r}.")
    model: CausalLM = load_base_model(run.model, prepared.device)
    if not full:
        model = load_adapter(model, adapter)
        if prepared.precision.value != "fp32":
            skip_input_casts(model)
    measure = prove_shortcuts(run, prepared, model, console)
    audit()
    base = None
    if run.evaluation.base:
        with adapter_disabled(model):
            base = measure(model, examples)
    if full:
        model = load_base_model(replace(run.model, path=str(adapter), revision=None), prepared.device)
        measure = prove_shortcuts(run, prepared, model, console)
    return base, measure(model, examples)


def _run_config(config: EvaluateConfig) -> RunConfig:
    return RunConfig(
        model=config.model,
        data=config.data,
        trainer=config.trainer,
        evaluation=config.evaluation,
        objective=ObjectiveConfig(name="sft"),
    )


def _examples(prepared: Prepared, split: Split) -> list[EvaluationExample]:
    data = prepared.data
    examples = data.test if split is Split.test else data.validation
    if not examples:
        raise DataError(f"split: expected examples to measure on, found none in {split.value!r}; choose another split.")
    return examples


def _new_folder(config: EvaluateConfig) -> RunFolder:
    now = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    return RunFolder(make_new_folder(Path(config.output_dir) / "evaluations" / now))
