"""What is said above the table of figures that are missing, or that do not compare (what is mixed is in `mixing`)."""

from collections.abc import Mapping, Sequence

from tunelab.report.formatting import joined, plural, shown_path
from tunelab.report.grouping import Group
from tunelab.report.metrics import Metric
from tunelab.report.mixing import Flag
from tunelab.report.reading import Run
from tunelab.report.reference import base_groups


def not_begun(count: int) -> list[Flag]:
    """Jobs of a sweep."""
    return [Flag(f"{plural(count, 'job')} of the sweep not begun: run its command again.")] if count else []


def left_over(count: int, metric: Metric) -> list[Flag]:
    """Runs without the metric that decides."""
    return [Flag(f"Left out of all figures: {plural(count, 'finished run')} without {metric.name}.")] if count else []


def passed_over(places: Sequence[str]) -> list[Flag]:
    """Folders that were named and hold no run."""
    shown = joined(list(map(shown_path, places)))
    return [Flag(f"Passed over, for there is no run in it: {shown}.", False)] if places else []


def incomparable(is_comparable: bool, groups: Sequence[Group]) -> list[Flag]:
    """Where the test examples are not the same."""
    if is_comparable or len(groups) < 2:
        return []
    return [Flag("The figures are over different test examples, so none is compared with another and none is best.")]


def without_base(asked: str | None, runs: Sequence[Run], groups: Sequence[Group]) -> list[Flag]:
    """What keeps the report from comparing with the base of a sweep that changed one thing at a time."""
    count = len(base_groups(groups))
    if asked is not None or count == 1 or not any(run.is_base for run in runs):
        return []
    why = "has no figures" if count == 0 else f"is not clear, {count} rows are one"
    return [Flag(f"The base recipe {why}, so rows are compared with the best; reference=<row> names another.")]


def apart(found: Mapping[str, tuple[int, int]]) -> list[Flag]:
    """Losses over other tokens: metric → the fewest and the most."""
    return [
        Flag(
            f"{name} is over other tokens in some runs ({low:,} to {high:,} are supervised), so it is not compared; "
            "metrics=[<others>] chooses what is."
        )
        for name, (low, high) in found.items()
    ]


def budgets(unequal: Sequence[str], matched: str | None) -> list[Flag]:
    """What the configurations did not spend alike, and what the sweep matched."""
    said = [f"The budgets are not equal: {'; '.join(unequal)}."] if unequal else []
    return [Flag(text, False) for text in [*said, *([f"The budgets were {matched}."] if matched else [])]]


def seeds(groups: Sequence[Group]) -> list[Flag]:
    """Too few of them, or not the same."""
    return [Flag(text, False) for text in _of_seeds([frozenset(run.seed for run in each.runs) for each in groups])]


def _of_seeds(sets: Sequence[frozenset[int]]) -> list[str]:
    counts = list(map(len, sets))
    if max(counts) == 1:
        return [
            "One seed: no statistics over seeds. Intervals are over that run's test examples and do not say what "
            "another seed would give. Run several: seed=1,2,3."
        ]
    if single := counts.count(1):
        return [f"One seed in {single} of {plural(len(sets), 'configuration')}: nothing can be tested against them."]
    few = ["Two seeds: a test over them rests on two numbers, and a third may turn it. Run more: seed=1,2,3,4,5."]
    other = ["The configurations do not have the same seeds."] if len({*sets}) > 1 else []
    return (few if min(counts) == 2 else []) + other
