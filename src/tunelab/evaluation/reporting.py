"""What evaluation shows and keeps: the table base against tuned, sample completions, predictions.jsonl."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tunelab.atomic import write_text
from tunelab.escaping import printable
from tunelab.evaluation.evaluating import Prediction

NOT_MEASURED = "–"


@dataclass(frozen=True, slots=True)
class _Measure:
    """One row of the table. `scale` 100 shows a fraction in per cent."""

    key: str
    label: str
    scale: float = 1.0
    higher_is_better: bool = True

    def show(self, value: float | None) -> str:
        return NOT_MEASURED if value is None else f"{value * self.scale:,.{self._digits}f}"

    def show_delta(self, base: float | None, tuned: float | None) -> Text:
        """The change, coloured by whether it is for the better; in per cent rows the unit is points."""
        if base is None or tuned is None:
            return Text(NOT_MEASURED)
        delta = tuned - base
        style = "" if not delta else "green" if (delta > 0) == self.higher_is_better else "red"
        return Text(f"{delta * self.scale:+,.{self._digits}f}", style=style)

    @property
    def _digits(self) -> int:
        return 1 if self.scale == 100 else 4


_MEASURES = (
    _Measure("loss", "loss (nats/token)", higher_is_better=False),
    _Measure("perplexity", "perplexity", higher_is_better=False),
    _Measure("token_accuracy", "token accuracy %", 100),
    _Measure("exact_match", "exact match %", 100),
    _Measure("json_valid", "valid JSON %", 100),
    _Measure("finished_fraction", "ended by itself %", 100),
    _Measure("field_f1", "field F1 % (micro)", 100),
)


def comparison_table(tuned: Mapping[str, float], base: Mapping[str, float] | None = None) -> Table:
    """Base against tuned on one split, a metric a row. Without `base`: what the tuned model has, alone.

    Metrics as `SplitEvaluation.metrics`. A row that neither model has is left out; a value that only one has
    shows as `–`.
    """
    examples, tokens = (int(tuned.get(key, 0)) for key in ("num_examples", "num_supervised_tokens"))
    table = Table(caption=f"{examples:,} examples, {tokens:,} supervised tokens")
    for name in ["metric", "base", "tuned", "change"] if base is not None else ["metric", "tuned"]:
        table.add_column(name, justify="left" if name == "metric" else "right")
    for measure in (*_MEASURES, *_field_measures({**tuned, **(base or {})})):
        before, after = (base or {}).get(measure.key), tuned.get(measure.key)
        if before is None and after is None:
            continue
        shown = [measure.show(before), measure.show(after), measure.show_delta(before, after)]
        table.add_row(Text(measure.label), *(shown if base is not None else shown[1:2]))
    return table


def sample_completions(predictions: Sequence[Prediction], max_characters: int = 400) -> RenderableType:
    """Some completions beside their references, to print on a rich console (which honours NO_COLOR).

    Each text is cut to `max_characters`, a prompt at its start and the others at their end. Nothing in them
    acts on the terminal: markup is text, control characters are shown escaped.
    """
    return Group(*(_sample(prediction, max_characters) for prediction in predictions))


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


def _field_measures(metrics: Mapping[str, float]) -> list[_Measure]:
    """A row for each `field_f1/<field>`, in the order of the metrics."""
    keys = [key for key in metrics if key.startswith("field_f1/")]
    return [_Measure(key, f"  {printable(key.removeprefix('field_f1/'))}", 100) for key in keys]


def _sample(prediction: Prediction, max_characters: int) -> RenderableType:
    right = bool(prediction.scores.get("exact_match"))
    prompt, reference, completion = (
        printable(text) for text in (prediction.prompt, prediction.reference, prediction.completion)
    )
    kept = completion[:max_characters] + "…" * (len(completion) > max_characters)
    grid = Table.grid(padding=(0, 1))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row("prompt", Text("…" * (len(prompt) > max_characters) + prompt[-max_characters:], style="dim"))
    grid.add_row("reference", Text(reference[:max_characters] + "…" * (len(reference) > max_characters)))
    grid.add_row("completion", Text(kept or "(empty)", style="green" if right else "yellow"))
    if not prediction.finished:
        grid.add_row("", Text("(cut off: no end token)", style="red"))
    return Group(grid, Text())
