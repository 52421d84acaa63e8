"""What the models of a run are measured to be, on the test split and the extra sets: kept, shown, and warned of."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from tunelab.data.records import EvaluationExample
from tunelab.evaluation.evaluating import SplitEvaluation
from tunelab.evaluation.regressions import regressions
from tunelab.evaluation.reporting import comparison_table, results, write_predictions
from tunelab.measuring import Measurement
from tunelab.model.adapter import CausalLM
from tunelab.run import RunFolder

TEST = "test"
SPLITS = (TEST, "validation")
HARNESS = "harness"  # what stands for the split in the names of the metrics of lm-evaluation-harness
Measured = Mapping[str, SplitEvaluation]  # by split, or name of an extra set, or HARNESS


def measure_all(
    measure: Measurement, model: CausalLM, examples: Sequence[EvaluationExample], split: str = TEST
) -> dict[str, SplitEvaluation]:
    """`model` on the examples of the split, where it has some, and on every extra set."""
    return {name: on(model, rows) for name, (on, rows) in measure.parts(split, examples).items()}


def all_results(tuned: Measured, base: Measured) -> dict[str, dict[str, Any]]:
    """What summary.json keeps of all of them, map by map as in `results`, with `warnings` of what got worse on sets."""
    found: dict[str, dict[str, Any]] = {"metrics": {}}
    for name in tuned or base:
        for kind, entries in results(name, tuned.get(name), base.get(name)).items():
            found.setdefault(kind, {}).update(entries)
    warnings: dict[str, str] = {}
    for name in tuned:
        warnings |= {} if name in SPLITS else regressions(name, found)
    return {**found, "warnings": warnings} if warnings else found


def write_all_predictions(folder: Path, tuned: Measured, base: Measured) -> None:
    """The completions of both models, a file for each split or set that has some."""
    for name in tuned:
        models = {"base": base.get(name), "tuned": tuned[name]}
        written = {model: each.predictions for model, each in models.items() if each and each.predictions}
        if written:
            write_predictions(folder / predictions_name(name), written)


def keep(folder: RunFolder, found: Mapping[str, Mapping[str, Any]]) -> None:
    """Add results to the summary: the metrics, and beside them intervals, counts and comparisons by the same keys."""
    summary = folder.summary
    summary.metrics |= found["metrics"]
    beside = {name: each for name, each in found.items() if name != "metrics"}
    summary.facts |= {name: {**summary.facts.get(name, {}), **each} for name, each in beside.items()}


def predictions_name(name: str) -> str:
    """The file that holds the completions of a split, or of an extra set."""
    return "predictions.jsonl" if name == TEST else f"predictions-{name}.jsonl"


def show_results(console: Console, tuned: Measured, base: Measured) -> None:
    """The tables base against tuned, those of extra sets under their names."""
    for name, each in tuned.items():
        if name not in SPLITS:
            console.print(f"\nextra set {name}")
        console.print(comparison_table(each, base.get(name)))


def show_warnings(console: Console, warnings: Mapping[str, str]) -> None:
    """What went wrong although everything was done as asked."""
    for sentence in warnings.values():
        console.print(f"warning: {sentence}")
