import io
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from sample_reports import figures_of, hostile_report, make_report

from tunelab.data.reporting import MAX_BINS, DataReport, histogram, report_table


def show(report, width=120, **options):
    console = Console(file=io.StringIO(), width=width, **options)
    console.print(report_table(report))
    return console.file.getvalue()


def test_round_trip_through_json():
    report = make_report()
    again = DataReport.from_dict(json.loads(json.dumps(report.to_dict())))
    assert again == report
    assert again.splits["train"].length_histogram[0] == (50, report.splits["train"].length_histogram[0][1])


def test_round_trip_of_hostile_text():
    report = hostile_report()
    assert DataReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report


@pytest.mark.parametrize("name", ["sources", "splits", "template", "quality"])
def test_a_report_of_another_version_is_refused(name):
    fields = make_report().to_dict()
    del fields[name]
    with pytest.raises((KeyError, TypeError)):
        DataReport.from_dict(fields)
    with pytest.raises(TypeError):
        DataReport.from_dict({**make_report().to_dict(), "unknown": 1})


@given(st.lists(st.integers(0, 10**6)))
def test_histogram_against_plain_counting(values):
    bins = histogram(values)
    assert sum(count for _, count in bins) == len(values)
    assert len(bins) <= MAX_BINS
    below = 0
    for bound, count in bins:
        below += count
        assert below == sum(value <= bound for value in values)


@given(st.lists(st.integers(0, 10**9), min_size=1))
def test_histogram_has_equal_round_bins_as_narrow_as_can_be(values):
    bins = histogram(np.array(values))
    width = bins[0][0]
    assert [bound for bound, _ in bins] == [width * (i + 1) for i in range(len(bins))]
    assert str(width).rstrip("0") in {"1", "2", "5"}
    assert bins[-1][1] > 0
    narrower = width * 2 // 5 if str(width).startswith("5") else width // 2
    assert width == 1 or max(values) > narrower * MAX_BINS


def test_histogram_of_small_sets():
    assert histogram([]) == []
    assert histogram([0]) == [(1, 1)]
    assert histogram([1, 1, 3]) == [(1, 2), (2, 0), (3, 1)]
    assert histogram([1024] * 4)[-1] == (1050, 4)


@pytest.mark.parametrize("width", [80, 120])
def test_table_has_every_figure(width):
    report = make_report()
    text = show(report, width)
    for split in report.splits.values():
        for figure in figures_of(split):
            assert figure in text
    shares = [f"{100 * s.num_supervised_tokens / s.num_tokens:.1f}" for s in report.splits.values()]
    assert [line.split()[-3:] for line in text.splitlines() if "of all tokens" in line] == [shares]
    assert max(len(line) for line in text.splitlines()) <= width


def test_table_says_what_was_decided():
    text = " ".join(show(make_report()).split())
    for part in (
        "template chatml", "train_on last_response", "1,024 tokens", "over_length truncate_prompt",
        "responses end in <|im_end|>", "auto: columns of first", "columns not used: unused_second", "weight 0.25",
        "The tokenizer has no pad token, so its end token pads.", "first.jsonl:3: expected an object", "more",
    ):  # fmt: skip
        assert part in text
    assert "first.jsonl:4: expected" not in text  # the first ones only


def test_findings_are_told_whole():
    report = make_report()
    first, second = report.quality["findings"]
    narrow = show(report, 80)
    assert all(len(line) <= 80 for line in narrow.splitlines())
    wide = show(report, 300)
    lines = [line for line in wide.splitlines() if "exact duplicates" in line or "secrets" in line]
    assert len(lines) == 2
    assert lines[0].split()[:3] == ["drop", "exact", "duplicates"]
    assert f"{first['num_dropped']:,} dropped" in lines[0]
    assert lines[1].split()[:2] == ["report", "secrets"]
    assert "dropped" not in lines[1]
    for finding in (first, second):
        assert finding["detail"].rstrip(".") in wide
    assert f"{first['origins'][2]} and {first['num_examples'] - 3:,} more" in wide


def test_rows_without_news_are_left_out():
    report = make_report()
    calm = replace(report.splits["train"], num_dropped={}, num_truncated=0, num_windows=0, num_seams_encoded_apart=0,
                   num_supervised_tokens_lost=0)  # fmt: skip
    source = replace(report.sources[0], num_bad=0, unused_columns=[])
    text = show(replace(report, splits={"train": calm}, quality={}, bad_rows=[], num_bad=0, template_policy=[],
                        end_of_turn=None, sources=[source]))  # fmt: skip
    for word in ("dropped", "truncated", "windows", "lost", "seams", "findings", "bad", "weight", "unused", "end in"):
        assert word not in text
    assert "decisions" not in text
    assert "tokens" in text


def test_no_split_and_no_token():
    empty = replace(make_report().splits["train"], num_tokens=0, num_supervised_tokens=0, num_supervised_tokens_lost=0)
    assert "0.0" in show(replace(make_report(), splits={"train": empty}))
    assert "template" in show(replace(make_report(), splits={}))


def test_hostile_names_are_shown_not_obeyed():
    text = show(hostile_report(), 20_000, force_terminal=True, color_system=None)
    assert "\x1b[31m" not in text
    assert not set("\x07\x00\x9b\u202e\u2066\u2028\ud800") & set(text)
    assert text.count("[red]rich[/red]") >= 8
    assert "\\x1b[31m\\x07" in text


def test_long_names_are_cut():
    report = make_report()
    source = replace(report.sources[0], name="n" * 10**6, unused_columns=["c" * 10**6] * 50)
    text = show(replace(report, sources=[source], bad_rows=["b" * 10**6]), 80)
    assert len(text) < 20_000
    assert "characters not shown" in text
    assert "and 42 more" in text.replace("\n", " ")


def test_no_colour():
    assert "\x1b" not in show(make_report(), force_terminal=True, no_color=True, color_system=None)
    assert "\x1b[36m" in show(make_report(), force_terminal=True, color_system="standard", no_color=False)
