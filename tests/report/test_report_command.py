"""`python -m tunelab report`: what it writes, what it says of runs that do not belong together, and how it fails."""

import csv
import json
import re
import shutil
import subprocess
import sys
import urllib.parse
from functools import partial
from html.parser import HTMLParser
from itertools import product

import pytest
from run_folders import write_run, write_small

from tunelab.config import ReportConfig
from tunelab.errors import ConfigError, DataError
from tunelab.report.assembling import assemble
from tunelab.report.tex import tex

HOSTILE = '[a] </script><script>alert(1)</script> $\\frac{1}{0}$ | `x` & 50 % _ # {a} =1+1 \x1b[31m ‮ 中 ü "q" \''


class Page(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.tags = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


@pytest.fixture
def run(command):
    return partial(command, "report")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Two methods, two rates, three seeds; one run failed, one was killed."""
    folder = tmp_path_factory.mktemp("sweeps") / "study"
    for method, rate, seed in product(("lora", "vera"), (1e-4, 1e-3), (1, 2, 3)):
        status = {("vera", 1e-3, 3): "failed", ("vera", 1e-3, 2): "no summary"}.get((method, rate, seed), "finished")
        reason = "OutOfMemoryError: <b>no</b> memory" if status == "failed" else None
        write_run(folder / f"{method},lr={rate},{seed}", method, rate, 8, seed, status=status, reason=reason)
    return folder


def config(*places, **settings):
    return ReportConfig(runs=[str(place) for place in places], figures=False, **settings)


def flags(*places, **settings):
    return [flag.text for flag in assemble(config(*places, **settings)).flags]


def test_a_sweep_becomes_a_folder_of_files(run, sweep):
    done = run(sweep)
    assert done.returncode == 0, done.stderr
    folder = sweep / "report"
    figures = {"comparison", "curves", "effects", "importance", "interaction", "parallel", "trade_offs"}
    assert {path.name for path in folder.iterdir()} == {
        "report.html", "report.md", "report.json", "table.tex", "table.csv", "results.csv", "figures",
    }  # fmt: skip
    assert {path.name for path in (folder / "figures").iterdir()} == {
        f"{name}.{kind}" for name in figures for kind in ("png", "pdf")
    }
    assert "warning: Left out of all figures: 2 of 12 runs (" in done.stdout
    said = re.search(r"^best .* \((.* all others|not tested .*)\)$", done.stdout, re.MULTILINE)
    assert said is not None, done.stdout
    html = (folder / "report.html").read_text()
    assert f"; {said[1]}</small>" in html
    page = Page(html)
    assert sum(tag == "svg" for tag, _ in page.tags) == len(figures)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a" and "href" in attributes]
    for link in links:
        if link.startswith("#"):
            assert link[1:] in ids
        else:
            assert (folder / urllib.parse.unquote(link)).exists(), link
    assert "var(--series-0)" in html
    assert not re.search(r"(src|href)=\"(https?:)?//", html)
    assert {tag for tag, _ in page.tags}.isdisjoint({"img", "link", "iframe", "b"})
    assert "&lt;b&gt;no&lt;/b&gt; memory" in html

    rows = list(csv.DictReader((folder / "results.csv").open()))
    assert len(rows) == 12
    assert {row["status"] for row in rows} == {"finished", "failed", "no summary"}
    first = next(row for row in rows if row["folder"] == "../lora,lr=0.0001,1")
    summary = json.loads((sweep / "lora,lr=0.0001,1" / "summary.json").read_text())
    assert float(first["test/loss"]) == summary["metrics"]["test/loss"]
    assert (first["config.optim.lr"], first["seed"], first["steps"]) == ("0.0001", "1", "60")

    record = json.loads((folder / "report.json").read_text())
    assert [each["levels"] for each in record["configurations"]] == [
        {"peft": method, "optim.lr": rate} for method, rate in product(("lora", "vera"), (1e-4, 1e-3))
    ]
    values = record["configurations"][0]["values"]["test/loss"]
    assert record["configurations"][0]["spreads"]["test/loss"]["mean"] == pytest.approx(sum(values.values()) / 3)
    assert run(sweep, "figures=false").returncode == 0  # again: the earlier report gives way
    assert not (folder / "figures").exists()


@pytest.mark.parametrize(("num_seeds", "is_said"), [(2, True), (3, False)])
def test_two_seeds_are_called_few(num_seeds: int, is_said: bool, tmp_path):
    for rate in (1e-3, 1e-4):
        for seed in range(num_seeds):
            write_small(tmp_path / f"{rate}-{seed}", seed, config={"optim.lr": rate}, typed={"optim.lr": rate})
    assert any(text.startswith("Two seeds: a test over them rests on two") for text in flags(tmp_path)) == is_said


def test_folders_are_named_without_a_key(run, sweep, tmp_path):
    done = run(sweep / "lora,lr=0.0001,1", sweep / "lora,lr=0.001,1", "to=both", "figures=false")
    assert done.returncode == 0, done.stderr
    assert "One seed: no statistics over seeds" in done.stdout
    table = (tmp_path / "both" / "report.md").read_text()
    assert len(re.findall(r"^\| \d \| 1e-\d \|", table, flags=re.MULTILINE)) == 2
    assert run("--cfg", "job", sweep).stdout.startswith("runs:\n- ")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "runs: expected a sweep or run folders, found none"),
        (("nowhere",), "runs: expected run folders, or folders that hold some, found no 'nowhere'"),
        (("empty",), "runs: expected run folders with config.yaml, found none in 'empty'"),
        (("one", "two"), "to: expected a folder for a report over 2 places"),
        (("one", "metrics=[test/los]"), "metrics: expected metrics of the runs, found 'test/los', which none has"),
        (("one", "metrics=[test/length_tokens]"), "metrics: expected one first that has a better and a worse, found"),
        (("one", "noise=nowhere"), "noise: expected noise.json of a noise study, found no"),
        (("one", "to=empty"), "to: expected a new folder, found"),
        (("one", "metric=test/loss"), "metric: there is no such key; did you mean 'metrics'?"),
    ],
)
def test_what_cannot_be_is_one_sentence(run, tmp_path, arguments, expected):
    (tmp_path / "empty").mkdir()
    write_small(tmp_path / "one" / "run", metrics={"test/loss": 1.0, "test/length_tokens": 4.0})
    write_small(tmp_path / "two" / "run")
    done = run(*arguments, "figures=false")
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {expected}")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "one" / "report").exists()


def test_jobs_of_a_sweep_that_have_left_little_are_counted(tmp_path):
    write_small(tmp_path / "lora_1a")
    (tmp_path / "lora_2b").mkdir()
    (tmp_path / "lora_2b" / "summary.json").write_text('{"status": "failed", "reason": "early"}')
    (tmp_path / "sweep.json").write_text(json.dumps({"jobs": [{"id": "1a"}, {"id": "2b"}, {"id": "3c"}]}))
    report = assemble(config(tmp_path))
    assert [run.status for run in report.runs] == ["finished", "failed"]
    assert any(flag.text.startswith("1 job of the sweep not begun") for flag in report.flags)


def test_unfinished_runs_alone_are_refused(tmp_path):
    write_small(tmp_path / "a", status="failed", reason="the disk is full.")
    with pytest.raises(DataError, match=r"found none of 1 \(a: failed: the disk is full\)"):
        assemble(config(tmp_path))
    write_small(tmp_path / "b", metrics={})
    with pytest.raises(DataError, match="found none measured"):
        assemble(config(tmp_path))


def test_runs_of_different_tasks_are_refused(tmp_path):
    write_small(tmp_path / "a", metrics={"test/exact_match": 1.0})
    write_small(tmp_path / "b", metrics={"validation/loss": 1.0})
    with pytest.raises(DataError, match=r"found none in common \(some have test/exact_match, others validation/loss\)"):
        assemble(config(tmp_path))


def test_what_differs_besides_the_sweep_is_said_first(tmp_path):
    for seed in (1, 2, 3):
        write_run(tmp_path / f"a{seed}", "lora", 1e-3, 8, seed, commit="aaaabbbbcccc" if seed == 3 else "ddddeeee")
        write_run(tmp_path / f"b{seed}", "vera", 1e-3, 8, seed, **{"data": "other"} if seed == 2 else {})
    (tmp_path / "b2").rename(tmp_path / f"{'peft-vera_' * 5}1a2b3c4d")
    found = flags(tmp_path)
    assert any(
        t.startswith("Not all runs have the same data: ") and t.endswith("Unlike most: …_1a2b3c4d.") for t in found
    )
    assert any("same code: 3f7e8e6a (3 runs), ddddeeee (2 runs), aaaabbbb (1 run)" in text for text in found)
    assert any("budgets are not equal: trainable parameters 7,200 to 116,736, 16.2 times" in text for text in found)


def test_figures_over_different_test_examples_are_not_compared(tmp_path):
    for seed in (1, 2):
        write_run(tmp_path / f"a{seed}", "lora", 1e-3, 8, seed)
        write_run(tmp_path / f"b{seed}", "vera", 1e-3, 8, seed, test_data="other")
    report = assemble(config(tmp_path))
    assert report.standings == {}
    assert any("over different test examples" in flag.text for flag in report.flags)


def test_data_that_was_swept_is_no_warning(tmp_path):
    for path in ("a", "b"):
        provenance = {"data_sha256": {path: path, "t": "t"}}
        keys = {"data.path": path, "data.test_path": "t"}
        metrics = {"test/loss": 1.0 if path == "a" else 2.0}
        write_small(tmp_path / path, 1, metrics, config=keys, typed={"data.path": path}, provenance=provenance)
    report = assemble(config(tmp_path))
    (flag,) = [flag for flag in report.flags if "Other data" in flag.text]
    assert not flag.is_warning
    assert report.standings  # the test examples are the same


def test_both_sources_of_noise_are_told_apart(tmp_path):
    for seed in (1, 2, 3):
        write_run(tmp_path / f"a{seed}", "lora", 1e-3, 8, seed, accuracy=0.95)
        write_run(tmp_path / f"b{seed}", "vera", 1e-3, 8, seed, accuracy=0.6)
    report = assemble(config(tmp_path, metrics=["test/exact_match", "test/loss"]))
    best = report.standings["test/exact_match"].best
    assert report.row(best).group.levels["peft"] == "lora"
    assert report.standings["test/exact_match"].is_clear
    (over,) = report.over_examples.values()
    assert report.example_metric == report.main
    assert (over.count, over.p_value) == (300, pytest.approx(1 / 10_001))
    means = [report.row(number).spreads["test/exact_match"].mean for number in (1, 2)]
    assert over.change == pytest.approx(min(means) - max(means))
    assert over.interval is not None
    assert over.interval[0] < over.change < over.interval[1] < 0


def test_differences_below_the_noise_floor_are_marked(run, tmp_path):
    for method, accuracy in (("lora", 0.90), ("dora", 0.91)):
        for seed in (1, 2):
            write_run(tmp_path / "runs" / f"{method}{seed}", method, 1e-3, 8, seed, accuracy=accuracy)
    study = {"test/exact_match": {"same_seed": 0.001, "other_seeds": 0.5, "n": 8}, "test/loss": {"same_seed": None}}
    (tmp_path / "noise.json").write_text(json.dumps(study))
    assert run("runs", "noise=.", "figures=false").returncode == 0
    text = (tmp_path / "runs" / "report" / "report.md").read_text()
    assert "below the noise of other seeds" in text
    assert "†" in text
    (tmp_path / "runs" / "noise.json").write_text("[1]")
    assert run("runs", "figures=false").stderr.startswith("error: runs/noise.json: expected {")


def test_runs_repeated_with_one_seed_are_a_floor_and_count_once(tmp_path):
    for name, seed, value in (("a", 1, 0.90), ("b", 1, 0.92), ("c", 2, 0.95)):
        write_small(tmp_path / name, seed=seed, metrics={"test/exact_match": value})
    report = assemble(config(tmp_path))
    (row,) = report.rows
    assert (row.spreads["test/exact_match"].count, row.spreads["test/exact_match"].mean) == (2, pytest.approx(0.93))
    floor = report.floors["test/exact_match"]
    assert floor.same_seed == pytest.approx(0.02 / 2**0.5)
    assert floor.other_seeds == pytest.approx(0.04 / 2**0.5)


def test_what_is_the_same_in_all_runs_decides_nothing(tmp_path):
    for name, loss in (("a", 1.0), ("b", 2.0)):
        for seed in (1, 2):
            metrics = {"test/exact_match": 0.0, "test/loss": loss + seed / 100}
            write_small(tmp_path / f"{name}{seed}", seed, metrics, config={"x": name}, typed={"x": name})
    report = assemble(config(tmp_path))
    assert [metric.name for metric in report.metrics] == ["test/loss", "test/exact_match"]
    assert list(report.standings) == ["test/loss"]


def test_a_search_with_many_values_is_cut_at_quartiles(tmp_path):
    for number in range(12):
        rate = 10 ** (-5 + number / 4)
        metrics = {"test/loss": float(number // 3)}
        write_small(tmp_path / str(number), config={"optim.lr": rate}, typed={"optim.lr": rate}, metrics=metrics)
    analysis = assemble(config(tmp_path)).analysis
    assert analysis is not None
    assert [(term.name, term.degrees) for term in analysis.terms] == [("optim.lr", 3)]
    assert analysis.terms[0].share == pytest.approx(1)


def test_nothing_in_a_configuration_acts(run, tmp_path):
    for number, value in enumerate((HOSTILE, "plain")):
        for seed in (1, 2):
            keys = {"data.template": value}
            metrics = {"test/loss": 1.0 + number + seed / 10}
            write_small(tmp_path / "runs" / f"{number}{seed}", seed, metrics, config=keys, typed={"data.template": "x"})
    assert run("runs").returncode == 0
    folder = tmp_path / "runs" / "report"
    page = (folder / "report.html").read_text()
    assert page.count("<script") == 1  # the page's own, allowed by its hash
    assert "\x1b" not in page
    assert "‮" not in page
    rows = list(csv.DictReader((folder / "results.csv").open(newline="")))
    assert rows[0]["config.data.template"].startswith("[a] </script>")
    assert "\\$\\textbackslash{}frac\\{1\\}\\{0\\}\\$" in (folder / "table.tex").read_text()
    _compile(folder / "table.tex")


def test_paths_below_the_working_folder_are_relative(run, tmp_path):
    for name in ("a", "b"):
        keys = {"data.path": f"{tmp_path}/data/{name}.jsonl", "model.path": f"{tmp_path}/base"}
        provenance = {"base_model": {"path": keys["model.path"], "revision": name}}
        write_small(tmp_path / "runs" / name, 1, {"test/loss": 1.0}, config=keys, typed=keys, provenance=provenance)
    (tmp_path / "empty").mkdir()
    done = run("runs", f"{tmp_path}/empty", f"to={tmp_path}/said", "figures=false")
    assert done.returncode == 0, done.stderr
    assert "report       said/report.html\n" in done.stdout
    pages = [(tmp_path / "said" / name).read_text() for name in ("report.html", "report.md", "table.tex")]
    assert not any(str(tmp_path) in text for text in [done.stdout, *pages])
    assert "data/a.jsonl" in pages[0]


def test_text_for_latex():
    assert tex("a_b & 50 % ü 中 ð «") == "a\\_b \\& 50 \\% ü {[}U+4E2D{]} {[}U+00F0{]} {[}U+00AB{]}"


def _compile(path):
    """The table as a document of its own, and as part of a paper; where there is no LaTeX, nothing is shown."""
    if shutil.which("pdflatex") is None:
        return
    paper = path.with_name("paper.tex")
    paper.write_text("\\documentclass{article}\\usepackage{booktabs}\\begin{document}A\\input{table}B\\end{document}")
    for file in (path, paper):
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-draftmode", file.name]
        done = subprocess.run(command, cwd=path.parent, capture_output=True, timeout=60)
        assert done.returncode == 0, done.stdout[-1500:]


@pytest.mark.parametrize("field", ["runs", "metrics"])
def test_settings_are_checked(field):
    wrong = {"runs": {"runs": []}, "metrics": {"runs": ["a"], "metrics": ["b", "b"]}}[field]
    with pytest.raises(ConfigError, match=f"^{field}: "):
        ReportConfig(**wrong)


@pytest.mark.slow
def test_a_report_needs_no_torch(quiet_environment, tmp_path):
    write_small(tmp_path / "a")
    code = (
        "import sys; sys.argv = ['tunelab', 'report', 'a']; from tunelab import cli; cli.main(); "
        "print(sorted(set(sys.modules) & {'torch', 'transformers', 'peft', 'scipy'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=quiet_environment, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_losses_over_other_supervised_tokens_are_not_compared(tmp_path):
    for seed in (1, 2, 3):
        for name, supervised, loss in (("responses", 14_074, 0.05), ("all", 33_000, 0.08)):
            figures = {
                "test/num_examples": 300.0,
                "test/num_supervised_tokens": float(supervised),
                "test/loss": loss + seed / 1000,
                "test/exact_match": loss * 10,
            }
            keys = {"data.train_on": name}
            write_small(tmp_path / f"{name}{seed}", seed, figures, config=keys, typed=keys)
    report = assemble(config(tmp_path))
    assert list(report.standings) == ["test/exact_match"]
    assert any("test/loss is over other tokens in some runs (14,074 to 33,000" in flag.text for flag in report.flags)
