"""The page on which people read completions of several models side by side, worst regressions first."""

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

from tunelab.evaluation.metrics import REGISTRY
from tunelab.html import page_environment, script
from tunelab.review.marking import Mark, Pieces, mark_differences
from tunelab.review.predictions import MAX_CHARACTERS, Reviewed

Changes = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class _Row:
    """An example as the page shows it. `changes`: model → metric → it less the first model, positive where better."""

    place: int  # in the data
    example: Reviewed
    pieces: Mapping[str, Pieces]
    changes: Changes

    @property
    def changes_json(self) -> str:
        """As the page's script reads them."""
        return json.dumps(self.changes)

    @property
    def all_finished(self) -> bool:
        """Whether no completion was cut off."""
        return all(written.finished for written in self.example.written.values())


def comparison_page(title: str, models: Sequence[str], examples: Sequence[Reviewed], max_examples: int) -> str:
    """Completions of `models` as one HTML page without anything from elsewhere; its script sorts and filters.

    The changes are those of each later model against the first; the page sorts by those of the last one, or of another
    that is chosen there. Only the `max_examples` worst are there, by the first metric that has a better and a worse;
    the page says so.
    """
    metrics = _metrics(examples)
    changes = [_changes(example, models, metrics) for example in examples]
    fell = [each[models[-1]].get(metrics[0], 0.0) if metrics and len(models) > 1 else 0.0 for each in changes]
    order = sorted(range(len(examples)), key=fell.__getitem__)
    rows = [_row(index, examples[index], changes[index]) for index in order[:max_examples]]
    element, policy = script(resources.files("tunelab.review").joinpath("html/comparison.js").read_text("utf-8"))
    return page_environment("tunelab.review", MAX_CHARACTERS).get_template("comparison.html.jinja").render(
        title=title,
        models=models,
        rows=rows,
        num_examples=len(examples),
        metrics={name: REGISTRY[name].label for name in metrics},
        tallies=_tallies(changes, metrics, models[1:]),
        Mark=Mark,
        script=element,
        policy=policy,
    )  # fmt: skip


def _metrics(examples: Sequence[Reviewed]) -> list[str]:
    """The metrics of the examples in which one completion can be better than another, in the registry's order."""
    found = {name for example in examples for written in example.written.values() for name in written.scores}
    return [name for name, metric in REGISTRY.items() if name in found and metric.better is not None]


def _changes(example: Reviewed, models: Sequence[str], metrics: Sequence[str]) -> dict[str, dict[str, float]]:
    before = example.written[models[0]].scores
    found: dict[str, dict[str, float]] = {}
    for model in models[1:]:
        after = example.written[model].scores
        both = [name for name in metrics if name in before and name in after]
        changes = {name: (1 if REGISTRY[name].better else -1) * (after[name] - before[name]) for name in both}
        found[model] = {name: change for name, change in changes.items() if math.isfinite(change)}
    return found


def _row(place: int, example: Reviewed, changes: Changes) -> _Row:
    pieces = {
        model: mark_differences(example.reference[:MAX_CHARACTERS], written.completion[:MAX_CHARACTERS])
        for model, written in example.written.items()
    }
    return _Row(place, example, pieces, changes)


def _tallies(
    changes: Sequence[Changes], metrics: Sequence[str], models: Sequence[str]
) -> list[tuple[str, str, int, int, int]]:
    """Label of each metric, model, and on how many examples it became worse, better, or stayed."""
    tallies: list[tuple[str, str, int, int, int]] = []
    for name, model in itertools.product(metrics, models):
        found = [each[model][name] for each in changes if name in each[model]]
        worse, better = sum(change < 0 for change in found), sum(change > 0 for change in found)
        tallies.append((REGISTRY[name].label, model, worse, better, len(found) - worse - better))
    return tallies
