"""The last word of a search: the best trial or the Pareto front, what its keys matter, how the trials have ended."""

from collections import Counter
from collections.abc import Sequence
from statistics import stdev

from rich.console import Console
from rich.table import Table

from tunelab.report.formatting import plural
from tunelab.sweeping.folder import SweepFolder
from tunelab.sweeping.searching.objectives import Objective
from tunelab.sweeping.searching.study import Record, Study, best_of


def tell(study: Study, objectives: Sequence[Objective], folder: SweepFolder, console: Console) -> None:
    """Print it."""
    records = study.records()
    console.print(_counts(records))
    if len(objectives) > 1:
        front = set(study.front())
        _tell_front([record for record in records if record.number in front], objectives, console)
    else:
        best = best_of(records, objectives[0].higher_is_better)
        _tell_best(best, objectives[0], folder, console)
    shares = study.importances()
    if shares:
        listed = " · ".join(f"{key} {share:.2f}" for key, share in shares.items())
        console.print(f"importance   {listed} (PED-ANOVA)")


def to_dict(study: Study, objectives: Sequence[Objective]) -> dict[str, object]:
    """The trials for sweep.json; `jobs` are ids of its jobs."""
    return {
        "objectives": [{"name": each.name, "higher_is_better": each.higher_is_better} for each in objectives],
        "trials": [
            {
                "number": record.number,
                "state": record.state,
                "reason": record.reason,
                "values": record.params,
                "objectives": record.values,
                "objectives_of_seeds": {str(seed): values for seed, values in record.seeds.items()},
                "raced": record.raced,
                "jobs": record.jobs,
            }
            for record in study.records()
        ],
    }


def _counts(records: Sequence[Record]) -> str:
    states = Counter("spared seeds" if record.raced else record.state for record in records)
    return f"{plural(len(records), 'trial')}: {', '.join(f'{count} {state}' for state, count in states.most_common())}"


def _tell_best(best: Record | None, objective: Objective, folder: SweepFolder, console: Console) -> None:
    if best is None:
        console.print("no trial has finished with all its seeds, so none is the best")
        return
    console.print(f"best         trial {best.number}: {objective.name} {_value(best, 0)}")
    for key, value in best.params.items():
        console.print(f"             {key}={value}")
    for job in best.jobs:
        console.print(f"             {folder.named(job)}")


def _tell_front(front: Sequence[Record], objectives: Sequence[Objective], console: Console) -> None:
    console.print("Pareto front: no trial is better than one of these in one objective and not worse in the others")
    table = Table(box=None, pad_edge=False)
    for column in ("trial", *(each.name for each in objectives), "values", "jobs"):
        table.add_column(column, no_wrap=True)
    for record in sorted(front, key=lambda record: record.values or ()):
        settings = " ".join(f"{key}={value}" for key, value in record.params.items())
        figures = [_value(record, index) for index in range(len(objectives))]
        table.add_row(str(record.number), *figures, settings, " ".join(record.jobs))
    console.print(table)


def _value(record: Record, index: int) -> str:
    """Mean, with the standard deviation where there are several seeds."""
    assert record.values is not None
    of_seeds = [values[index] for values in record.seeds.values()]
    spread = f" ± {stdev(of_seeds):.2g} over {len(of_seeds)} seeds" if len(of_seeds) > 1 else ""
    return f"{record.values[index]:.5g}{spread}"
