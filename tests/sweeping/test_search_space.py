"""What is typed for a search and what is made of it: parameters, conditions, corners, grids, objectives."""

import itertools
import json

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from tunelab.config import DataConfig, EvaluationSetConfig, RunConfig, SearchConfig, TrainerConfig
from tunelab.errors import ConfigError
from tunelab.run import RunFolder
from tunelab.search import read_overrides, without_seeds_of_a_file
from tunelab.sweeping.conditions import parse_conditions
from tunelab.sweeping.searching.objectives import choose_objectives, value_of
from tunelab.sweeping.searching.samplers import grid_points
from tunelab.sweeping.searching.space import Choices, Integers, Parameter, Reals, Space, corners


def parameter(line: str) -> Parameter:
    return read_overrides(OverridesParser.create().parse_overrides([line])).parameters[0]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a=interval(0,1)", Reals("a", 0, 1)),
        ("a=tag(log,interval(1e-5,1e-3))", Reals("a", 1e-5, 1e-3, log=True)),
        ("a=int(interval(1,8))", Integers("a", 1, 8)),
        ("a=int(tag(log,interval(1,8)))", Integers("a", 1, 8, log=True)),
        ("a=range(1,9,2)", Integers("a", 1, 7, 2)),
        ("a=range(8,0,-2)", Integers("a", 2, 8, 2)),
        ("a=range(0.1,0.5,0.1)", Reals("a", 0.1, 0.4, 0.1)),
        ("++a=8,16,8", Choices("a", ("8", "16"))),
        ("a=choice('x y',b)", Choices("a", ("x\\ y", "b"))),
        ("a=range(3,4)", Choices("a", ("3",))),
    ],
)
def test_hydras_words_for_a_space(line: str, expected: Parameter):
    assert parameter(line) == expected


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("a=interval(3,3)", "a: expected an interval from a lower to a higher number, found 3 to 3"),
        ("a=interval(1,nan)", "a: expected an interval from a lower to a higher number, found 1 to nan"),
        ("a=tag(log,interval(0,1))", "a: expected numbers above 0 for a logarithmic scale, found 0"),
        ("a=tag(log,range(1,9,2))", "a: expected no steps on a logarithmic scale, found 2"),
        ("a=tag(log,choice(1,2))", "a: expected an interval for a logarithmic scale, found a list"),
        ("a=range(3,3)", "a: expected values to choose from, found an empty list"),
        ("seed=1,2", "seed: expected one value for all trials of a search, found several; search.seeds=[1,2,3] runs"),
        ("search.num_trials=1,2", "search.num_trials: expected one value for all trials"),
        ("name=a,b", "name: expected one value"),
        ("a=1", "-m: expected keys with several values or an interval"),
    ],
)
def test_what_is_no_space(line: str, said: str):
    with pytest.raises(ConfigError) as refused:
        parameter(line)
    assert str(refused.value).startswith(said)


@pytest.mark.parametrize(
    ("typed", "left"),
    [
        (["search.seeds=[1,2]"], ["peft.r=4,8", "search.seeds=[1,2]"]),
        (["optim.lr=1e-3"], ["peft.r=4,8", "seed=1,2,3", "optim.lr=1e-3"]),
        (["search.seeds=[1,2]", "seed=7"], ["peft.r=4,8", "search.seeds=[1,2]", "seed=7"]),  # refused later
    ],
)
def test_search_seeds_take_the_place_of_seeds_that_a_file_sweeps(typed: list[str], left: list[str]):
    asked = OverridesParser.create().parse_overrides(["peft.r=4,8", "seed=1,2,3", *typed])
    assert [each.input_line for each in without_seeds_of_a_file(asked, len(typed))] == left


def test_numbers_are_typed_short_and_stay_inside():
    reals = Reals("a", 1.23456789e-5, 1.0)
    assert reals.text(0.000316227766) == "0.000316228"
    assert float(reals.text(1.23456789e-5)) >= reals.low
    assert Reals("a", 0.1, 0.4, 0.1).steps() == [0.1, 0.2, 0.3, 0.4]


def space() -> Space:
    parameters = (Choices("peft", ("lora", "ia3")), Integers("peft.r", 8, 16, 4), Choices("seedless", ("x", "y")))
    return Space(parameters, tuple(parse_conditions(["peft.r if peft=lora"])))


def test_a_grid_is_every_combination_once():
    expected = [{"peft": "lora", "peft.r": r, "seedless": s} for r, s in itertools.product((8, 12, 16), "xy")]
    expected += [{"peft": "ia3", "seedless": s} for s in "xy"]
    assert grid_points(space()) == expected


def test_corners_have_every_choice_and_every_end():
    found = corners(space())
    assert {"peft": "ia3", "seedless": "x"} in found
    assert {point.get("peft.r") for point in found} == {"8", "16", None}
    assert {point["seedless"] for point in found} == {"x", "y"}
    assert len(found) == 4


def test_conditions_name_what_is_searched_and_no_circle():
    assert [each.key for each in space().in_order()] == ["peft", "peft.r", "seedless"]
    two = (Choices("a", ("1", "2")), Choices("b", ("1", "2")))
    assert [each.key for each in Space(two, tuple(parse_conditions(["a if b=1"]))).in_order()] == ["b", "a"]
    with pytest.raises(ConfigError, match="found c in 'c if a=1'"):
        Space(two, tuple(parse_conditions(["c if a=1"])))
    with pytest.raises(ConfigError, match="without a circle"):
        Space(two, tuple(parse_conditions(["a if b=1", "b if a=1"])))


def test_a_space_is_the_same_after_json():
    assert json.loads(json.dumps(space().to_dict())) == space().to_dict()


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["test/loss"], "found test/loss; who chooses by the test split has no test left: set search.objectives=[val/"),
        (["validation/loss"], "found validation/loss; did you mean 'val/loss'?"),
        (["val/los"], "did you mean 'val/loss'?"),
        (["val/length_tokens"], "expected a metric that has a better and a worse, found val/length_tokens"),
        (["val/exact_match"], "set trainer.score_every_validations=1 too"),
        (["general/loss"], "found general/loss"),
    ],
)
def test_figures_that_cannot_be_searched_by(names: list[str], said: str):
    with pytest.raises(ConfigError) as refused:
        choose_objectives(names, RunConfig())
    assert said in str(refused.value)


def test_objectives_have_the_direction_of_their_metric():
    scored = RunConfig(trainer=TrainerConfig(score_every_validations=1))
    found = choose_objectives(["val/exact_match", "val/loss", "num_trainable_parameters"], scored)
    assert [each.higher_is_better for each in found] == [True, False, False]
    assert [each.name for each in choose_objectives([], RunConfig())] == ["val/loss"]
    with pytest.raises(ConfigError, match="only each 2th scores answers"):
        choose_objectives(["val/exact_match"], RunConfig(trainer=TrainerConfig(score_every_validations=2)))
    unvalidated = RunConfig(data=DataConfig(path="x", validation_fraction=0.0))
    with pytest.raises(ConfigError, match="expected validation examples"):
        choose_objectives([], unvalidated)
    assert choose_objectives(["general/loss"], with_a_set())[0].name == "general/loss"


def with_a_set() -> RunConfig:
    config = RunConfig()
    config.evaluation.sets = {"general": EvaluationSetConfig()}
    return config


def test_a_validations_figure_is_that_of_the_weights_that_were_kept(tmp_path):
    folder = RunFolder(tmp_path)
    summary = {"best": {"metric": "val/loss", "value": 1.5, "step": 20}, "metrics": {"general/loss": 2.5}}
    folder.write_json("summary.json", {**summary, "num_trainable_parameters": 64})
    lines = [
        {"step": 20, "train/loss": 3.0},
        {"step": 20, "val/token_accuracy": 0.5},
        {"step": 30, "val/token_accuracy": 0.7},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    names = ["val/loss", "val/token_accuracy", "general/loss", "num_trainable_parameters", "val/perplexity"]
    assert [value_of(each, folder) for each in choose_objectives(names, with_a_set())] == [1.5, 0.5, 2.5, 64.0, None]


def test_settings_of_a_search_have_a_range():
    wrongs = {"num_trials": 0, "timeout": 0.0, "reduction_factor": 1, "seeds": [1, 1], "min_steps": 0}
    for key, value in {**wrongs, "population_size": 3}.items():
        with pytest.raises(ConfigError, match=f"search.{key}: expected"):
            SearchConfig(**{key: value})
    with pytest.raises(ConfigError, match=r"search.seeds: expected three or more with search.racing=true"):
        SearchConfig(racing=True, seeds=[1, 2])
