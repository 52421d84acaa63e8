import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from tunelab.evaluation.evaluating import Prediction
from tunelab.evaluation.reporting import comparison_table, printable, sample_completions, write_predictions

BASE = {
    "num_examples": 4.0,
    "num_supervised_tokens": 1200.0,
    "loss": 2.5,
    "perplexity": 12.18,
    "exact_match": 0.01,
}
TUNED = {
    **BASE,
    "loss": 0.25,
    "perplexity": 1.284,
    "exact_match": 0.905,
    "field_f1": 0.98,
    "field_f1/name": 0.5,
}


def make_prediction(completion: str = "four", *, finished: bool = True, prompt: str = "2+2?") -> Prediction:
    return Prediction("rows.jsonl:3", prompt, "four", completion, finished, {"exact_match": 1.0})


def render(renderable, **options) -> str:
    stream = io.StringIO()
    Console(file=stream, width=100, **options).print(renderable)
    return stream.getvalue()


def rows(text: str) -> dict[str, list[str]]:
    cells = [[cell.strip() for cell in line.strip("│┃").split("│")] for line in text.splitlines() if "│" in line]
    return {first: rest for first, *rest in cells}


def test_table_base_against_tuned():
    text = render(comparison_table(TUNED, BASE))
    assert rows(text) == {
        "loss (nats/token)": ["2.5000", "0.2500", "-2.2500"],
        "perplexity": ["12.1800", "1.2840", "-10.8960"],
        "exact match %": ["1.0", "90.5", "+89.5"],
        "field F1 % (micro)": ["–", "98.0", "–"],
        "name": ["–", "50.0", "–"],
    }
    assert "4 examples, 1,200 supervised tokens" in text


def test_table_without_base():
    assert rows(render(comparison_table(TUNED)))["exact match %"] == ["90.5"]


def test_table_shows_better_and_worse():
    text = render(comparison_table({"loss": 0.2, "exact_match": 0.1}, {"loss": 0.5, "exact_match": 0.5}),
                  force_terminal=True, color_system="standard", no_color=False)  # fmt: skip
    assert "\x1b[32m-0.3000" in text
    assert re.search(r"\x1b\[31m *-40\.0", text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb\tc", "a\\nb\\tc"),
        ("\x1b[31mred\x9b", "\\x1b[31mred\\x9b"),
        ("x\u202ey\u2028z", "x\\u202ey\\u2028z"),
        ("\ud800", "\\ud800"),
        ("Zoë 👩‍💻 [bold]", "Zoë 👩‍💻 [bold]"),
    ],
)
def test_printable(text: str, shown: str):
    assert printable(text) == shown


def test_samples_are_text_not_instructions():
    samples = sample_completions([make_prediction("[red]x[/red]\x1b]0;title\x07"), make_prediction("", finished=False)])
    text = render(samples)
    assert "[red]x[/red]\\x1b]0;title\\x07" in text
    assert "(empty)" in text
    assert "cut off" in text
    assert "\x1b" not in text


def test_samples_shorten_a_long_prompt_at_its_start():
    text = render(sample_completions([make_prediction(prompt="begin " + "x" * 50 + " end")], max_characters=10))
    assert "… xxx" not in text
    assert "…xxxxxx end" in text


def test_samples_without_colour(monkeypatch: pytest.MonkeyPatch):
    samples = sample_completions([make_prediction()])
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[32m" in render(samples, force_terminal=True, color_system="standard")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[32m" not in render(samples, force_terminal=True, color_system="standard")


def test_predictions_file(tmp_path: Path):
    path = tmp_path / "predictions.jsonl"
    base, tuned = (
        [make_prediction("a"), make_prediction("b")],
        [make_prediction("Zoë\n"), make_prediction("\ud800")],
    )
    write_predictions(path, {"base": base, "tuned": tuned})
    raw = path.read_text(encoding="utf-8")
    lines = [json.loads(line) for line in raw.splitlines()]
    assert [(line["model"], line["completion"]) for line in lines] == [
        ("base", "a"), ("tuned", "Zoë\n"), ("base", "b"), ("tuned", "\ud800"),
    ]  # fmt: skip
    assert list(lines[0]) == ["id", "model", "prompt", "reference", "completion", "finished", "scores"]
    assert "Zoë" in raw
    assert [file.name for file in tmp_path.iterdir()] == ["predictions.jsonl"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "predictions.jsonl"
    write_predictions(path, {"tuned": [make_prediction()]})
    before = path.read_bytes()
    bad = Prediction("x", "p", "r", "c", True, {"exact_match": float("nan")})
    with pytest.raises(ValueError):
        write_predictions(path, {"tuned": [bad]})
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["predictions.jsonl"]
