"""What lm-evaluation-harness found, from values of documents to scores."""

import json

import numpy as np
import pytest

from tunelab.evaluation.comparing import Comparison, compare, compare_models
from tunelab.evaluation.harness.results import Column, write_documents
from tunelab.evaluation.scores import estimates


def column(values, aggregate, aggregation="mean"):
    return Column("t", "m", tuple(values), aggregate, True, aggregation).scores()


def test_sums_are_taken_where_they_give_the_same_value():
    mean = column([1, 0, 1, 1], 0.75)
    assert (mean.value, mean.metric.is_rate, mean.metric.unit.symbol) == (0.75, True, " %")
    assert not column([0.5, 1.0], 0.75).metric.is_rate
    assert column([-3.0, -1.0], float(np.exp(2)), "perplexity").value == pytest.approx(np.exp(2))
    pairs = [(-6.0, 2), (-4.0, 3)]
    assert column(pairs, float(np.exp(2)), "weighted_perplexity").value == pytest.approx(np.exp(2))
    assert column(pairs, 2 / float(np.log(2)), "bits_per_byte").value == pytest.approx(2 / np.log(2))
    by_size = column([1, 0, 1], 0.123)  # a group that weighs its tasks alike
    assert (by_size.value, by_size.overall, by_size.count) == (0.123, 0.123, 3)
    assert estimates([by_size])["t/m"].interval is None
    partly = column([1, None, 0], 0.5)
    assert (partly.count, partly.value) == (2, 0.5)


@pytest.mark.parametrize("name", ["f1", "matthews_corrcoef"])
def test_pairs_of_labels_are_no_sums(name):
    registry = pytest.importorskip("lm_eval.api.registry")
    labels = [(1, 1), (0, 0), (1, 1), (0, 0)]  # a perfect model: also the ratio of their sums is 1
    found = column(labels, float(registry.get_aggregation(name)(labels)), name)
    assert (found.value, found.overall, found.count) == (1, 1, 4)
    assert estimates([found])["t/m"].interval is None


def test_texts_are_counted():
    registry = pytest.importorskip("lm_eval.api.registry")
    texts = [("a b c d e", "a b c d x"), ("f g h i", "f g h i"), None]
    found = column(texts, float(registry.get_aggregation("bleu")(texts[:2])), "bleu")
    assert (found.count, estimates([found])["t/m"].count) == (2, 2)


@pytest.mark.parametrize("aggregates", [(0.5, 0.7), (0.7, 0.5)])
def test_a_group_whose_documents_give_its_value_for_one_of_two_models(aggregates):
    """By chance 0.5 is the mean of the documents too; nothing but the change is left to say."""
    first, second = ([column([1, 0, 1, 0], aggregate)] for aggregate in aggregates)
    change = pytest.approx(aggregates[1] - aggregates[0])
    for found in (compare(first, second), compare_models({"a": first, "b": second}, "a")["b", "a"]):
        assert found == {"t/m": Comparison(change=change, count=4)}


def test_metrics_of_different_documents_are_compared_each_on_its_own():
    rng = np.random.default_rng(0)
    few, many = rng.random((2, 12)), rng.random((2, 40))

    def of(row):
        return [
            Column("few", "f", tuple(few[row]), float(few[row].mean()), True).scores(),
            Column("many", "f", tuple(many[row]), float(many[row].mean()), True).scores(),
        ]

    together, before, after = compare(of(0), of(1)), of(0), of(1)
    for place, name in enumerate(["few/f", "many/f"]):
        alone = compare(before[place : place + 1], after[place : place + 1])[name]
        assert (together[name].interval, together[name].p_value) == (alone.interval, alone.p_value)
        assert estimates(before)[name].interval == estimates(before[place : place + 1])[name].interval


def test_documents_are_strict_json(tmp_path):
    scores = {"acc": float("nan"), "pair": (float("-inf"), 2)}
    write_documents(tmp_path / "harness.jsonl", {"base": [{"id": "t:0", "scores": scores}]})
    [line] = (tmp_path / "harness.jsonl").read_text().splitlines()
    assert json.loads(line) == {"model": "base", "id": "t:0", "scores": {"acc": None, "pair": [None, 2]}}
