"""Puts a report together: from run folders to rows, standings, effects and flags. It writes nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from tunelab.config import ReportConfig
from tunelab.errors import DataError
from tunelab.report import flags
from tunelab.report.budget import (
    Budget,
    budget_note,
    budget_of,
    matched_budgets,
    matched_field,
    mean_budget,
    unequal_budgets,
)
from tunelab.report.curves import Figures, read_figures
from tunelab.report.examples import OverExamples, compare_examples, read_scores, score_name
from tunelab.report.formatting import level_text, plural, shown_path
from tunelab.report.grouping import MAX_LEVELS, Factor, Group, coarsened, group_runs
from tunelab.report.metrics import Metric, choose_metrics, directions, metric_of, values_of
from tunelab.report.mixing import Flag, measured_on, mixed, over_other_tokens, unfinished
from tunelab.report.noise import Floor, floors_of_runs, read_floors
from tunelab.report.reading import Interval, Run, find_runs, num_not_begun, read_run
from tunelab.report.reference import find_reference, name_changes
from tunelab.report.seeds import Column, Comparison, Seeds, Spread, Standing, compare, spread_of, standings
from tunelab.report.variance import Analysis, analyse

_MOST_NEAREST, _MOST_WITH_REFERENCE = 6, 24  # rows compared over examples


@dataclass(frozen=True, slots=True)
class Row:
    """One configuration in the table: its runs, what they measured by seed, and what they took.

    `over_examples`: the 95 % intervals of the only run, where there is one seed.
    """

    group: Group
    seeds: Mapping[str, Seeds]
    spreads: Mapping[str, Spread]
    over_examples: Mapping[str, Interval]
    budget: Budget
    figures: tuple[Figures, ...]  # of its runs, in their order

    @property
    def number(self) -> int:
        """Of the group."""
        return self.group.number


@dataclass(frozen=True, slots=True)
class Report:
    """Everything a report shows. The first of `metrics` is the main one; what is by metric has their names as keys."""

    title: str
    runs: tuple[Run, ...]
    metrics: tuple[Metric, ...]
    factors: tuple[Factor, ...]
    rows: tuple[Row, ...]
    standings: Mapping[str, Standing]
    reference: int | None  # the number of the row that the others are compared with; without one it is the best
    comparisons: Mapping[str, Comparison]
    over_examples: Mapping[int, OverExamples]  # row number → against the reference, or the best, of `example_metric`
    example_metric: Metric | None
    floors: Mapping[str, Floor]
    analysis: Analysis | None
    flags: tuple[Flag, ...]
    budget_note: str | None = None  # for under the table: what the configurations did not spend alike, or did

    @property
    def main(self) -> Metric:
        """The metric that decides the order."""
        return self.metrics[0]

    @property
    def ranked(self) -> list[Row]:
        """The rows, best first by the main metric."""
        sign, name = self.main.sign(), self.main.name
        return sorted(self.rows, key=lambda row: -sign * row.spreads[name].mean)

    @property
    def num_seeds(self) -> int:
        """The most seeds that a configuration has."""
        return max(spread.count for row in self.rows for spread in row.spreads.values())

    @property
    def changes_one_thing(self) -> bool:
        """Whether each row changes one thing of the reference."""
        return self.rows[0].group.changed is not None

    def row(self, number: int) -> Row:
        """The row of this number."""
        return next(row for row in self.rows if row.number == number)


def assemble(config: ReportConfig) -> Report:
    """Read the runs that `config` names and work everything out.

    Raises:
        TunelabError: there are no runs, none has finished, they share no metric, the reference is none of the rows, or
            a study of noise is damaged.
    """
    folders, empty = find_runs(config.runs)
    runs = [read_run(folder) for folder in folders]
    finished = [run for run in runs if run.is_finished]
    measured = [run for run in finished if values_of(run)]
    if not measured:
        raise DataError(_nothing(runs, finished))
    metrics = choose_metrics([values_of(run) for run in measured], config.metrics, config.lower_is_better)
    main = [run for run in measured if metrics[0].name in values_of(run)]
    main.sort(key=lambda run: str(run.provenance.get("started", "")))  # levels in the order in which they were run
    factors, groups = group_runs(main)
    chosen = find_reference(config.reference, factors, groups)
    reference = chosen.number if chosen else None
    rows = [_row(group, metrics) for group in (name_changes(groups, factors, chosen) if chosen else groups)]
    comparable = len({measured_on(run) for run in main}) == 1
    apart = over_other_tokens(main, [metric.name for metric in metrics])
    columns = _columns(rows, [each for each in metrics if each.name not in apart]) if comparable else {}
    found = _standings(columns)
    comparisons = _comparisons(columns, found, reference)
    example_metric, over_examples = _examples(rows, metrics, comparisons, reference)
    floors = {**floors_of_runs(groups, metrics), **read_floors(config.noise, config.runs)}
    unequal = unequal_budgets([row.budget for row in rows], matched_field(main))
    matched = matched_budgets(main)
    said = [
        *unfinished(runs),
        *flags.not_begun(sum(map(num_not_begun, config.runs))),
        *flags.left_over(len(finished) - len(main), metrics[0]),
        *mixed(groups, factors),
        *flags.incomparable(comparable, groups),
        *flags.without_base(config.reference, runs, groups),
        *flags.apart(apart),
        *(Flag(text, False) for text in directions(metrics)),
        *flags.budgets(unequal, matched),
        *flags.seeds(groups),
        *flags.passed_over(empty),
    ]
    return Report(
        title=_title(config.runs, len(runs)),
        runs=tuple(runs),
        metrics=tuple(metrics),
        factors=tuple(factors),
        rows=tuple(rows),
        standings=found,
        reference=reference,
        comparisons=comparisons,
        over_examples=over_examples,
        example_metric=example_metric,
        floors=floors,
        analysis=_analysis(rows, factors, metrics[0]),
        flags=tuple(said),
        budget_note=budget_note(unequal, matched),
    )


def _row(group: Group, metrics: Sequence[Metric]) -> Row:
    measured = [values_of(run) for run in group.runs]
    seeds: dict[str, Seeds] = {}
    for metric in metrics:
        by_seed: dict[int, list[float]] = {}
        for run, values in zip(group.runs, measured, strict=True):
            if metric.name in values:
                by_seed.setdefault(run.seed, []).append(values[metric.name])
        if by_seed:
            seeds[metric.name] = {seed: fmean(values) for seed, values in by_seed.items()}
    figures = tuple(read_figures(run.folder) for run in group.runs)
    budgets = [budget_of(run, each.peak_memory_gib) for run, each in zip(group.runs, figures, strict=True)]
    only = group.runs[0].intervals if len(group.runs) == 1 else {}
    return Row(
        group,
        seeds,
        {name: spread_of(values, metric_of(name).is_fraction) for name, values in seeds.items()},
        {name: only[name] for name in seeds if name in only},
        mean_budget(budgets),
        figures,
    )


def _columns(rows: Sequence[Row], metrics: Sequence[Metric]) -> dict[Metric, Column]:
    """Of each metric that has a better and a worse, where there are two rows to compare and a difference."""
    columns = {
        metric: {row.number: row.seeds[metric.name] for row in rows if metric.name in row.seeds}
        for metric in metrics
        if metric.better is not None
    }
    return {metric: column for metric, column in columns.items() if len(column) > 1 and _differs(column)}


def _standings(columns: Mapping[Metric, Column]) -> dict[str, Standing]:
    found = standings(list(columns.values()), [metric.sign() for metric in columns])
    return {metric.name: each for metric, each in zip(columns, found, strict=True)}


def _comparisons(
    columns: Mapping[Metric, Column], found: Mapping[str, Standing], reference: int | None
) -> dict[str, Comparison]:
    """With the reference where there is one, and else with the best row of each metric."""
    if reference is None:
        return {name: standing.others for name, standing in found.items()}
    return {metric.name: compare(column, reference) for metric, column in columns.items() if reference in column}


def _differs(column: Column) -> bool:
    return len({value for seeds in column.values() for value in seeds.values()}) > 1


def _examples(
    rows: Sequence[Row], metrics: Sequence[Metric], comparisons: Mapping[str, Comparison], reference: int | None
) -> tuple[Metric | None, dict[int, OverExamples]]:
    """The first metric that predictions.jsonl has for each example, and the rows compared by it.

    Reading predictions takes time: with the best the next rows only, with a reference more of them.
    """
    most = _MOST_NEAREST if reference is None else _MOST_WITH_REFERENCE
    by_number = {row.number: row for row in rows}
    for metric in metrics:
        name, comparison = score_name(metric), comparisons.get(metric.name)
        if name is None or comparison is None:
            continue
        first = read_scores(by_number[comparison.to].group, name)
        if not first:
            continue
        order = sorted(comparison.differences, key=lambda row: abs(comparison.differences[row].change))
        compared = {row: compare_examples(first, read_scores(by_number[row].group, name)) for row in order[:most]}
        return metric, {row: each for row, each in compared.items() if each is not None}
    return None, {}


def _analysis(rows: Sequence[Row], factors: Sequence[Factor], metric: Metric) -> Analysis | None:
    """Over the seeds of all rows; a number with many values is cut at its quartiles."""
    cells = [(row, seed, value) for row in rows for seed, value in row.seeds[metric.name].items()]
    columns: dict[str, list[str]] = {}
    for factor in factors:
        levels = [row.group.levels[factor.name] for row, _, _ in cells]
        coarse = factor.is_number and len(factor.levels) > MAX_LEVELS
        columns[factor.name] = coarsened(levels) if coarse else [level_text(level) for level in levels]
    return analyse([value for _, _, value in cells], columns, [seed for _, seed, _ in cells])


def _nothing(runs: Sequence[Run], finished: Sequence[Run]) -> str:
    if finished:
        return (
            "runs: expected runs with results, found none measured in summary.json; measure them: "
            f"python evaluate.py run={shown_path(finished[0].folder)}."
        )
    first = runs[0]
    why = f"{first.status}: {first.reason}" if first.reason else first.status
    return (
        f"runs: expected finished runs, found none of {len(runs)} ({first.folder.name}: {why.rstrip('.')}); wait for "
        "their end, or go on with them: python train.py resume=<run folder>."
    )


def _title(places: Sequence[str], count: int) -> str:
    return Path(places[0]).resolve().name if len(places) == 1 else plural(count, "run")
