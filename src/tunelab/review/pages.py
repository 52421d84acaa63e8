"""The page on which people read completions of several models side by side, worst regressions first."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

from tunelab.evaluation.metrics import REGISTRY
from tunelab.html import page_environment, script
from tunelab.review.marking import Mark, Pieces, mark_differences
from tunelab.review.predictions import MAX_CHARACTERS, Reviewed


@dataclass(frozen=True, slots=True)
class _Row:
    """An example as the page shows it. `changes`: metric → the others less the first, positive where better."""

    place: int  # in the data
    example: Reviewed
    pieces: Mapping[str, Pieces]
    changes: Mapping[str, float]

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

    The changes that it sorts by are those of each model after the first, the worst of them where there are several.
    Only the `max_examples` worst are there, by the first metric that has a better and a worse; the page says so.
    """
    metrics = _metrics(examples)
    changes = [_changes(example, models, metrics) for example in examples]
    order = sorted(range(len(examples)), key=lambda index: changes[index].get(metrics[0], 0.0) if metrics else 0.0)
    rows = [_row(index, examples[index], changes[index]) for index in order[:max_examples]]
    element, policy = script(resources.files("tunelab.review").joinpath("html/comparison.js").read_text("utf-8"))
    return page_environment("tunelab.review", MAX_CHARACTERS).get_template("comparison.html.jinja").render(
        title=title,
        models=models,
        rows=rows,
        num_examples=len(examples),
        metrics={name: REGISTRY[name].label for name in metrics},
        tallies=_tallies(examples, models, metrics),
        Mark=Mark,
        script=element,
        policy=policy,
    )  # fmt: skip


def _metrics(examples: Sequence[Reviewed]) -> list[str]:
    """The metrics of the examples in which one completion can be better than another, in the registry's order."""
    found = {name for example in examples for written in example.written.values() for name in written.scores}
    return [name for name, metric in REGISTRY.items() if name in found and metric.better is not None]


def _changes(example: Reviewed, models: Sequence[str], metrics: Sequence[str]) -> dict[str, float]:
    before, *after = (example.written[model].scores for model in models)
    found: dict[str, float] = {}
    for name in metrics:
        if name in before and all(name in scores for scores in after):
            sign = 1 if REGISTRY[name].better else -1
            found[name] = min(sign * (scores[name] - before[name]) for scores in after)
    return {name: change for name, change in found.items() if math.isfinite(change)}


def _row(place: int, example: Reviewed, changes: Mapping[str, float]) -> _Row:
    pieces = {
        model: mark_differences(example.reference[:MAX_CHARACTERS], written.completion[:MAX_CHARACTERS])
        for model, written in example.written.items()
    }
    return _Row(place, example, pieces, changes)


def _tallies(
    examples: Sequence[Reviewed], models: Sequence[str], metrics: Sequence[str]
) -> list[tuple[str, str, int, int, int]]:
    """Label of each metric, each later model, and on how many examples it is worse than the first, better, or equal."""
    tallies: list[tuple[str, str, int, int, int]] = []
    for name in metrics:
        for model in models[1:]:
            found = [_changes(example, (models[0], model), [name]) for example in examples]
            signs = [(change[name] > 0) - (change[name] < 0) for change in found if change]
            tallies.append((REGISTRY[name].label, model, signs.count(-1), signs.count(1), signs.count(0)))
    return tallies
