"""Measures a base model and an adapter (or a fully tuned model) again, from what a run left on disk."""

import datetime
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

from rich.console import Console

from tunelab.audit import refuse_unread_keys
from tunelab.config import (
    EvaluateConfig,
    EvaluationConfig,
    ObjectiveConfig,
    Precision,
    RunConfig,
    Split,
    mark_read,
    to_plain,
)
from tunelab.data.preparing import report_table
from tunelab.data.records import EvaluationExample
from tunelab.errors import DataError, ModelError
from tunelab.evaluation.evaluating import SplitEvaluation
from tunelab.evaluation.reporting import comparison_table, results, write_predictions
from tunelab.measuring import prove_shortcuts
from tunelab.model.adapter import (
    CausalLM,
    is_adapter_folder,
    load_adapter,
    ready_for_adapter,
    skip_input_casts,
)
from tunelab.model.loading import load_base_model, tuned_as_base
from tunelab.model.matching import check_adapter
from tunelab.model.new_tokens import require_known_tokens
from tunelab.model.virtual_tokens import num_virtual_tokens_of_folder
from tunelab.preflight import Prepared, mark_evaluation, prepare
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
    settings = _settings(config, run, overrides)
    own = folder if folder and not config.adapter and run and settings == run.evaluation else None
    target = own or _new_folder(config)  # a run's published figures are replaced by the same measurement only
    quiet_libraries()
    with closing(RunConsole(target.path / "run.log")) as console:
        run = _as_here(run, config, settings) if run else _run_config(config)
        adapter = Path(config.adapter or folder.adapter) if folder else Path(config.adapter or "")
        if is_adapter_folder(adapter):
            check_adapter(adapter, run.model, config.other_base)
        prepared = prepare(run, num_virtual_tokens_of_folder(adapter))
        require_known_tokens(adapter, len(prepared.tokenizer))
        console.print(report_table(prepared.data.report))
        examples = _examples(prepared, config.split)
        base, tuned = _measure(
            run, prepared, adapter, examples, console, partial(refuse_unread_keys, config, overrides)
        )
        split = config.split.value
        name = "predictions.jsonl" if config.split is Split.test else f"predictions-{split}.jsonl"
        if tuned.predictions:
            models = {"base": base, "tuned": tuned} if base else {"tuned": tuned}
            write_predictions(target.path / name, {key: found.predictions for key, found in models.items()})
        found = results(split, tuned, base)
        target.merge_results(found)
        console.print(comparison_table(tuned, base))
        console.print(f"metrics      {target.path / 'summary.json'}", soft_wrap=True)
        return dict(found["metrics"])


def _settings(config: EvaluateConfig, run: RunConfig | None, overrides: Sequence[str]) -> EvaluationConfig:
    """The run's own evaluation settings, with those changed that were typed, one by one or as a group."""
    if run is None:
        return config.evaluation
    given, usual = to_plain(config.evaluation), to_plain(EvaluationConfig())
    typed = {override.partition("=")[0].rpartition(".")[2] for override in overrides if "evaluation." in override}
    changed = {key: value for key, value in given.items() if key in typed or value != usual[key]}
    return EvaluationConfig(**{**to_plain(run.evaluation), **changed})


def _as_here(run: RunConfig, config: EvaluateConfig, settings: EvaluationConfig) -> RunConfig:
    """The run on one device of this machine, whatever it was trained on."""
    mark_read(config.evaluation, *to_plain(config.evaluation))
    return replace(
        run, evaluation=settings, trainer=replace(run.trainer, devices=1, accelerator=config.trainer.accelerator)
    )


def _measure(
    run: RunConfig,
    prepared: Prepared,
    adapter: Path,
    examples: Sequence[EvaluationExample],
    console: Console,
    audit: Callable[[], None],
) -> tuple[SplitEvaluation | None, SplitEvaluation]:
    """Base, where it is asked for, and tuned; a fully tuned model is loaded after the base."""
    full = not is_adapter_folder(adapter)
    if full and not (adapter / "config.json").is_file():
        raise ModelError(f"adapter: expected a PEFT folder or a tuned model, found neither in {str(adapter)!r}.")
    mark_evaluation(run.evaluation, measures=True)
    mark_read(run.trainer, "micro_batch_tokens")
    audit()
    if full:
        base = None
        if run.evaluation.base:
            base = _measure_one(load_base_model(run.model, prepared.device), run, prepared, examples, console)
        tuned = load_base_model(tuned_as_base(run.model, adapter), prepared.device)
        return base, _measure_one(tuned, run, prepared, examples, console)
    base_model = ready_for_adapter(load_base_model(run.model, prepared.device))
    measure = prove_shortcuts(run, prepared, base_model, console)
    base = measure(base_model, examples) if run.evaluation.base else None  # before the adapter: some change the base
    model = load_adapter(base_model, adapter)
    if prepared.precision is not Precision.fp32:
        skip_input_casts(model)
    return base, measure(model, examples)


def _measure_one(
    model: CausalLM, run: RunConfig, prepared: Prepared, examples: Sequence[EvaluationExample], console: Console
) -> SplitEvaluation:
    return prove_shortcuts(run, prepared, model, console)(model, examples)


def _run_config(config: EvaluateConfig) -> RunConfig:
    return RunConfig(
        model=config.model,
        data=config.data,
        trainer=config.trainer,
        evaluation=config.evaluation,
        objective=ObjectiveConfig(),
    )


def _examples(prepared: Prepared, split: Split) -> Sequence[EvaluationExample]:
    data = prepared.data
    examples = data.test if split is Split.test else data.validation
    if not examples:
        raise DataError(f"split: expected examples to measure on, found none in {split.value!r}; choose another split.")
    return examples


def _new_folder(config: EvaluateConfig) -> RunFolder:
    now = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    return RunFolder(make_new_folder(Path(config.output_dir) / "evaluations" / now))
