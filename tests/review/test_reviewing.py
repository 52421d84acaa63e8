"""`tunelab review` and `tunelab ratings`: the page, the blind sheet, and what filled-in sheets say."""

import base64
import csv
import hashlib
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunelab.config import RatingsConfig, ReviewConfig
from tunelab.errors import ConfigError, DataError
from tunelab.review.command import rate, review
from tunelab.review.marking import MAX_WORDS, Mark, mark_differences
from tunelab.review.pages import comparison_page
from tunelab.review.predictions import read_predictions
from tunelab.review.ratings import Rating, read_key, read_ratings, summarise
from tunelab.review.sheets import Pick, make_sheet, sheet_csv, sheet_page

HOSTILE = "</script></style><script>alert(1)</script><img src=x onerror=alert(2)>\"' {{ 7*7 }} \x1b[31m ‮ =1+1"


def line(model, number, completion, prompt="say it", **scores):
    fields = {"id": f"test.jsonl:{number}", "model": model, "prompt": prompt, "reference": f"it is {number}"}
    return json.dumps({**fields, "completion": completion, "finished": True, "scores": scores})


@pytest.fixture
def predictions(tmp_path):
    """Two models on twenty examples: `tuned` is right on the even ones, `base` on 1; on 7 both write the same."""
    lines = []
    for number in range(20):
        lines.append(line("base", number, f"it is {'one' if number == 1 else 'x'}", exact_match=float(number == 1)))
        written = "it is x" if number == 7 else f"it is {number if number % 2 == 0 else 'y'}"
        lines.append(line("tuned", number, written, exact_match=float(number % 2 == 0)))
    path = tmp_path / "run" / "predictions.jsonl"
    path.parent.mkdir()
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


class Page(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.tags, self.text, self.open = [], "", []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.text += data

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


@given(st.text("ab .\n", max_size=30), st.text("ab .\n", max_size=30))
def test_marks_rebuild_both_texts(reference, completion):
    pieces = mark_differences(reference, completion)
    assert "".join(text for mark, text in pieces if mark is not Mark.MISSING) == completion
    if reference.strip():
        assert "".join(text for mark, text in pieces if mark is not Mark.ADDED) == reference


def test_what_differs_is_marked_word_by_word():
    assert mark_differences("order 12, red", "order 13, red") == [
        (Mark.SAME, "order "), (Mark.MISSING, "12"), (Mark.ADDED, "13"), (Mark.SAME, ", red"),
    ]  # fmt: skip
    assert mark_differences("", "all of it") == [(Mark.SAME, "all of it")]
    assert mark_differences("a b", "") == [(Mark.MISSING, "a b")]
    assert mark_differences("a " * MAX_WORDS, "b") == [(Mark.SAME, "b")]


def test_the_page_has_the_worst_first_and_runs_its_own_script_only(predictions):
    models, examples = read_predictions([predictions])
    html = comparison_page("a title", models, examples, max_examples=1000)
    page = Page(html)
    articles = page.all("article")
    changes = [json.loads(each["data-changes"])[models[-1]]["exact_match"] for each in articles]
    assert changes == [-1.0, *[0.0] * 9, *[1.0] * 10]
    assert [int(each["data-place"]) for each in articles][:3] == [1, 3, 5]
    [policy] = [meta["content"] for meta in page.all("meta") if "http-equiv" in meta]
    [source] = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
    assert policy.startswith("default-src 'none';")
    assert policy.endswith(f"; script-src 'sha256-{digest}'")
    assert "10" in re.findall(r"exact match</th>(.*?)</tr>", html)[0]


def test_the_page_says_what_it_leaves_out(predictions):
    models, examples = read_predictions([predictions])
    page = Page(comparison_page("t", models, examples, max_examples=3))
    assert [each["data-place"] for each in page.all("article")] == ["1", "3", "5"]
    assert "20 examples, of which the 3 whose exact match fell most are on this page" in page.text


def test_lower_is_better_where_the_metric_says_so(tmp_path):
    path = tmp_path / "predictions.jsonl"
    path.write_text("\n".join(line(model, 0, "x", edit_distance=value) for model, value in (("a", 0.2), ("b", 0.9))))
    page = Page(comparison_page("t", *read_predictions([path]), max_examples=9))
    assert json.loads(page.all("article")[0]["data-changes"])["b"]["edit_distance"] == pytest.approx(-0.7)


def test_of_several_models_each_is_counted_and_the_last_one_orders(tmp_path):
    path = tmp_path / "predictions.jsonl"
    scores = {"a": (1, 0, 1), "b": (0, 0, 1), "c": (1, 1, 0)}
    lines = [
        line(model, place, "x", exact_match=value) for model, all in scores.items() for place, value in enumerate(all)
    ]
    path.write_text("\n".join(lines))
    models, examples = read_predictions([path])
    html = comparison_page("t", models, examples, max_examples=9)
    page = Page(html)
    assert [each["data-place"] for each in page.all("article")] == ["2", "0", "1"]
    rows = re.findall(r"exact match</th><td><bdi>(.)</bdi></td>" + r'<td class="number">(\d)</td>' * 3, html)
    assert rows == [("b", "1", "0", "2"), ("c", "1", "1", "1")]
    assert [each["value"] for each in page.all("option")][-5:-3] == ["c", "b"]


def test_hostile_text_is_shown_literally(tmp_path):
    path = tmp_path / "predictions.jsonl"
    path.write_text("\n".join([line("a", 0, HOSTILE, HOSTILE), line("b", 0, HOSTILE + "!", HOSTILE)]), encoding="utf-8")
    models, examples = read_predictions([path])
    key, items = make_sheet(models, examples, 5, seed=0)
    for html in (comparison_page(HOSTILE, models, examples, 9), sheet_page(key, items)):
        page = Page(html)
        assert len(page.all("script")) == html.count("<script>") == 1
        assert not page.all("img")
        assert not set("\x1b‮") & set(html)
        assert page.text.count("<script>alert(1)</script>") >= 3
        assert not [
            name for _, attrs in page.tags for name in attrs if name.startswith("on") or name in ("src", "href")
        ]
    [row] = csv.DictReader(io.StringIO(sheet_csv(key, items)))
    assert row["prompt"].endswith("\\x1b[31m \\u202e =1+1")


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_no_cell_of_the_sheet_is_a_formula(tmp_path, start):
    path = tmp_path / "predictions.jsonl"
    path.write_text("\n".join([line("a", 0, f"{start}cmd"), line("b", 0, "x")]), encoding="utf-8")
    _, items = made = make_sheet(*read_predictions([path]), 5)
    [row] = csv.DictReader(io.StringIO(sheet_csv(*made)))
    assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for cell in row.values())
    assert {items[0].left, items[0].right} == {f"{start}cmd", "x"}


def test_the_sheet_is_blind_balanced_and_drawn_by_the_seed(predictions):
    models, examples = read_predictions([predictions])
    key, items = make_sheet(models, examples, 100, seed=3)
    assert len(items) == 19
    assert key.num_alike == 1
    assert sorted(item.left for item in key.items.values()).count("tuned") in (9, 10)
    assert (key, items) == make_sheet(models, examples, 100, seed=3)
    assert items != make_sheet(models, examples, 100, seed=4)[1]
    by_id = {example.id: example for example in examples}
    for item in items:
        owner = key.items[item.item]
        assert by_id[owner.id].written[owner.left].completion == item.left
        assert by_id[owner.id].written[owner.right].completion == item.right
    for text in (sheet_csv(key, items), sheet_page(key, items)):
        assert "tuned" not in text
        assert "test.jsonl" not in text
    assert len(make_sheet(models, examples, 5, seed=0)[1]) == 5


def filled(key, choose, rater, delimiter=","):
    """A sheet as a rater sends it back: `choose`: item → model, or None for a tie."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerow(["sheet", "item", "choice", "comment", "rater"])
    for name, item in key.items.items():
        model = choose(item)
        choice = "tie" if model is None else "LEFT" if item.left == model else "right"
        writer.writerow([key.sheet, name.lstrip("0"), choice, "", rater])
    return "﻿" + text.getvalue()


def test_ratings_open_the_key(predictions, tmp_path, capsys):
    review(ReviewConfig(run=str(predictions.parent), seed=1), ())
    folder = predictions.parent / "review"
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*")) == [
        "comparison.html", "rating/sheet.csv", "rating/sheet.html", "rating_key.json",
    ]  # fmt: skip
    key = read_key(folder / "rating_key.json")
    right = {f"test.jsonl:{number}": "tuned" if number % 2 == 0 else None for number in range(20)}
    right["test.jsonl:1"] = "base"
    (tmp_path / "sheets").mkdir()
    (tmp_path / "sheets" / "a.csv").write_text(filled(key, lambda item: right[item.id], "Ann"))
    (tmp_path / "sheets" / "b.csv").write_text(filled(key, lambda item: right[item.id], "", ";"))
    rate(RatingsConfig(key=str(folder / "rating_key.json"), sheets=[str(tmp_path / "sheets")]))
    found = json.loads((folder / "ratings.json").read_text())
    # 10 for tuned, 1 for base, 8 ties and the one that was alike
    assert {name: found["preference"][name] for name in ("num_wins", "num_losses", "num_ties", "win_rate")} == {
        "num_wins": 10, "num_losses": 1, "num_ties": 9, "win_rate": 0.725,
    }  # fmt: skip
    assert found["preference"]["p_value"] == pytest.approx(24 / 2**11)
    assert found["preference"]["verdict"] == "better"
    assert (found["agreement"], found["share_agreed"]) == (1.0, 1.0)
    assert found["raters"] == {"Ann": 19, "b": 19}
    assert "better" in capsys.readouterr().out
    review(ReviewConfig(run=str(predictions.parent), seed=1), ())  # nothing is written over
    assert (predictions.parent / "review-2" / "rating_key.json").is_file()


def test_several_raters_of_an_item_are_one_vote(predictions):
    key, _ = make_sheet(*read_predictions([predictions]), 100, seed=1)
    votes = [("a", Pick.LEFT), ("b", Pick.LEFT), ("c", Pick.RIGHT)]
    name, item = next(iter(key.items.items()))
    report = summarise([Rating(rater, name, choice) for rater, choice in votes], key)
    assert report.preference.num_wins == (item.left == "tuned")
    assert report.preference.num_losses == (item.left == "base")
    assert report.share_agreed == pytest.approx(1 / 3)
    assert report.num_unrated == 18


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("{sheet},99,left,,x", "expected an item of the sheet, found '99'"),
        ("{sheet},1,best,,x", "expected left, right, tie or nothing as choice, found 'best'"),
        ("other,1,left,,x", "expected ratings of sheet"),
        ("{sheet},1,left,,x\n{sheet},1,right,,x", "expected one choice of 'x' for item 01"),
        ("{sheet},1,,,x", "expected ratings, found none"),
    ],
)
def test_what_a_sheet_gets_wrong_is_one_sentence(predictions, tmp_path, row, said):
    key, _ = make_sheet(*read_predictions([predictions]), 100, seed=1)
    path = tmp_path / "r.csv"
    path.write_text("sheet,item,choice,comment,rater\n" + row.format(sheet=key.sheet) + "\n")
    with pytest.raises(DataError, match=re.escape(said)):
        read_ratings([path], key)


def test_files_that_are_none(tmp_path, predictions):
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    key, _ = make_sheet(*read_predictions([predictions]), 9)
    with pytest.raises(DataError, match="expected the columns"):
        read_ratings([tmp_path / "x.csv"], key)
    for content in ("{}", "[]", "x", '{"sheet": "a", "models": ["x"], "items": {}}'):
        (tmp_path / "key.json").write_text(content)
        with pytest.raises(DataError, match=r"expected the rating_key\.json"):
            read_key(tmp_path / "key.json")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "found none that can be read"),
        ("", "expected what two or more models wrote, found none"),
        ('{"id": 1}', r":1: expected a JSON object with id"),
        ("[]", r":1: expected a JSON object with id"),
        (line("a", 0, "x"), "found a; measure both"),
        (line("a", 0, "x") + "\n" + line("b", 1, "x"), "expected models measured on the same examples"),
    ],
)
def test_predictions_that_cannot_be_compared(tmp_path, content, said):
    path = tmp_path / "predictions.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=said):
        review(ReviewConfig(run=str(tmp_path)), ())
    assert not (tmp_path / "review").exists()


def test_several_files_share_a_base_model(predictions, tmp_path):
    other = tmp_path / "second" / "predictions.jsonl"
    other.parent.mkdir()
    other.write_text(predictions.read_text().replace('"it is y"', '"it is z"'))
    models, examples = read_predictions([predictions, other])
    assert models == ["base", "tuned", "second/tuned"]
    assert len(examples) == 20
    assert len(examples[3].written) == 3
    config = ReviewConfig(predictions=[str(predictions), str(other)], to=str(tmp_path / "to"))
    review(config, ())
    assert [path.name for path in (tmp_path / "to").iterdir()] == ["comparison.html"]  # a sheet is for two
    with pytest.raises(ConfigError, match="seed: set, but nothing uses it"):
        review(ReviewConfig(predictions=config.predictions, to=str(tmp_path / "x"), seed=1), ("seed=1",))
    with pytest.raises(ConfigError, match="found no 'tund'"):
        review(ReviewConfig(predictions=config.predictions, models=["base", "tund"]), ())


def test_separators_of_unicode_end_no_line(tmp_path):
    path = tmp_path / "predictions.jsonl"
    text = "one\u2028two\u2029three\x85four"
    rows = [json.loads(line(model, 0, text + model)) for model in "ab"]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    _, [example] = read_predictions([path])
    assert example.written["a"].completion == text + "a"


def test_models_of_one_name_keep_apart(predictions, tmp_path):
    paths = [predictions]
    for sweep, written in (("b", "it is z"), ("c", "it is q")):
        paths.append(tmp_path / sweep / "0" / "predictions.jsonl")
        paths[-1].parent.mkdir(parents=True)
        paths[-1].write_text(predictions.read_text().replace('"it is y"', f'"{written}"'))
    models, _ = read_predictions(paths)
    assert models == ["base", "tuned", "0/tuned", "c/0/tuned"]
    changed = tmp_path / "again.jsonl"
    changed.write_text(paths[-1].read_text().replace("it is q", "it is r"))
    paths[-1].with_name("other.jsonl").write_text(changed.read_text())
    models, _ = read_predictions([*paths, paths[-1].with_name("other.jsonl")])
    assert len(set(models)) == 5


def test_examples_that_only_some_completed_are_counted(predictions, tmp_path, capsys):
    kept = predictions.read_text().splitlines()[3:]  # without base and tuned of the first, and base of the second
    (tmp_path / "fewer.jsonl").write_text("\n".join(each.replace('"tuned"', '"other"') for each in kept))
    config = ReviewConfig(predictions=[str(predictions), str(tmp_path / "fewer.jsonl")], models=["base", "other"])
    review(config, ())
    assert "left out     1 of 20 examples: not all of base, other completed them" in capsys.readouterr().out
    review(ReviewConfig(predictions=config.predictions, models=["base", "tuned"]), ())
    assert "left out" not in capsys.readouterr().out


def test_predictions_of_an_extra_set_are_found_by_its_name(predictions, tmp_path, capsys):
    predictions.rename(predictions.with_name("predictions-safety.jsonl"))
    review(ReviewConfig(run=str(predictions.parent), split="safety"), ())
    assert "comparison.html" in capsys.readouterr().out
    with pytest.raises(DataError, match=r"^split: expected one of safety, whose .*, found 'test'; set split=safety\.$"):
        review(ReviewConfig(run=str(predictions.parent)), ())


def test_a_line_that_is_nested_too_deep_is_one_sentence(tmp_path):
    (tmp_path / "predictions.jsonl").write_text("[" * 100_000)
    with pytest.raises(DataError, match=r"predictions\.jsonl:1: expected a JSON object"):
        review(ReviewConfig(run=str(tmp_path)), ())


def test_sheets_that_came_back_under_one_name_are_two_raters(predictions, tmp_path):
    key, _ = make_sheet(*read_predictions([predictions]), 100, seed=1)
    paths = [tmp_path / name / "sheet.csv" for name in ("ann", "bob")]
    for path, model in zip(paths, ("tuned", "base"), strict=True):
        path.parent.mkdir()
        path.write_text(filled(key, lambda item, model=model: model, ""))
    report = summarise(read_ratings(paths, key), key)
    assert list(report.raters) == [str(path) for path in paths]
    assert report.share_agreed == 0


def test_of_a_sheet_that_is_partly_filled_as_many_alike_count(predictions):
    key, _ = make_sheet(*read_predictions([predictions]), 100, seed=1)
    key = replace(key, num_alike=len(key.items))  # half of all were alike
    some = [Rating("a", name, Pick.LEFT if item.left == "tuned" else Pick.RIGHT) for name, item in key.items.items()][
        :4
    ]
    assert summarise(some, key).preference.win_rate == 0.75
    assert summarise(some, key).preference.num_ties == 4


def test_a_cell_beyond_the_readers_limit_is_one_sentence(predictions, tmp_path):
    key, _ = make_sheet(*read_predictions([predictions]), 100, seed=1)
    path = tmp_path / "r.csv"
    path.write_text("sheet,item,choice\n" + f'{key.sheet},1,left,"' + "x" * 200_000 + "\n")
    before = csv.field_size_limit(100_000)  # one number for all of a process
    try:
        with pytest.raises(DataError, match="expected a row of CSV"):
            read_ratings([path], key)
    finally:
        csv.field_size_limit(before)


def test_long_texts_are_cut_in_the_sheet(tmp_path):
    path = tmp_path / "predictions.jsonl"
    path.write_text("\n".join([line("a", 0, "x" * 150_000), line("b", 0, "y")]))
    made = make_sheet(*read_predictions([path]), 5)
    [row] = csv.DictReader(io.StringIO(sheet_csv(*made)))
    assert max(map(len, row.values())) < 21_000


def test_models_that_agree_on_everything_leave_nothing_to_rate(tmp_path, capsys):
    path = tmp_path / "predictions.jsonl"
    path.write_text(line("a", 0, "x") + "\n" + line("b", 0, "x"))
    review(ReviewConfig(run=str(tmp_path), num_items=7), ("num_items=7",))
    assert [path.name for path in (tmp_path / "review").iterdir()] == ["comparison.html"]
    assert "sheet        none, the models wrote the same everywhere" in capsys.readouterr().out
    with pytest.raises(ValueError, match="found the same for all 1 examples"):
        make_sheet(*read_predictions([path]), 5)


def test_without_a_sheet_the_command_for_one_is_said(tmp_path, capsys):
    lines = [line(name, number, f"{name} {number}", exact_match=1.0) for number in range(2) for name in "abc"]
    (tmp_path / "predictions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    review(ReviewConfig(run=str(tmp_path)), ())
    assert f"python -m tunelab review run={tmp_path} 'models=[a,c]'" in capsys.readouterr().out
