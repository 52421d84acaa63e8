import io
import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console, RenderableType

from tunelab.evaluation.comparing import Comparison, compare, compare_models
from tunelab.evaluation.evaluating import Prediction, SplitEvaluation
from tunelab.evaluation.metrics import REGISTRY, Answer
from tunelab.evaluation.metrics.token_level import token_level_scores
from tunelab.evaluation.reporting import (
    comparison_table,
    printable,
    results,
    sample_completions,
    spell,
    too_few_lines,
    write_predictions,
)
from tunelab.evaluation.scores import estimates, score_answers

REFERENCES = ['{"name": "Zoë", "order": null}'] * 40
WIDTH = 100


def evaluation(num_right: int, loss: float, names: Sequence[str] = ("exact_match", "field_f1")) -> SplitEvaluation:
    """40 examples of 30 tokens, `num_right` answered right and the others with another name."""
    completions = [REFERENCES[0]] * num_right + ['{"name": "Bo"}'] * (40 - num_right)
    answers = [Answer(c, r, num_tokens=7) for c, r in zip(completions, REFERENCES, strict=True)]
    tokens = np.full(40, 30.0)
    nll = tokens * loss * np.linspace(0.9, 1.1, 40)
    scores = token_level_scores(np.stack([nll, tokens, tokens / 2], axis=1))
    scores += score_answers([REGISTRY[name] for name in names], answers)
    found = estimates(scores)
    metrics = {"num_examples": 40.0, "num_supervised_tokens": 1200.0}
    return SplitEvaluation(metrics | {name: each.value for name, each in found.items()}, [], scores, found)


def make_prediction(completion: str = "four", *, finished: bool = True, prompt: str = "2+2?") -> Prediction:
    return Prediction("rows.jsonl:3", prompt, "four", completion, finished, {"exact_match": 1.0})


def render(renderable, **options) -> str:
    stream = io.StringIO()
    Console(file=stream, width=WIDTH, **options).print(renderable)
    return stream.getvalue()


def table(tuned: SplitEvaluation, base: SplitEvaluation | None = None) -> RenderableType:
    if base is None:
        return comparison_table(tuned, None, {})
    return comparison_table(tuned, base, compare(base.scores, tuned.scores))


def rows(text: str) -> dict[str, list[str]]:
    cells = [re.split(r"  +", line.strip()) for line in text.splitlines() if line.strip()]
    return {first: rest for first, *rest in cells}


def test_table_base_against_tuned():
    text = render(table(evaluation(36, 0.25), evaluation(0, 2.5)))
    found = rows(text)
    assert found["metric"] == ["base", "tuned", "change", "verdict"]
    assert found["exact match %"] == ["0.0", "90.0 [76.9, 96.0]", "+90.0 [74.3, 96.0]", "better"]
    assert found["token accuracy %"][:2] == ["50.0", "50.0 [50.0, 50.0]"]
    assert found["token accuracy %"][-1] == "not distinguishable"
    assert found["loss (nats/token)"][2].startswith("-2.25 [-2.")
    assert found["perplexity"][0].startswith("12.2")
    assert "name %" in found
    assert "40 examples, 1,200 supervised tokens" in text


def test_table_fits_in_100_columns():
    names = [name for name, each in REGISTRY.items() if not each.configured and not each.of_choices]
    text = render(table(evaluation(36, 123.4, names), evaluation(37, 123.5, names)))
    assert all(len(line.rstrip()) <= WIDTH for line in text.splitlines())
    assert text.count("…") == 1  # that of the caption: nothing is cut off
    assert rows(text)["exact match %"][-1] == "not distinguishable"


def test_table_without_base():
    found = rows(render(table(evaluation(36, 0.25))))
    assert found["exact match %"] == ["90.0 [76.9, 96.0]"]


def test_table_with_what_only_one_model_has():
    text = render(table(evaluation(36, 0.25), evaluation(0, 2.5, ["exact_match"])))
    assert rows(text)["field F1 (micro) %"][0] == "–"
    assert rows(text)["field F1 (micro) %"][2:] == ["–", "–"]


def test_table_says_what_does_not_apply():
    tuned = replace(evaluation(36, 0.25), not_applicable={"bleu": "no example has a completion"})
    assert "bleu: not applicable, no example has a completion" in render(table(tuned))


def test_table_says_how_many_examples_have_no_completion():
    tuned = evaluation(36, 0.25)
    fewer = replace(tuned, metrics=tuned.metrics | {"num_not_completed": 3.0})
    assert "3 examples were not completed: they have no prompt" in " ".join(
        render(comparison_table(fewer, None, {})).split()
    )
    assert "not completed" not in render(comparison_table(tuned, None, {}))


def test_table_shows_better_and_worse():
    text = render(table(evaluation(3, 0.2), evaluation(30, 0.5)),
                  force_terminal=True, color_system="standard", no_color=False)  # fmt: skip
    assert re.search(r"loss.*\x1b\[32mbetter", text)
    assert re.search(r"exact match.*\x1b\[31mworse", text)


def test_results_stand_beside_the_metrics():
    base, tuned = evaluation(0, 2.5), evaluation(36, 0.25)
    models = {"base": base, "tuned": tuned}
    compared = compare_models({name: each.scores for name, each in models.items()}, "base")
    found = results("test", models, compared, "tuned")
    assert found["metrics"]["base/test/exact_match"] == 0
    assert found["metrics"]["test/exact_match"] == 0.9
    assert found["intervals"]["test/exact_match"] == pytest.approx([0.769, 0.960], abs=1e-3)
    assert found["counts"]["base/test/loss"] == 40
    assert found["comparisons"]["test/exact_match"]["verdict"] == "better"
    assert "not_applicable" not in found
    assert set(results("test", {"base": base}, {}, "tuned")) == {"metrics", "intervals", "counts"}
    assert json.loads(json.dumps(found["intervals"])) == found["intervals"]


@pytest.mark.parametrize(
    ("value", "spread", "shown"),
    [
        (0.00301, 0.0012, "0.0030"),
        (1.0885, 0.05, "1.09"),
        (12.1825, 0.9, "12.2"),
        (1234.5, 300, "1,234"),
        (170594.1234567, 20_000, "1.71e+05"),
        (8.5e300, math.inf, "8.50e+300"),
        (math.inf, math.nan, "inf"),
        (12.3456, 0, "12.3"),
        (0.0, 0, "0.00"),
        (-0.00001, 1, "0.0"),
    ],
)
def test_numbers_have_the_digits_that_their_interval_makes_sense_of(value: float, spread: float, shown: str):
    assert spell(value, spread) == shown


def test_a_change_has_a_sign():
    assert [spell(value, 1.0, "+") for value in (2.0, -2.0, -0.001)] == ["+2.0", "-2.0", "+0.0"]


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


def test_samples_without_their_prompts():
    text = render(sample_completions([make_prediction()], with_prompts=False))
    assert "2+2?" not in text
    assert "rows.jsonl:3" in text
    assert "four" in text


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


@pytest.mark.parametrize(("count", "said"), [(6, True), (8, True), (9, False), (300, False)])
def test_too_few_examples_for_any_verdict_are_said(count: int, said: bool):
    """Of seven comparisons the smallest adjusted p-value is 7 · 2 / 2ⁿ: 0.055 for 8 examples, 0.027 for 9."""
    compared = [Comparison(-1.0, count, p_value=2 / 2**count, p_value_holm=0.2) for _ in range(7)]
    compared.append(Comparison(3.0, count))  # neither better nor worse: no test
    lines = too_few_lines(compared)
    assert bool(lines) == said
    if said:
        assert re.match(f"{count} examples are too few .* over 7 comparisons it takes 9$", lines[0])
