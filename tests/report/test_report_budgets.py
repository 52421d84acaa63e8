"""What a report says of budgets, and of a sweep that changed one thing at a time."""

import json
from pathlib import Path

import pytest
from run_folders import write_small

from tunelab.config import ReportConfig
from tunelab.report.assembling import Report, assemble
from tunelab.report.markdown import report_markdown
from tunelab.report.pages import report_page
from tunelab.report.tex import table_tex

LORA, LOHA, IA3 = 1000, 980, 50


def a_sweep(folder: Path, with_ia3: bool) -> Report:
    """Three methods, of which the second was given another rank than was typed, and the third has none."""
    record = {"match": "trainable_parameters", "jobs": {}}
    sizes = {"lora": LORA, "loha": LOHA, **({"ia3": IA3} if with_ia3 else {})}
    for place, (method, size) in enumerate(sizes.items()):
        for seed in (1, 2):
            job = f"{method}{seed}"
            solved = {"++peft.r=7": "x"} if method == "loha" else {}
            record["jobs"][job] = {
                "knob": None if method == "ia3" else "peft.r",
                "overrides": solved,
                "difference": size / LORA - 1,
            }
            write_small(
                folder / f"{method}_{job}",
                seed=seed,
                metrics={"test/loss": 1 + place + seed / 10},
                config={"peft._target_": method, "peft.r": 7 if method == "loha" else 4},
                typed={"peft": method, **({"++peft.r": 7} if solved else {})},
                num_trainable_parameters=size,
            )
    (folder / "matching.json").write_text(json.dumps(record))
    return assemble(ReportConfig(runs=[str(folder)]))


@pytest.mark.parametrize("with_ia3", [False, True], ids=["all have a rank", "one has none"])
def test_the_table_says_how_far_the_budgets_were_matched(tmp_path: Path, with_ia3: bool):
    report = a_sweep(tmp_path / "sweep", with_ia3)
    said = "matched on trainable parameters to within 2.00%"
    said += ", save 2 runs of methods with nothing to set" if with_ia3 else ""
    unequal = "budgets are not equal: trainable parameters 50 to 1,000, 20 times" if with_ia3 else ""
    assert report.budget_note == (f"{said}; {unequal}" if with_ia3 else said)
    assert [factor.name for factor in report.factors] == ["peft"]  # the rank was solved, nobody swept it
    for text in (
        report_markdown(report, tmp_path, ()),
        report_page(report, tmp_path, {}),
        table_tex(report).replace("\\%", "%"),
    ):
        table_and_below = text[text.index("loha") :]
        assert said in table_and_below.replace("Matched", "matched")
        assert unequal in table_and_below.replace("Budgets", "budgets")


def test_without_a_record_nothing_is_claimed(tmp_path: Path):
    for seed in (1, 2):
        write_small(tmp_path / f"a{seed}", seed=seed, num_trainable_parameters=5)
    assert assemble(ReportConfig(runs=[str(tmp_path)])).budget_note is None


def test_one_change_at_a_time_has_no_interactions(tmp_path: Path):
    base = {"peft.r": 4, "optim.lr": 1e-3, "data.max_length": 64}
    changes = [{}, {"peft.r": 8}, {"optim.lr": 3e-3}, {"data.max_length": 32}]
    for number, change in enumerate(changes):
        for seed in (1, 2, 3):
            settings = {**base, **change}
            loss = 1 + 0.1 * number + 0.01 * seed * number
            write_small(
                tmp_path / f"{number}-{seed}", seed=seed, metrics={"test/loss": loss}, config=settings, typed=settings
            )
    report = assemble(ReportConfig(runs=[str(tmp_path)]))
    assert report.analysis is not None
    assert {term.name for term in report.analysis.terms} == {*base, "seed"}
    assert report.analysis.left_out == ("how the factors act together (no two of them were changed in one run)",)
    assert {effect.factor for effect in report.analysis.effects} == set(base)
    page = report_page(report, tmp_path, {})
    assert "Not to be told apart from the terms above: how the factors act together" in page
    assert " × " not in report_markdown(report, tmp_path, ())
