"""`python -m tunelab`: what a person types besides train.py and evaluate.py."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def run(command):
    return command


@pytest.mark.slow
def test_a_process_of_its_own_says_one_sentence(quiet_environment, tmp_path):
    command = [sys.executable, "-m", "tunelab", "report", "nowhere"]
    done = subprocess.run(command, capture_output=True, text=True, env=quiet_environment, cwd=tmp_path, timeout=120)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    content = [{"question": f"what is {i} plus {i}?", "answer": f"it is {2 * i}"} for i in range(80)]
    path.write_text("".join(json.dumps(row) + "\n" for row in content))
    return path


def test_commands_are_listed_and_a_wrong_one_is_refused(run):
    shown = run("--help")
    assert shown.returncode == 0
    assert "inspect " in shown.stdout
    assert all(
        f"  {name} " in shown.stdout
        for name in ("prepare", "export", "chat", "review", "ratings", "judge", "report", "noise", "reproduce")
    )
    for arguments in ((), ("inspct",)):
        refused = run(*arguments)
        assert refused.returncode == 1
        assert refused.stderr.startswith(
            "error: expected a command (inspect, prepare, export, chat, review, ratings, judge, report, noise, "
            "reproduce), found "
        )


HELP = """
import sys
from tunelab import cli
for name in ("export", "chat", "review", "ratings", "judge", "report", "noise", "reproduce"):
    sys.argv = ["tunelab", name, "--help"]
    try:
        cli.main()
    except SystemExit as end:
        assert not end.code, end.code
print("IMPORTED", sorted(set(sys.modules) & {"torch", "transformers", "peft"}))
"""


@pytest.mark.slow
def test_help_needs_no_torch(quiet_environment, tmp_path):
    command = [sys.executable, "-c", HELP]
    shown = subprocess.run(command, capture_output=True, text=True, env=quiet_environment, cwd=tmp_path, timeout=120)
    assert shown.returncode == 0, shown.stderr
    assert "kind=merged dtype=bfloat16" in shown.stdout
    assert "/reset" in shown.stdout
    assert "IMPORTED []" in shown.stdout


def test_inspect_shows_examples_and_writes_pages(run, rows, tmp_path):
    done = run("inspect", "data=file", f"data.path={rows}", "num_examples=2", "to=pages", "optim.lr=1")
    assert done.returncode == 0, done.stderr
    assert "prompt_completion" in done.stdout
    assert "it is" in done.stdout
    assert sorted(path.name for path in (tmp_path / "pages").iterdir()) == [
        "data_report.html",
        "data_report.json",
        "examples.html",
    ]
    report = json.loads((tmp_path / "pages" / "data_report.json").read_text())
    assert sum(split["num_rows"] for split in report["splits"].values()) == 80
    assert "rows.jsonl:" in (tmp_path / "pages" / "examples.html").read_text()


def test_prepare_writes_what_train_reads(run, rows, tmp_path):
    done = run("prepare", "data=file", f"data.path={rows}", "to=cleaned")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "cleaned"
    assert {path.name for path in folder.iterdir()} == {
        "README.md", "arrow", "data_report.json", "test.jsonl", "train.jsonl", "validation.jsonl",
    }  # fmt: skip
    assert len((folder / "train.jsonl").read_text().splitlines()) in range(60, 80)
    assert "python train.py data=file data.path=cleaned/train.jsonl" in done.stdout
    again = run("prepare", "data=file", f"data.path={rows}", "to=cleaned")
    assert again.returncode == 1
    assert again.stderr.startswith("error: to: expected a new folder")
    assert len(again.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["inspect", "data=file"], "data.path"),
        (["prepare", "data=file", "data.path=nowhere.jsonl", "to=cleaned"], "nowhere.jsonl"),
        (["inspect", "data.pth=x"], "did you mean 'data.path'?"),
        (["inspect", "data.group_by=x"], "data.group_by: set, but nothing uses it"),
        (["prepare"], "to: expected a value"),
        (["export", "to=x"], "run: expected a run folder or an adapter, found neither"),
        (["chat", "temperature=-1"], "temperature: expected 0 or more, found -1.0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_one_sentence(run, tmp_path, arguments, said):
    done = run(*arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.strip().splitlines()) == 1
    assert said in done.stderr
    assert not (tmp_path / "cleaned").exists()
