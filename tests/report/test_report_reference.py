"""Every row against a reference: which row that is, what each changes of it, and the tests, against scipy."""

import csv
import json
from functools import partial
from itertools import product
from pathlib import Path

import pytest
import scipy.stats
from run_folders import write_run, write_small

from tunelab.config import ReportConfig
from tunelab.errors import ConfigError
from tunelab.report.assembling import Report, assemble
from tunelab.report.differences import against_reference, summary
from tunelab.report.figures import changes, comparison, curves
from tunelab.report.looks import MAX_SHOWN, REST, brought_out, looks
from tunelab.report.markdown import report_markdown
from tunelab.report.pages import report_page
from tunelab.report.table import factor_heads, factor_texts, recipe
from tunelab.report.tex import table_tex
from tunelab.report.trade_offs import trade_offs

BASE = {"peft.r": 16, "optim.lr": 1e-3, "peft.target_modules": "all-linear"}
CHANGES = {
    "base": {},
    "rate": {"optim.lr": 3e-3},
    "rank": {"peft.r": 4},
    "modules": {"peft.target_modules": ["q", "v"]},
}
LOSSES = {  # by seed
    "base": [1.00, 1.02, 0.99, 1.01],
    "rate": [0.90, 0.93, 0.88, 0.91],
    "rank": [1.01, 1.01, 1.00, 1.02],
    "modules": [1.30, 1.33, 1.27, 1.34],
}


def ablation(folder: Path, base: str | None = "base") -> Path:
    """Four recipes × four seeds, each a change of the first; sweep.json names the jobs of the base."""
    for name, losses in LOSSES.items():
        for seed, loss in enumerate(losses, start=1):
            keys = {**BASE, **CHANGES[name]}
            typed = {key: str(value).replace("'", "") for key, value in keys.items()}
            write_small(folder / f"x_{name}{seed}", seed, {"test/loss": loss}, config=keys, typed=typed)
    if base is not None:
        (folder / "sweep.json").write_text(json.dumps({"jobs": [], "base": [f"{base}{seed}" for seed in (1, 2, 3, 4)]}))
    return folder


def report_of(folder: Path, reference: str | None = None) -> Report:
    return assemble(ReportConfig(runs=[str(folder)], figures=False, reference=reference))


@pytest.fixture
def run(command):
    return partial(command, "report")


def test_a_sweep_of_single_changes_is_compared_with_its_base(tmp_path):
    report = report_of(ablation(tmp_path))
    assert [row.group.label for row in report.rows] == [
        "the recipe", "peft.r=4", "optim.lr=3e-3", "peft.target_modules=[q, v]",
    ]  # fmt: skip
    assert (report.reference, factor_heads(report)) == (1, ["changed"])
    assert factor_texts(report, report.row(2)) == ["peft.r=4"]
    assert recipe(report) == "the recipe (row 1): peft.r=16, optim.lr=1e-3, peft.target_modules=all-linear"
    assert summary(report) == "of 3 others by test loss: 1 better, 1 worse, 1 not distinguishable"


def test_the_changes_are_those_of_scipy(tmp_path):
    report = report_of(ablation(tmp_path))
    numbers = {"rank": 2, "rate": 3, "modules": 4}
    tests = {name: scipy.stats.ttest_rel(LOSSES[name], LOSSES["base"]) for name in numbers}
    ordered = sorted(tests, key=lambda name: tests[name].pvalue)
    adjusted, least = {}, 0.0
    for place, name in enumerate(ordered):
        least = max(least, min(1.0, (3 - place) * tests[name].pvalue))
        adjusted[name] = least
    comparison = report.comparisons["test/loss"]
    for name, number in numbers.items():
        found, interval = comparison.differences[number], tests[name].confidence_interval(0.95)
        assert found.change == pytest.approx(sum(LOSSES[name]) / 4 - sum(LOSSES["base"]) / 4)
        assert found.interval == pytest.approx((interval.low, interval.high), rel=1e-8)
        assert comparison.p_values_holm[number] == pytest.approx(adjusted[name], rel=1e-8)
    lines = {name: against_reference(report, report.row(number), report.main) for name, number in numbers.items()}
    verdicts = {name: str(line.verdict) for name, line in lines.items() if line}
    assert verdicts == {"rank": "not distinguishable", "rate": "better", "modules": "worse"}
    assert against_reference(report, report.row(1), report.main) is None


def test_the_change_stands_in_every_table(run, tmp_path):
    ablation(tmp_path / "sweep")
    done = run("sweep", "figures=false")
    assert done.returncode == 0, done.stderr
    assert "\nreference    the recipe (row 1): peft.r=16, " in done.stdout
    assert "\ncompared     of 3 others by test loss: 1 better, 1 worse" in done.stdout
    assert "\nreport       sweep/report/report.html\n" in done.stdout
    folder = tmp_path / "sweep" / "report"
    rows = {row["label"]: row for row in csv.DictReader((folder / "table.csv").open())}
    assert rows["the recipe"]["test/loss/change"] == ""
    assert float(rows["optim.lr=3e-3"]["test/loss/change"]) == pytest.approx(-0.1)
    assert rows["optim.lr=3e-3"]["test/loss/verdict"] == "better"
    record = json.loads((folder / "report.json").read_text())
    assert record["reference"] == 1
    own = record["configurations"][2]["against_reference"]["test/loss"]
    assert (own["change"], own["verdict"]) == (pytest.approx(-0.1), "better")
    change, interval = "−0.100", "[−0.113, −0.087]"
    assert f"| {change} \\[{interval[1:-1]}\\] | better |".replace("\\", "") in (folder / "report.md").read_text()
    html = (folder / "report.html").read_text()
    assert f'{change}<span class="interval">{interval}</span><span class="verdict">better</span>' in html
    assert "Differences from the reference" in html
    latex = (folder / "table.tex").read_text()
    assert "$-$0.100\\rlap{*}\\\\[-2pt]\\scriptsize {[}$-$0.113, $-$0.087{]}" in latex
    assert "*: distinguishable from it".replace("*", "{*}") in latex


@pytest.mark.parametrize(
    "asked",
    [
        "optim.lr=0.003,peft.r=16",
        "optim.lr=3e-3",
        "x_rate2",
        "rate2",
        "16 · 3e-3 · all-linear",
        "peft.target_modules=all-linear, +optim.lr=0.0030",
    ],
)
def test_a_reference_is_named_in_several_ways(tmp_path, asked):
    report = report_of(ablation(tmp_path, base=None), asked)
    assert report.reference is not None
    assert report.row(report.reference).group.levels["optim.lr"] == 3e-3
    assert not report.changes_one_thing  # two rows would have to change two things
    assert [factor.name for factor in report.factors] == factor_heads(report) == list(BASE)


@pytest.mark.parametrize("asked", ["peft=none", "optim.lr=1e-5", "data=mine,peft=none,optim.lr=0.00001"])
def test_keys_that_move_together_and_what_all_runs_typed_name_a_reference(tmp_path, asked):
    for peft, rate in (("lora", 1e-4), ("none", 1e-5)):
        for seed in (1, 2):
            typed = {"data": "mine", "peft": peft, "optim.lr": str(rate)}
            write_small(tmp_path / f"{peft}_{seed}", seed, config={"optim.lr": rate}, typed=typed)
    report = report_of(tmp_path, asked)
    assert [factor.name for factor in report.factors] == ["peft & optim.lr"]
    assert {run.typed["peft"] for run in report.row(report.reference or 0).group.runs} == {"none"}


def test_a_list_names_a_reference(tmp_path):
    report = report_of(ablation(tmp_path, base=None), "peft.target_modules=[q,v],peft.r=16")
    assert report.row(report.reference or 0).group.levels["peft.target_modules"] == '["q", "v"]'


def test_what_was_asked_for_comes_before_the_base(tmp_path):
    folder = ablation(tmp_path)
    assert report_of(folder, "the recipe").reference == 1
    report = report_of(folder, "peft.r=4")  # as the table with the base calls it
    assert (report.reference, report.changes_one_thing) == (2, False)
    text = report_markdown(report, tmp_path, ())
    assert "the reference (row 2): peft.r=4, optim.lr=1e-3" in text.replace("\\", "")


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("nothing", r"none for 'nothing'; set reference to one of '4 · 1e-3 · all-linear', '16 · 1e-3 · all-linear', "),
        (
            "peft.r=16",
            r"3 rows for 'peft\.r=16'; set reference to one of '16 · 1e-3 · all-linear', '16 · 1e-3 · \[q, v",
        ),
        ("peft.r=16,optim.lr=7", r"none for 'peft\.r=16,optim\.lr=7'; set reference to one of '4 · "),
        ("peft.rr=16", r"expected keys of the runs, found 'peft\.rr', which none has; did you mean 'peft\.r'\?"),
    ],
)
def test_a_reference_that_is_no_row_is_refused_with_the_rows(tmp_path, asked, expected):
    with pytest.raises(ConfigError, match=f"^reference: .*{expected}"):
        report_of(ablation(tmp_path, base=None), asked)


def test_keys_and_values_are_typed_as_one_override(run, tmp_path):
    ablation(tmp_path / "sweep", base=None)
    named = "optim.lr=1e-3,peft.r=16,peft.target_modules=[q,v]"
    for typed in (named, f"'{named}'"):
        done = run("sweep", "figures=false", f"reference={typed}")
        assert "\nreference    the reference (row 3): peft.r=16, " in done.stdout, done.stderr
    assert run("sweep", "figures=false", "reference=rate1").returncode == 0
    done = run("sweep", "figures=false", "reference=peft.r=5")
    assert done.returncode == 1
    assert done.stderr.startswith("error: reference: expected one row of the table, found none for 'peft.r=5'; set")


def test_a_base_without_figures_is_said(tmp_path):
    folder = ablation(tmp_path)
    for seed in (1, 2, 3, 4):
        (folder / f"x_base{seed}" / "summary.json").write_text('{"status": "failed"}')
    report = report_of(folder)
    assert report.reference is None
    assert any(flag.text.startswith("The base recipe has no figures, so rows are") for flag in report.flags)
    (folder / "sweep.json").write_text("{")  # damaged: the runs are reported on without
    assert report_of(folder).reference is None


def test_one_seed_is_compared_but_not_tested(tmp_path):
    for name, loss in (("a", 1.0), ("b", 1.5)):
        write_small(tmp_path / name, 1, {"test/loss": loss}, config={"x": name}, typed={"x": name})
    report = report_of(tmp_path, "x=a")
    (line,) = [each for row in report.rows if (each := against_reference(report, row, report.main))]
    assert (line.change, str(line.verdict), line.interval) == ("+0.500", "not tested", "")
    assert summary(report) == "of 1 other by test loss: 1 not tested"
    assert factor_heads(report) == ["x"]  # one factor says by itself what changed
    for text in (report_markdown(report, tmp_path, ()), report_page(report, tmp_path, {}), table_tex(report)):
        assert "less the reference, not tested" in text


def test_a_row_looks_the_same_in_all_figures(tmp_path):
    for row, (method, rate) in enumerate(product(("lora", "vera", "ia3"), (1e-4, 1e-3, 3e-3))):
        for seed in (1, 2):
            write_run(tmp_path / f"{row}-{seed}", method, rate, 8, seed)
    report = report_of(tmp_path, "peft=ia3,optim.lr=1e-4")
    look, shown = looks(report), brought_out(report)
    assert report.ranked.index(report.row(report.reference or 0)) >= MAX_SHOWN  # and so it takes the last place
    assert [row.number for row in shown] == [*(row.number for row in report.ranked[: MAX_SHOWN - 1]), report.reference]
    assert len({look[row.number] for row in shown}) == MAX_SHOWN
    assert {look[row.number] for row in report.rows if row not in shown} == {REST}
    by_label = {row.group.label: look[row.number].colour for row in report.rows}
    assert _by_tick(comparison(report)) == by_label
    assert _by_tick(changes(report)) == {name: own for name, own in by_label.items() if name != "ia3 · 1e-4"}
    drawn = curves(report)
    assert drawn is not None
    lines = {str(line.get_label()): line.get_color() for line in drawn[0].axes[0].get_lines()}
    assert lines == {row.group.label: by_label[row.group.label] for row in shown}
    assert "The 5 best of 9 configurations and the reference." in drawn[2]
    costs = trade_offs(report)
    assert costs is not None
    points = [line.get_color() for line in costs[0].axes[0].get_lines()[1:]]
    assert points == [by_label[row.group.label] for row in report.rows]


def _by_tick(drawn) -> dict[str, str]:
    axes = drawn[0].axes[0]
    names = [tick.get_text() for tick in axes.get_yticklabels()]
    marks = [line for line in axes.get_lines() if len(line.get_xdata()) == 1]
    return {names[int(line.get_ydata()[0])]: line.get_color() for line in marks}


def test_scores_of_examples_are_compared_with_the_reference(tmp_path):
    for name, accuracy in (("lora", 0.95), ("vera", 0.6), ("ia3", 0.9)):
        for seed in (1, 2, 3):
            write_run(tmp_path / f"{name}{seed}", name, 1e-3, 8, seed, accuracy=accuracy)
    report = assemble(ReportConfig(runs=[str(tmp_path)], metrics=["test/exact_match", "test/loss"], reference="vera"))
    worst = {row.group.label: row.number for row in report.rows}
    assert set(report.over_examples) == {worst["lora"], worst["ia3"]}
    lora = report.over_examples[worst["lora"]]
    means = {name: report.row(number).spreads["test/exact_match"].mean for name, number in worst.items()}
    assert lora.change == pytest.approx(means["lora"] - means["vera"])
    exact, loss = report_markdown(report, tmp_path, ()).split("### Against the reference: ")[1:]
    assert ("over examples" in exact, "over examples" in loss) == (True, False)
