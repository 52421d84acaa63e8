"""What evaluation shows and keeps: the table base against tuned, sample completions, predictions.jsonl."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tunelab.atomic import write_text
from tunelab.escaping import printable
from tunelab.evaluation.comparing import Comparison, Duel
from tunelab.evaluation.evaluating import Prediction, SplitEvaluation
from tunelab.evaluation.metrics import Metric
from tunelab.evaluation.scores import Estimate
from tunelab.evaluation.statistics import CONFIDENCE, LEVEL, Interval, Verdict

BASE, TUNED = "base", "tuned"  # what the base is called, and the tuned model where there is one
NOT_MEASURED = "–"
LARGE = 10_000  # from here on numbers are shown with three significant digits
_COLOURS = {Verdict.BETTER: "green", Verdict.WORSE: "red", Verdict.NOT_DISTINGUISHABLE: "dim"}
_CONFIDENCE = f"[…]: {CONFIDENCE:.0%} interval"


def results(
    split: str,
    models: Mapping[str, SplitEvaluation],
    compared: Mapping[Duel, Mapping[str, Comparison]],
    first: str,
) -> dict[str, dict[str, Any]]:
    """What summary.json keeps of a split, map by map: `metrics`, `intervals`, `counts`, `not_applicable`, …

    The keys of all of them are `<split>/<metric>` for the `first` model, with `<model>/` before it for each other one.
    `comparisons` with the base have the keys of the model, others `<model>-vs-<with which>/<split>/<metric>`. `counts`
    are examples. An empty map is left out, except for `metrics`.
    """
    found: dict[str, dict[str, Any]] = {"metrics": {}}
    for model, measured in models.items():
        prefix = key_prefix(model, split, first)
        for name, entries in _entries(measured).items():
            found.setdefault(name, {}).update({f"{prefix}/{key}": value for key, value in entries.items()})
    for (model, other), comparisons in compared.items():
        prefix = key_prefix(model, split, first) if other == BASE else f"{model}-vs-{other}/{split}"
        entries = {f"{prefix}/{name}": each.to_dict() for name, each in comparisons.items()}
        found.setdefault("comparisons", {}).update(entries)
    return {name: entries for name, entries in found.items() if entries or name == "metrics"}


def key_prefix(model: str, split: str, first: str) -> str:
    """What the keys of a model begin with."""
    return split if model == first else f"{model}/{split}"


def comparison_table(
    tuned: SplitEvaluation, base: SplitEvaluation | None, compared: Mapping[str, Comparison]
) -> RenderableType:
    """Base against tuned on one split, a metric a row: values, the change (of `compared`), and a verdict in words.

    Tuned and change are with their intervals; those of the base are in summary.json. Without `base`: what the tuned
    model has, alone. What only one model has shows as `–` for the other.
    """
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), caption_justify="left")
    table.caption = _caption(tuned, compared if base is not None else None)
    for name in ["metric", "base", "tuned", "change", "verdict"] if base is not None else ["metric", "tuned"]:
        is_words = name in ("metric", "verdict")
        table.add_column(name, justify="left" if is_words else "right")
    for metric in _rows(tuned, base):
        change, after = compared.get(metric.name), value_cell(metric, tuned.estimates.get(metric.name))
        if base is None:
            table.add_row(Text(label(metric)), after)
        else:
            # A line holds two intervals.
            before = value_cell(metric, base.estimates.get(metric.name), with_interval=False)
            table.add_row(Text(label(metric)), before, after, change_cell(metric, change), verdict_cell(change))
    reasons = [f"{name}: not applicable, {reason}" for name, reason in tuned.not_applicable.items()]
    return Group(table, *(Text(printable(reason)) for reason in reasons))


def sample_completions(
    predictions: Sequence[Prediction], max_characters: int = 400, with_prompts: bool = True
) -> RenderableType:
    """Some completions beside their references, to print on a rich console (which honours NO_COLOR).

    Each text is cut to `max_characters`, a prompt at its start and the others at their end. Nothing in them
    acts on the terminal: markup is text, control characters are shown escaped. Without `with_prompts` the origin of the
    row stands for the prompt.
    """
    return Group(*(_sample(prediction, max_characters, with_prompts) for prediction in predictions))


def write_predictions(path: Path, predictions: Mapping[str, Sequence[Prediction]]) -> None:
    """Write one JSON object a line for each (example, model): `id`, `model` and the fields of `Prediction`.

    `predictions`: model name ("base", "tuned") → its predictions. The models of one example follow each other
    where all have the same examples. A lone surrogate, which UTF-8 cannot hold, is a JSON escape.
    """
    lines = [(index, model, row) for model, rows in predictions.items() for index, row in enumerate(rows)]
    lines.sort(key=lambda line: line[0])  # stable: models keep their order
    write_text(path, "".join(_line(model, row) for _, model, row in lines))


def _line(model: str, prediction: Prediction) -> str:
    fields = prediction.to_dict()
    return json.dumps({"id": fields.pop("id"), "model": model, **fields}, ensure_ascii=False, allow_nan=False) + "\n"


def _entries(measured: SplitEvaluation) -> dict[str, dict[str, Any]]:
    estimates = measured.estimates
    return {
        "metrics": measured.metrics,
        "intervals": {name: list(each.interval) for name, each in estimates.items() if each.interval},
        "counts": {name: each.count for name, each in estimates.items()},
        "not_applicable": measured.not_applicable,
        "signatures": measured.signatures,
        "reliability": measured.tables,
    }


def _rows(tuned: SplitEvaluation, base: SplitEvaluation | None) -> list[Metric]:
    """The metrics that either has, in the order of the tuned model's."""
    rows = {each.name: each.metric for each in (*tuned.scores, *(base.scores if base else ()))}
    known = {**tuned.estimates, **(base.estimates if base else {})}
    return [metric for name, metric in rows.items() if name in known]


def label(metric: Metric) -> str:
    """What a metric is called in a table, with its unit."""
    return printable(metric.label) + metric.unit.symbol


def _caption(tuned: SplitEvaluation, compared: Mapping[str, Comparison] | None) -> Text:
    lines = [counts_line(tuned)]
    if compared is not None:
        lines.append(f"verdict: paired tests, Holm's adjustment over the metrics, level {LEVEL}")
        lines += too_few_lines(compared.values())
    return Text("\n".join([*lines, *fewer_lines(tuned)]), style="dim")


def counts_line(measured: SplitEvaluation) -> str:
    """What the figures of a split are over, and what brackets mean."""
    examples, tokens = (int(measured.metrics.get(key, 0)) for key in ("num_examples", "num_supervised_tokens"))
    supervised = f", {tokens:,} supervised tokens" if "num_supervised_tokens" in measured.metrics else ""
    return f"{examples:,} examples{supervised}; {_CONFIDENCE}"


def too_few_lines(comparisons: Iterable[Comparison]) -> list[str]:
    """Say so where no difference, however large, could be called one: both exact tests end at p = 2/2ⁿ."""
    counts = [each.count for each in comparisons if each.p_value_holm is not None]
    if not counts or 2 * len(counts) / 2 ** max(counts) < LEVEL:
        return []
    needed = math.floor(math.log2(2 * len(counts) / LEVEL)) + 1
    return [
        f"{max(counts)} examples are too few for a verdict, however large the change: over {len(counts)} comparisons "
        f"it takes {needed}"
    ]


def fewer_lines(measured: SplitEvaluation) -> list[str]:
    """The metrics that are over fewer examples than the split has, and why there are fewer completions."""
    fewer: dict[int, list[str]] = {}
    for each in measured.scores:
        if 0 < each.count < measured.metrics.get("num_examples", 0) and "/" not in each.name:
            fewer.setdefault(each.count, []).append(each.metric.label)
    left_out = int(measured.metrics.get("num_not_completed", 0))
    reason = f"{left_out:,} examples were not completed: they have no prompt, or one that fills every position"
    lines = [f"over {count:,} examples: {', '.join(labels)}" for count, labels in fewer.items()]
    return [*lines, *([reason] if left_out else [])]


def value_cell(metric: Metric, estimate: Estimate | None, with_interval: bool = True) -> Text:
    """A value with its interval."""
    if estimate is None:
        return Text(NOT_MEASURED)
    text = _with_interval(metric, estimate.value, estimate.interval, "")
    return text if with_interval else Text(text.plain.partition(" [")[0])


def change_cell(metric: Metric, change: Comparison | None) -> Text:
    """A change, signed, with its interval."""
    if change is None or not math.isfinite(change.change):
        return Text(NOT_MEASURED)
    return _with_interval(metric, change.change, change.interval, "+")


def verdict_cell(change: Comparison | None) -> Text:
    """A verdict in words."""
    verdict = change.verdict if change else None
    return Text(NOT_MEASURED) if verdict is None else Text(verdict.value, style=_COLOURS[verdict])


def _with_interval(metric: Metric, value: float, interval: Interval | None, sign: str) -> Text:
    """Value and interval: fractions and points with one decimal, others as finely as the interval allows."""
    bounds = [bound * metric.unit.scale for bound in interval or ()]
    spread = 1.0 if metric.unit.high in (1, 100) else bounds[1] - bounds[0] if bounds else 0.0
    text = Text(spell(value * metric.unit.scale, spread, sign))
    if bounds:
        low, high = (spell(bound, spread) for bound in bounds)
        text.append(f" [{low}, {high}]", style="dim")
    return text


def spell(value: float, spread: float, sign: str = "") -> str:
    """Write a number in units of at most a third of `spread`, with 4 decimals at most; from 10,000 on as 1.23e+04.

    Without a spread (0, or no number): to its third digit.
    """
    if not math.isfinite(value):
        return f"{value:{sign}}"
    if abs(value) >= LARGE:
        return f"{value:{sign}.2e}"
    if 0 < spread < math.inf:
        decimals = -math.floor(math.log10(spread / 3))
    else:
        decimals = 2 - math.floor(math.log10(abs(value) or 1))
    rounded = round(value, max(0, min(4, decimals))) + 0.0  # no -0.0
    return f"{rounded:{sign},.{max(0, min(4, decimals))}f}"


def _sample(prediction: Prediction, max_characters: int, with_prompt: bool) -> RenderableType:
    right = bool(prediction.scores.get("exact_match"))
    prompt, reference, completion = (
        printable(text) for text in (prediction.prompt, prediction.reference, prediction.completion)
    )
    kept = completion[:max_characters] + "…" * (len(completion) > max_characters)
    grid = Table.grid(padding=(0, 1))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    shown = "…" * (len(prompt) > max_characters) + prompt[-max_characters:] if with_prompt else printable(prediction.id)
    grid.add_row("prompt", Text(shown, style="dim"))
    grid.add_row("reference", Text(reference[:max_characters] + "…" * (len(reference) > max_characters)))
    grid.add_row("completion", Text(kept or "(empty)", style="green" if right else "yellow"))
    if not prediction.finished:
        grid.add_row("", Text("(cut off: no end token)", style="red"))
    return Group(grid, Text())
