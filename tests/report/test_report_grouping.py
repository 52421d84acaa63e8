"""Which runs are one configuration, and what was swept."""

import json

import pytest
from run_folders import write_small

from tunelab.evaluation.metrics import REGISTRY
from tunelab.evaluation.metrics.token_level import LOSS, PERPLEXITY, TOKEN_ACCURACY
from tunelab.report.formatting import count_text, decimals_for, fixed, level_text, p_text, seconds_text
from tunelab.report.grouping import coarsened, differing_keys, group_runs
from tunelab.report.metrics import Metric, metric_of
from tunelab.report.reading import find_runs, read_run


def grouped(tmp_path, *runs):
    for number, run in enumerate(runs):
        write_small(tmp_path / f"run{number:02}", **run)
    folders, _ = find_runs([str(tmp_path)])
    return group_runs([read_run(folder) for folder in folders])


def lora(**changes):
    return {
        "config": {"peft._target_": "peft.LoraConfig", "peft.r": 8, **changes},
        "typed": {"peft": "lora", **changes},
    }


IA3 = {"config": {"peft._target_": "peft.IA3Config"}, "typed": {"peft": "ia3"}}


def test_a_groups_choice_is_one_factor_whatever_changes_with_it(tmp_path):
    factors, groups = grouped(tmp_path, {**lora(), "seed": 1}, {**lora(), "seed": 2}, {**IA3, "seed": 1})
    assert [(factor.name, factor.levels) for factor in factors] == [("peft", ("lora", "ia3"))]
    assert factors[0].keys == ("peft._target_", "peft.r")
    assert [[run.seed for run in group.runs] for group in groups] == [[1, 2], [1]]
    assert differing_keys(groups) == ["peft._target_", "peft.r"]
    assert [group.label for group in groups] == ["lora", "ia3"]


def test_numbers_are_in_order_and_their_spelling_does_not_count(tmp_path):
    runs = [
        {"config": {"optim.lr": rate}, "typed": {"optim.lr": text}} for rate, text in ((1e-3, "1e-3"), (1e-4, "0.0001"))
    ]
    again = {"config": {"optim.lr": 1e-3}, "typed": {"optim.lr": "0.001"}, "seed": 2}
    factors, groups = grouped(tmp_path, *runs, again)
    assert [(factor.name, factor.levels, factor.is_number) for factor in factors] == [("optim.lr", (1e-4, 1e-3), True)]
    assert [len(group.runs) for group in groups] == [1, 2]


def test_one_value_spelled_in_two_ways_is_one_row(tmp_path):
    spelled = [("16", "0", "[1, 2.0]"), ("16.0", "0.0", "[1.0, 2]"), ("1.6e+1", "0e0", "[1e0, 2e0]")]
    for number, (alpha, dropout, sizes) in enumerate(spelled):
        folder = write_small(tmp_path / f"run{number}", seed=number)
        (folder / "config.yaml").write_text(f"seed: {number}\npeft:\n  a: {alpha}\n  d: {dropout}\n  s: {sizes}\n")
        (folder / "overrides.yaml").write_text(f"- peft.a={alpha}\n- ++peft.d={dropout}\n")
    other = write_small(tmp_path / "other")
    (other / "config.yaml").write_text("seed: 0\npeft: {a: 16, d: true, s: [1, 2]}\n")
    (other / "overrides.yaml").write_text("- peft.d=true\n")
    folders, _ = find_runs([str(tmp_path)])
    factors, groups = group_runs([read_run(folder) for folder in folders])
    assert [(factor.name, factor.levels) for factor in factors] == [("peft.d", (True, 0))]
    assert [len(group.runs) for group in groups] == [1, 3]


def test_a_choice_is_the_same_typed_or_not(tmp_path):
    default = {"config": {**lora()["config"], "optim.lr": 1e-4}, "typed": {"optim.lr": "1e-4"}}
    quoted = {"config": {**lora(**{"peft.r": 16})["config"], "optim.lr": 1e-5}}
    quoted["typed"] = {"peft": "lora", "peft.r": 16, "optim.lr": "1e-5"}
    typed = {"config": {**lora()["config"], "optim.lr": 1e-3}, "typed": {"peft": "lora", "optim.lr": 1e-3}}
    factors, groups = grouped(tmp_path, default, typed, quoted)
    assert [factor.name for factor in factors] == ["optim.lr", "peft.r"]
    assert len(groups) == 3


def test_what_was_not_typed_becomes_a_factor_only_where_needed(tmp_path):
    other = {"config": {"optim.lr": 1.0, "data.path": "b"}, "typed": {"optim.lr": "1.0"}}
    same = {"config": {"optim.lr": 1.0, "data.path": "c"}, "typed": {"optim.lr": "1.0"}}
    factors, _ = grouped(tmp_path / "one", {"config": {"data.path": "a"}}, other)
    assert [factor.name for factor in factors] == ["optim.lr"]
    assert factors[0].keys == ("optim.lr", "data.path")
    factors, groups = grouped(tmp_path / "two", {"config": {"data.path": "a"}}, other, same)
    assert [factor.name for factor in factors] == ["optim.lr", "data.path"]
    assert len(groups) == 3


def test_values_that_are_swept_in_step_are_one_factor(tmp_path):
    factors, _ = grouped(tmp_path, lora(**{"optim.lr": 0.1}), lora(**{"optim.lr": 0.2, "peft.r": 16}),
                         lora(**{"optim.lr": 0.3, "peft.r": 32}))  # fmt: skip
    assert [factor.name for factor in factors] == ["optim.lr & peft.r"]
    assert factors[0].levels == ("0.1 & 8", "0.2 & 16", "0.3 & 32")


def test_seed_name_and_loggers_make_no_other_configuration(tmp_path):
    factors, groups = grouped(
        tmp_path,
        {"config": {"name": "a", "logger.csv.x": 1, "sweep.workers": 2}},
        {"config": {"name": "b"}, "seed": 2, "typed": {"name": "b", "logger": "none"}},
    )
    assert (factors, len(groups)) == ([], 1)
    assert groups[0].label == "all runs"


def test_true_and_one_are_not_alike(tmp_path):
    factors, groups = grouped(
        tmp_path, {"config": {"peft.x": 1}}, {"config": {"peft.x": True}}, {"config": {"peft.x": "1"}}
    )
    assert len(groups) == 3
    assert [level_text(level) for level in factors[0].levels] == ["1", "true", "1"]


def test_an_untyped_group_is_the_default(tmp_path):
    factors, _ = grouped(tmp_path, {"config": {"peft._target_": "peft.LoraConfig"}}, IA3)
    assert factors[0].levels == ("(default)", "ia3")


def test_many_numbers_are_cut_at_their_quartiles():
    found = coarsened([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8])
    assert found[:3] == ["0.1 to 0.2", "0.1 to 0.2", "0.3 to 0.4"]
    assert len(set(found)) == 4


def test_damaged_and_unfinished_runs_are_runs(tmp_path):
    write_small(tmp_path / "fine")
    (write_small(tmp_path / "damaged") / "summary.json").write_text('{"status": ')
    (write_small(tmp_path / "list") / "config.yaml").write_text("- a\n")
    (write_small(tmp_path / "killed") / "summary.json").unlink()
    folders, _ = find_runs([str(tmp_path)])
    status = {folder.name: read_run(folder).status for folder in folders}
    assert status == {"fine": "finished", "damaged": "unreadable", "list": "unreadable", "killed": "no summary"}


def test_runs_are_found_at_any_depth_and_once(tmp_path):
    write_small(tmp_path / "runs" / "a" / "one")
    write_small(tmp_path / "runs" / "b" / "two")
    (tmp_path / "runs" / "report").mkdir()
    folders, empty = find_runs(
        [str(tmp_path / "runs"), str(tmp_path / "runs" / "a"), str(tmp_path / "runs" / "report")]
    )
    assert [folder.name for folder in folders] == ["one", "two"]
    assert empty == [str(tmp_path / "runs" / "report")]


def test_the_list_of_metrics_is_that_of_the_registry():
    for metric in (*REGISTRY.values(), LOSS, PERPLEXITY, TOKEN_ACCURACY):
        known = metric_of(f"test/{metric.name}")
        assert (known.better, known.scale) == (metric.better, metric.unit.scale), metric.name
        assert known.is_known or metric.better is None, metric.name


def test_a_metric_of_a_part_is_known_by_its_kind():
    assert metric_of("test/field_f1/date") == Metric("test/field_f1/date", True)
    assert metric_of("test/pain").is_known is False
    assert metric_of("test/pain", ["pain"]).better is False
    assert metric_of("test/loss").label == "test loss (nats/token)"


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (level_text(1e-4), "1e-4"), (level_text(0.00015), "1.5e-4"),
        (level_text(0.02), "0.02"), (level_text(None), "null"),
        (level_text(3e-4), "3e-4"), (level_text(1.0), "1"), (level_text(True), "true"), (level_text(0.0), "0"),
        (fixed(-0.004, 2), "0.00"), (fixed(-1.25, 1), "−1.2"),
        (fixed(float("nan"), 1), "–"), (fixed(0.5, 1, "+"), "+0.5"),
        (p_text(0.0321), "0.032"), (p_text(4e-6), "4e-06"), (p_text(None), "–"),
        (count_text(9216), "9,216"), (count_text(1_770_000), "1.77 M"), (seconds_text(42.0), "42 s"),
        (seconds_text(750.0), "12.5 min"), (seconds_text(11000), "3.1 h"),
        (decimals_for([0.4, 0.35], [90.0, 91.0]), 2), (decimals_for([4.2], [90.0]), 1), (decimals_for([], [0.5]), 4),
    ],
)  # fmt: skip
def test_numbers_are_written_as_finely_as_they_are_known(shown, expected):
    assert shown == expected


def test_a_list_is_one_value(tmp_path):
    factors, _ = grouped(tmp_path, {"config": {"data.choices": ["a", "b"]}}, {"config": {"data.choices": ["a", "c"]}})
    assert factors[0].levels == (json.dumps(["a", "b"]), json.dumps(["a", "c"]))
