"""The table of several models: readable in 80 columns, with what each verdict is against."""

import pytest
from test_reporting import evaluation, render, rows

from tunelab.evaluation.comparing import compare_models
from tunelab.evaluation.side_by_side import ModelsTable


def table(models: dict, reference: str, remarks: tuple[str, ...] = ()) -> ModelsTable:
    compared = compare_models({name: each.scores for name, each in models.items()}, reference)
    return ModelsTable(models, compared, reference, remarks)


MODELS = {"base": evaluation(0, 2.5), "seed-1": evaluation(36, 0.25), "seed-2": evaluation(35, 0.26)}


def test_a_column_for_each_model_with_the_verdict_below(monkeypatch):
    monkeypatch.setattr("test_reporting.WIDTH", 110)
    text = render(table(MODELS, "base", ("a remark",)))
    found = rows(text)
    assert found["metric"] == ["base", "seed-1", "seed-2"]
    assert found["exact match %"] == ["0.0 [0.0, 8.8]", "90.0 [76.9, 96.0]", "87.5 [73.9, 94.5]"]
    assert "better" in found
    assert found["better"] == ["better"]  # under both
    assert "verdict: against base; paired tests, Holm's adjustment over 12 comparisons, level 0.05" in text
    assert text.rstrip().endswith("a remark")


@pytest.mark.parametrize("reference", ["base", "seed-1"])
def test_blocks_where_columns_do_not_fit(monkeypatch, reference):
    monkeypatch.setattr("test_reporting.WIDTH", 80)
    models = {**MODELS, "a-rather-long-name-for-a-model-2026": evaluation(3, 12345.6)}
    text = render(table(models, reference))
    assert all(len(line.rstrip()) <= 80 for line in text.splitlines())
    assert text.count("…") == 1  # that of the remark: nothing is cut off
    block = text[text.index("exact match %") :]
    line = next(each for each in block.splitlines() if each.strip().startswith("seed-2"))
    change = "+87.5 [71.3, 94.5]" if reference == "base" else "-2.5"
    assert "87.5 [73.9, 94.5]" in line
    assert change in line
    assert (
        next(each for each in block.splitlines() if each.strip().startswith(reference)).rstrip().endswith("reference")
    )
    assert f"less {reference}" in text


def test_what_only_some_models_have():
    models = {"a": evaluation(36, 0.25, ["exact_match"]), "b": evaluation(36, 0.25)}
    assert rows(render(table(models, "a")))["field F1 (micro) %"][0] == "–"
