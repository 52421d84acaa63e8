"""The table of several models on one split: a column each where there is room, else a block for each metric."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from tunelab.escaping import printable
from tunelab.evaluation.comparing import Comparison, Duel
from tunelab.evaluation.evaluating import SplitEvaluation
from tunelab.evaluation.metrics import Metric
from tunelab.evaluation.reporting import (
    change_cell,
    counts_line,
    fewer_lines,
    label,
    too_few_lines,
    value_cell,
    verdict_cell,
)
from tunelab.evaluation.statistics import LEVEL

ENDLESS = 10_000  # columns: room for any table


@dataclass(frozen=True, slots=True)
class ModelsTable:
    """Values with intervals, and a verdict on each model but the `reference`.

    `compared`: (model, with which) → what `compare_models` found. `remarks` stand below. A column for each model, with
    verdicts under the values; where these are too wide for the console, models are rows, in a block for each metric,
    with the change against the reference.
    """

    models: Mapping[str, SplitEvaluation]
    compared: Mapping[Duel, Mapping[str, Comparison]]
    reference: str
    remarks: Sequence[str] = ()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        columns = self._columns()
        wanted = Measurement.get(console, options.update(max_width=ENDLESS), columns).maximum
        yield columns if wanted <= options.max_width else self._blocks()
        lines = [*self._remarks(), *self.remarks]
        yield Text("\n".join(printable(line) for line in lines), style="dim")

    def _columns(self) -> Table:
        table = _table("metric", *self.models)
        for metric in self._metrics():
            cells = [self._stacked(model, metric) for model in self.models]
            table.add_row(Text(label(metric)), *cells)
        return table

    def _stacked(self, model: str, metric: Metric) -> Text:
        value = value_cell(metric, self.models[model].estimates.get(metric.name))
        found = self._change(model, metric)
        verdict = verdict_cell(found) if found and found.verdict else Text()
        return Text("\n").join([value, verdict]) if verdict else value

    def _blocks(self) -> Table:
        table = _table("", "value", f"less {self.reference}", "verdict")
        for column, most in zip(table.columns, (20, None, None, len("distinguishable")), strict=True):
            column.max_width, column.overflow = most, "fold"  # 80 columns hold two intervals beside them
        for metric in self._metrics():
            table.add_row(Text(label(metric), style="bold"))
            for model, measured in self.models.items():
                found = self._change(model, metric)
                verdict = verdict_cell(found) if model != self.reference else Text("reference", style="dim")
                change = change_cell(metric, found) if model != self.reference else Text()
                value = value_cell(metric, measured.estimates.get(metric.name))
                table.add_row(Text(f"  {printable(model)}", overflow="fold"), value, change, verdict)
        return table

    def _change(self, model: str, metric: Metric) -> Comparison | None:
        return self.compared.get((model, self.reference), {}).get(metric.name)

    def _metrics(self) -> list[Metric]:
        """What any of the models has, in the order of the last."""
        measured = list(self.models.values())
        known = {name for each in measured for name in each.estimates}
        found = {scores.name: scores.metric for each in reversed(measured) for scores in each.scores}
        return [metric for name, metric in found.items() if name in known]

    def _remarks(self) -> list[str]:
        """What the figures are over, and what the verdicts mean."""
        last = list(self.models.values())[-1]
        duels = [found for (_, other), found in self.compared.items() if other == self.reference]
        tested = [each for found in duels for each in found.values() if each.verdict is not None]
        return [
            counts_line(last),
            f"verdict: against {self.reference}; paired tests, Holm's adjustment over {len(tested)} comparisons, "
            f"level {LEVEL}",
            *too_few_lines(tested),
            *fewer_lines(last),
            *(f"{name}: not applicable, {reason}" for name, reason in last.not_applicable.items()),
        ]


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for number, name in enumerate(columns):
        is_words = number == 0 or name == "verdict"
        table.add_column(Text(printable(name)), justify="left" if is_words else "right")
    return table
