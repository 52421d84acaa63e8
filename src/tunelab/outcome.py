"""What the models of a run are measured to be, on the test split and the extra sets: kept, shown, and warned of."""

from collections.abc import Mapping, Sequence
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
Measured = Mapping[str, SplitEvaluation]  # by split, or name of an extra set


def measure_all(measure: Measurement, model: CausalLM, test: Sequence[EvaluationExample]) -> dict[str, SplitEvaluation]:
    """`model` on the test split, where it has examples, and on every extra set."""
    on_test = {TEST: measure(model, test)} if test else {}
    return on_test | measure.on_sets(model)


def keep_results(folder: RunFolder, tuned: Measured, base: Measured) -> None:
    """Add what was found to the summary, and write the completions of both models, a file for each split or set."""
    for name in tuned or base:
        _add(folder, results(name, tuned.get(name), base.get(name)))
        if name in tuned and tuned[name].predictions:
            models = {"base": base.get(name), "tuned": tuned[name]}
            written = {model: each.predictions for model, each in models.items() if each}
            write_predictions(folder.path / predictions_name(name), written)


def predictions_name(name: str) -> str:
    """The file that holds the completions of a split, or of an extra set."""
    return "predictions.jsonl" if name == TEST else f"predictions-{name}.jsonl"


def keep_warnings(folder: RunFolder, console: Console, names: Sequence[str]) -> None:
    """Say what went wrong while the run went well: what the summary has already, and what got worse on the sets."""
    summary = folder.summary
    found: dict[str, str] = dict(summary.facts.get("warnings", {}))
    for name in names:
        found |= regressions(name, {"metrics": summary.metrics, **summary.facts})
    summary.facts["warnings"] = found
    for sentence in found.values():
        console.print(f"warning: {sentence}")


def show_results(console: Console, tuned: Measured, base: Measured) -> None:
    """The tables base against tuned, of the extra sets with their names."""
    for name, each in tuned.items():
        if name != TEST:
            console.print(f"\nextra set {name}")
        console.print(comparison_table(each, base.get(name)))


def _add(folder: RunFolder, found: Mapping[str, Mapping[str, Any]]) -> None:
    """Add results to the summary: the metrics, and beside them intervals, counts and comparisons by the same keys."""
    summary = folder.summary
    summary.metrics |= found["metrics"]
    beside = {name: each for name, each in found.items() if name != "metrics"}
    summary.facts |= {name: {**summary.facts.get(name, {}), **each} for name, each in beside.items()}
