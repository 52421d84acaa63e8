"""What models are measured to be, on a split, the extra sets and tasks: compared, kept, shown, and warned of."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType

from tunelab.data.records import EvaluationExample
from tunelab.evaluation.comparing import compare_models
from tunelab.evaluation.evaluating import SplitEvaluation
from tunelab.evaluation.harness.results import write_documents
from tunelab.evaluation.regressions import regressions
from tunelab.evaluation.reporting import BASE, TUNED, comparison_table, results, write_predictions
from tunelab.evaluation.side_by_side import ModelsTable
from tunelab.measuring import Measurement
from tunelab.model.adapter import CausalLM
from tunelab.review.predictions import predictions_file
from tunelab.run import RunFolder

TEST = "test"
SPLITS = (TEST, "validation")
HARNESS = "harness"  # what stands for the split in the names of the metrics of lm-evaluation-harness
Measured = Mapping[str, SplitEvaluation]  # by split, or name of an extra set, or HARNESS
Found = dict[str, dict[str, Any]]  # what summary.json keeps, map by map


def measure_all(
    measure: Measurement, model: CausalLM, examples: Sequence[EvaluationExample], split: str = TEST
) -> dict[str, SplitEvaluation]:
    """`model` on the examples of the split, where it has some, and on every extra set."""
    return {name: on(model, rows) for name, (on, rows) in measure.parts(split, examples).items()}


def compare_all(
    models: Mapping[str, Measured], reference: str, first: str, left_out: Mapping[str, Sequence[str]] | None = None
) -> tuple[Found, list[RenderableType]]:
    """Everything of all models, part by part (split, extra sets, harness): for summary.json, and as tables.

    The first of the tuned models has the bare keys, and the parts. `left_out`: part → what its table says below.
    """
    found, tables, warnings = Found(), list[RenderableType](), dict[str, str]()
    for part in models[first]:
        on_it = {model: measured[part] for model, measured in models.items() if part in measured}
        entries, table = _compare(part, on_it, reference, first, (left_out or {}).get(part, ()))
        found = {kind: found.get(kind, {}) | entries.get(kind, {}) for kind in [*found, *entries]}
        if part in SPLITS:
            tables.append(table)
        elif part == HARNESS:
            tables += [f"\n{part}", table]
        else:
            tables += [f"\nextra set {part}", table]
            for model in on_it:
                warnings |= regressions(part, found, model, first)
    return (found | {"warnings": warnings} if warnings else found), tables


def _compare(
    part: str, models: Mapping[str, SplitEvaluation], reference: str, first: str, left_out: Sequence[str]
) -> tuple[Found, RenderableType]:
    """The same of one part; without the reference the first model is it."""
    reference = reference if reference in models else next(iter(models))
    compared = compare_models({name: measured.scores for name, measured in models.items()}, reference)
    found = results(part, models, compared, first)
    if set(models) == {TUNED} or (set(models) == {BASE, TUNED} and reference == BASE):
        return found, comparison_table(models[TUNED], models.get(BASE), compared.get((TUNED, BASE), {}))
    return found, ModelsTable(models, compared, reference, left_out)


def write_answers(folder: Path, models: Mapping[str, Measured]) -> None:
    """What the models wrote, a file for each split or set that has completions; what the harness asked and got."""
    for part in dict.fromkeys(part for measured in models.values() for part in measured):
        on_it = {name: measured[part] for name, measured in models.items() if part in measured}
        if part == HARNESS:
            write_documents(folder / "harness.jsonl", {name: each.documents for name, each in on_it.items()})
        predictions = {name: each.predictions for name, each in on_it.items() if each.predictions}
        if predictions:
            write_predictions(folder / predictions_file(part), predictions)


def keep(folder: RunFolder, found: Mapping[str, Mapping[str, Any]]) -> None:
    """Add results to the summary: the metrics, and beside them intervals, counts and comparisons by the same keys."""
    summary = folder.summary
    summary.metrics |= found["metrics"]
    beside = {name: each for name, each in found.items() if name != "metrics"}
    summary.facts |= {name: {**summary.facts.get(name, {}), **each} for name, each in beside.items()}


def show(console: Console, tables: Sequence[RenderableType], warnings: Mapping[str, str]) -> None:
    """The tables, and below them what went wrong although everything was done as asked."""
    for table in tables:
        console.print(table)
    for sentence in warnings.values():
        console.print(f"warning: {sentence}")
