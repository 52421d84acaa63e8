"""The study against plain Optuna: what is asked, what is pruned, what a second opening finds; racing against scipy."""

import json
import math
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from scipy import stats
from sqlalchemy import Engine, event

from tunelab.config import Pruner, RunConfig, Sampler, SearchConfig, TrainerConfig
from tunelab.errors import ConfigError, TunelabError
from tunelab.sweeping.conditions import parse_conditions
from tunelab.sweeping.searching.following import Follower
from tunelab.sweeping.searching.objectives import Objective
from tunelab.sweeping.searching.pruning import require_judging
from tunelab.sweeping.searching.racing import is_decided
from tunelab.sweeping.searching.samplers import check_settings
from tunelab.sweeping.searching.space import Choices, Integers, Reals, Space
from tunelab.sweeping.searching.study import Asked, Study, best_of


@pytest.fixture(autouse=True)
def without_waiting_for_the_disk() -> Generator[None]:
    def hurry(connection: Any, record: Any) -> None:
        connection.execute("PRAGMA synchronous=OFF")

    event.listen(Engine, "connect", hurry)
    yield
    event.remove(Engine, "connect", hurry)


LOSS = (Objective("val/loss", higher_is_better=False),)
TWO = (*LOSS, Objective("val/token_accuracy", higher_is_better=True))
NUMBERS = Space((Reals("lr", 1e-5, 1e-1, log=True), Integers("r", 2, 64)))
MIXED = Space(
    (Choices("peft", ("lora", "ia3")), Integers("r", 2, 8, 2), *NUMBERS.parameters[:1]),
    tuple(parse_conditions(["r if peft=lora"])),
)


def plain_suggestions(trial: optuna.Trial, space: Space) -> dict[str, str]:
    if space is NUMBERS:
        lr, r = trial.suggest_float("lr", 1e-5, 1e-1, log=True), trial.suggest_int("r", 2, 64)
        return {"lr": repr(float(f"{lr:.6g}")), "r": str(r)}
    peft = trial.suggest_categorical("peft", ["lora", "ia3"])
    r = {"r": str(trial.suggest_int("r", 2, 8, step=2))} if peft == "lora" else {}
    return {"peft": peft, **r, "lr": repr(float(f"{trial.suggest_float('lr', 1e-5, 1e-1, log=True):.6g}"))}


PLAIN = {
    Sampler.tpe: lambda seed: optuna.samplers.TPESampler(seed=seed, n_startup_trials=4),
    Sampler.random: lambda seed: optuna.samplers.RandomSampler(seed=seed),
    Sampler.cmaes: lambda seed: optuna.samplers.CmaEsSampler(seed=seed, popsize=4),
    Sampler.nsgaii: lambda seed: optuna.samplers.NSGAIISampler(seed=seed, population_size=4),
}
OWN: dict[Sampler, dict[str, Any]] = {
    Sampler.tpe: {"num_startup_trials": 4},
    Sampler.random: {},
    Sampler.cmaes: {"population_size": 4},
    Sampler.nsgaii: {"population_size": 4},
}


@pytest.mark.parametrize("sampler", list(PLAIN), ids=lambda each: each.value)
def test_the_trials_are_those_of_plain_optuna(tmp_path: Path, sampler: Sampler):
    space = NUMBERS if sampler is Sampler.cmaes else MIXED
    objectives = TWO if sampler is Sampler.nsgaii else LOSS
    values = np.random.default_rng(0).normal(size=(10, len(objectives))).tolist()
    directions = ["minimize", "maximize"][: len(objectives)]
    plain, expected = optuna.create_study(directions=directions), []
    for number, value in enumerate(values):
        plain.sampler = PLAIN[sampler](5 + number)
        trial = plain.ask()
        expected.append(plain_suggestions(trial, space))
        plain.tell(trial, value)
    settings = SearchConfig(sampler=sampler, seed=5, num_trials=10, **OWN[sampler])
    found: list[dict[str, str]] = []
    study = Study(tmp_path / "optuna.db", space, objectives, settings)
    for value in values:
        if len(found) == 6:  # opened anew: a search that was killed goes on as it would have
            study = Study(tmp_path / "optuna.db", space, objectives, settings)
        assert study.may_ask()
        asked = study.ask()
        found.append(dict(asked.values))
        study.complete(asked.number, value, {0: value}, raced=False)
    assert found == expected
    assert not study.may_ask()
    assert study.front() == sorted(trial.number for trial in plain.best_trials)


def opened(tmp_path: Path, **settings: Any) -> Study:
    space = settings.pop("space", NUMBERS)
    objectives = settings.pop("objectives", LOSS)
    return Study(tmp_path / "optuna.db", space, objectives, SearchConfig(**{"num_trials": 3, **settings}))


def test_a_trial_under_way_is_found_again_with_its_values(tmp_path: Path):
    first = opened(tmp_path)
    asked = [first.ask(), first.ask()]
    first.report(asked[0].number, 10, 1.0)
    first.complete(asked[1].number, [2.0], {0: [2.0]}, raced=False)
    second = opened(tmp_path)
    assert second.unfinished() == [asked[0]]
    assert second.report(asked[0].number, 10, 1.0) is False  # told before
    second.complete(asked[0].number, [1.0], {0: [1.0]}, raced=False)
    assert [record.state for record in second.records()] == ["finished", "finished"]
    assert best_of(second.records(), higher_is_better=False).number == 0
    assert second.may_ask()
    second.ask()
    assert not second.may_ask()
    assert opened(tmp_path, num_trials=4).may_ask()  # more of them


def test_a_trial_that_was_killed_while_it_was_asked_for_gets_its_values(tmp_path: Path):
    opened(tmp_path, sampler=Sampler.random)
    plain = optuna.load_study(study_name="search", storage=f"sqlite:///{tmp_path / 'optuna.db'}")
    plain.ask()
    [asked] = opened(tmp_path, sampler=Sampler.random).unfinished()
    (tmp_path / "other").mkdir()
    assert asked == opened(tmp_path / "other", sampler=Sampler.random).ask()


def test_what_failed_is_asked_again_and_counts_once(tmp_path: Path):
    study = opened(tmp_path, num_trials=2)
    asked = [study.ask(), study.ask()]
    study.fail(asked[0].number, "no memory")
    study.prune(asked[1].number, "worse")
    assert not study.may_ask()
    assert [(record.state, record.reason) for record in study.records()] == [
        ("failed", "no memory"),
        ("pruned", "worse"),
    ]
    again = opened(tmp_path, num_trials=2)
    assert again.retry_failed() == 1
    assert again.may_ask()
    retried = again.ask()
    assert (retried.number, retried.values) == (2, asked[0].values)
    assert not again.may_ask()
    assert [record.number for record in again.records()] == [1, 2]
    assert again.retry_failed() == 0


def test_a_grid_is_walked_in_order_and_ends(tmp_path: Path):
    space = Space((Choices("a", ("x", "y")), Reals("b", 0.1, 0.3, 0.1)))
    study = opened(tmp_path, space=space, sampler=Sampler.grid, num_trials=100)
    assert study.limit == 6
    found = []
    while study.may_ask():
        asked = study.ask()
        found.append((asked.values["a"], asked.values["b"]))
        if asked.number == 1:
            study.fail(1, "x")
        else:
            study.complete(asked.number, [1.0], {0: [1.0]}, raced=False)
    assert found == [("x", "0.1"), ("x", "0.2"), ("x", "0.3"), ("y", "0.1"), ("y", "0.2"), ("y", "0.3")]
    again = opened(tmp_path, space=space, sampler=Sampler.grid, num_trials=100)
    again.retry_failed()
    assert again.ask() == Asked(6, {"a": "x", "b": "0.2"})
    assert not again.may_ask()


CURVES = np.random.default_rng(1).normal(size=(9, 4)).cumsum(axis=1).tolist()


@pytest.mark.parametrize(
    ("settings", "plain"),
    [
        ({"pruner": Pruner.median}, lambda: optuna.pruners.MedianPruner()),
        (
            {"pruner": Pruner.median, "prune_after_trials": 2, "prune_after_steps": 20},
            lambda: optuna.pruners.MedianPruner(2, n_warmup_steps=20),
        ),
        ({"pruner": Pruner.successive_halving}, lambda: optuna.pruners.SuccessiveHalvingPruner(10)),
        (
            {"pruner": Pruner.successive_halving, "min_steps": 20, "reduction_factor": 2},
            lambda: optuna.pruners.SuccessiveHalvingPruner(20, reduction_factor=2),
        ),
        ({"pruner": Pruner.hyperband, "reduction_factor": 2}, lambda: optuna.pruners.HyperbandPruner(10, "auto", 2)),
    ],
)
def test_what_is_pruned_is_what_optuna_prunes(tmp_path: Path, settings: dict[str, Any], plain: Any):
    """Steps are 10, 20, …: the first rung is the first validation where none is given."""
    study = opened(tmp_path, sampler=Sampler.random, num_trials=9, **settings)
    independent = optuna.create_study(study_name="search", pruner=plain())
    for curve in CURVES:
        asked, trial = study.ask(), independent.ask()
        for index, value in enumerate(curve):
            trial.report(value, 10 * index + 10)
            expected = trial.should_prune()
            assert study.report(asked.number, 10 * index + 10, value) is expected
            if expected:
                independent.tell(trial, state=optuna.trial.TrialState.PRUNED)
                study.prune(asked.number, "")
                break
        else:
            independent.tell(trial, curve[-1])
            study.complete(asked.number, curve[-1:], {0: curve[-1:]}, raced=False)
    assert {record.state for record in study.records()} == {"finished", "pruned"}


@pytest.mark.parametrize("pruner", [Pruner.median, Pruner.successive_halving])
def test_the_word_of_a_pruner_is_kept_where_the_command_was_killed_before_it_could_act(tmp_path: Path, pruner: Pruner):
    settings: dict[str, Any] = {"sampler": Sampler.random, "pruner": pruner, "prune_after_trials": 1}
    study = opened(tmp_path, **settings)
    good, bad = study.ask(), study.ask()
    for step in (10, 20):
        assert not study.report(good.number, step, 1.0)
    study.complete(good.number, [1.0], {0: [1.0]}, raced=False)
    assert study.report(bad.number, 10, 2.0)
    again = opened(tmp_path, **settings)
    assert again.unfinished() == [bad]
    assert again.given_up(bad.number) == (10, 2.0)
    other = opened(tmp_path, sampler=Sampler.random, pruner=Pruner.median, prune_after_trials=2)
    other.unfinished()
    assert other.given_up(bad.number) == ((10, 2.0) if pruner is Pruner.median else None)  # its own word


def test_a_trial_that_nobody_has_judged_is_judged_when_it_is_found_again(tmp_path: Path):
    settings: dict[str, Any] = {"sampler": Sampler.random, "pruner": Pruner.median, "prune_after_trials": 1}
    study = opened(tmp_path, **settings)
    asked = [study.ask() for _ in range(3)]
    study.report(asked[0].number, 10, 1.0)
    study.complete(asked[0].number, [1.0], {0: [1.0]}, raced=False)
    plain = optuna.load_study(study_name="search", storage=f"sqlite:///{tmp_path / 'optuna.db'}")
    for number, value in ((1, 2.0), (2, 0.5)):  # told, and then killed
        optuna.Trial(plain, plain.trials[number]._trial_id).report(value, 10)
    again = opened(tmp_path, **settings)
    again.unfinished()
    assert [again.given_up(number) for number in (1, 2)] == [(10, 2.0), None]


@pytest.mark.parametrize(
    ("trainer", "settings", "said"),
    [
        (
            {"max_steps": 50, "val_every_steps": 50},
            {},
            "the first at its end, step 50; set trainer.val_every_steps=10,",
        ),
        ({"max_steps": 50, "val_every_steps": 49}, {}, None),
        ({"max_steps": 50}, {}, None),  # five times
        ({"max_steps": 1}, {}, "at its end, step 1; raise trainer.max_steps, or search.pruner=none"),
        ({"val_every_steps": 10**6}, {}, None),  # how many steps there are, the data decide
        ({"max_steps": 50}, {"prune_after_steps": 40}, None),
        ({"max_steps": 50}, {"prune_after_steps": 41}, "search.prune_after_steps: expected a step that is validated"),
        ({"max_steps": 50}, {"pruner": Pruner.hyperband, "min_steps": 45}, "the last of which is at step 40, found 45"),
        ({"max_steps": 50}, {"pruner": Pruner.none}, None),
    ],
)
def test_a_pruner_needs_a_validation_before_the_end(
    trainer: dict[str, Any], settings: dict[str, Any], said: str | None
):
    config = RunConfig(trainer=TrainerConfig(**trainer))
    asked = SearchConfig(**{"pruner": Pruner.median, **settings})
    if said is None:
        require_judging(asked, LOSS[0], [config])
        return
    with pytest.raises(ConfigError) as refused:
        require_judging(asked, LOSS[0], [config])
    assert said in str(refused.value)
    longer = RunConfig(trainer=TrainerConfig(max_steps=200, val_every_steps=20))
    require_judging(asked, LOSS[0], [config, longer])  # that one can be pruned


def test_a_pruner_needs_a_scored_validation_where_it_judges_scores():
    trainer = TrainerConfig(max_steps=50, score_every_validations=5, monitor="val/exact_match")
    config, scored = RunConfig(trainer=trainer), Objective("val/exact_match", higher_is_better=True)
    with pytest.raises(ConfigError, match=r"before the end of a run, .*; set trainer.val_every_steps=2,"):
        require_judging(SearchConfig(pruner=Pruner.median), scored, [config])
    require_judging(SearchConfig(pruner=Pruner.median), LOSS[0], [config])


def test_another_search_in_the_folder_is_refused(tmp_path: Path):
    opened(tmp_path)
    narrower = Space((Reals("lr", 1e-5, 1e-2, log=True), Integers("r", 2, 64)))
    with pytest.raises(ConfigError, match=r"differs in the space\); set sweep.name="):
        opened(tmp_path, space=narrower)
    with pytest.raises(ConfigError, match=r"differs in search.objectives, search.seeds\)"):
        opened(tmp_path, objectives=TWO, seeds=[1, 2])
    opened(tmp_path, sampler=Sampler.random, pruner=Pruner.median, seed=3)  # these may change


def test_trials_of_another_configuration_are_not_mixed_in(tmp_path: Path):
    asked = (tmp_path / "optuna.db", MIXED, LOSS, SearchConfig())
    fixed = {"trainer.max_steps": 4, "seed": 0, "name": "a", "data.path": "a.jsonl"}
    Study(*asked, fixed)
    Study(*asked, dict(fixed))
    with pytest.raises(ConfigError, match=r"differs in trainer.max_steps\); set sweep.name="):
        Study(*asked, fixed | {"trainer.max_steps": 8})
    with pytest.raises(ConfigError, match=r"differs in peft.use_dora, trainer.max_steps, seed, name and 1 more\)"):
        Study(*asked, {"peft.use_dora": True})


def test_a_damaged_study_is_one_sentence(tmp_path: Path):
    (tmp_path / "optuna.db").write_bytes(b"no database at all, " * 100)
    with pytest.raises(
        TunelabError, match=r"optuna.db: expected a study of Optuna that can be read and written, found"
    ):
        opened(tmp_path)


def test_the_best_has_all_its_seeds(tmp_path: Path):
    study = opened(tmp_path, seeds=[1, 2, 3], racing=True)
    for mean, raced in ((2.0, False), (1.0, True), (3.0, False)):
        study.complete(study.ask().number, [mean], {1: [mean]}, raced)
    best = best_of(study.records(), higher_is_better=False)
    assert best is not None
    assert (best.number, best.seeds) == (0, {1: (2.0,)})
    assert best_of(study.records(), higher_is_better=True).number == 2


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_what_matters_is_what_makes_trials_good(tmp_path: Path, higher_is_better: bool):
    """`x` decides what is high, `y` what is low; plain Optuna knows from the direction which of them is good."""
    space = Space((Reals("x", 0.0, 1.0), Reals("y", 0.0, 1.0)))
    objectives = (Objective("val/token_accuracy", higher_is_better),)
    study = opened(tmp_path, space=space, objectives=objectives, sampler=Sampler.random, num_trials=40)
    plain = optuna.create_study(direction="maximize" if higher_is_better else "minimize")
    assert study.importances() == {}
    for _ in range(40):
        asked = study.ask()
        x, y = (float(asked.values[key]) for key in "xy")
        good = 10.0 if x > 0.8 else -10.0 * (y > 0.8)
        study.complete(asked.number, [good], {0: [good]}, raced=False)
        distribution = optuna.distributions.FloatDistribution(0.0, 1.0)
        point = {"params": {"x": x, "y": y}, "distributions": {"x": distribution, "y": distribution}}
        plain.add_trial(optuna.trial.create_trial(value=good, **point))
    expected = optuna.importance.get_param_importances(plain)
    assert study.importances() == pytest.approx(expected, rel=1e-3)
    assert next(iter(expected)) == ("x" if higher_is_better else "y")


@pytest.mark.parametrize(
    ("settings", "space", "objectives", "said"),
    [
        ({"sampler": Sampler.grid}, NUMBERS, LOSS, "found an interval for lr; set lr=a,b,c"),
        ({"sampler": Sampler.cmaes}, MIXED, LOSS, "expected intervals of numbers for cmaes, found peft"),
        ({"sampler": Sampler.cmaes}, NUMBERS, TWO, "expected one objective for cmaes, found 2"),
        ({"sampler": Sampler.nsgaii, "num_trials": 10}, MIXED, TWO, "expected more than the 10 trials of the first"),
        ({"pruner": Pruner.median}, NUMBERS, TWO, "search.pruner: expected one objective, found 2"),
        ({"racing": True, "seeds": [1, 2, 3]}, NUMBERS, TWO, "search.racing: expected one objective, found 2"),
        (
            {"pruner": Pruner.median},
            NUMBERS,
            [Objective("num_trainable_parameters", False)],
            "known at the end of a run",
        ),
    ],
)
def test_what_does_not_go_together(settings: dict[str, Any], space: Space, objectives: Any, said: str):
    with pytest.raises(ConfigError) as refused:
        check_settings(SearchConfig(**settings), space, objectives)
    assert said in str(refused.value)


def test_what_a_key_matters_is_optunas_own_figure(tmp_path: Path):
    study = opened(tmp_path, sampler=Sampler.random, num_trials=12)
    for count in range(12):
        assert count >= 10 or study.importances() == {}
        asked = study.ask()
        study.complete(asked.number, [math.log10(float(asked.values["lr"]))], {}, raced=False)
    plain = optuna.load_study(study_name="search", storage=f"sqlite:///{tmp_path / 'optuna.db'}")
    assert study.importances() == optuna.importance.get_param_importances(plain)
    assert set(study.importances()) == {"lr", "r"}


def test_racing_is_the_paired_one_sided_t_test():
    generator = np.random.default_rng(2)
    decided = []
    for index in range(200):
        seeds = range(2 + index % 4)
        trial, best = ({seed: float(generator.normal(size=1)[0]) for seed in seeds} for _ in range(2))
        test = stats.ttest_rel([trial[seed] for seed in seeds], [best[seed] for seed in seeds], alternative="greater")
        found = is_decided(trial, {**best, 99: 5.0}, higher_is_better=False)
        assert found is bool(test.pvalue < 0.05)
        mirrored = {seed: -value for seed, value in trial.items()}, {seed: -value for seed, value in best.items()}
        assert is_decided(*mirrored, higher_is_better=True) is found
        decided.append(found)
    assert 0 < sum(decided) < 50


def test_racing_needs_two_seeds_and_a_best():
    assert not is_decided({1: 9.0}, {1: 1.0, 2: 1.0}, higher_is_better=False)
    assert not is_decided({1: 9.0, 2: 9.0}, {}, higher_is_better=False)
    assert is_decided({1: 2.0, 2: 3.0}, {1: 1.0, 2: 2.0}, higher_is_better=False)  # equal differences: by their sign
    assert not is_decided({1: 1.0, 2: 2.0}, {1: 1.0, 2: 2.0}, higher_is_better=False)


def test_metrics_are_followed_line_by_line(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    follower = Follower(path, "val/loss")
    assert follower.news() == []
    line = json.dumps({"step": 10, "val/loss": 1.5})
    path.write_text('{"step": 1, "train/loss": 2.0}\n' + line)
    assert follower.news() == []  # no line yet
    with path.open("a") as file:
        file.write('\n{"step": 20, "val/loss": null}\n{"step": 2')
    [first, (step, value)] = follower.news()
    assert (first, step, math.isnan(value)) == ((10, 1.5), 20, True)
    assert follower.news() == []
    (tmp_path / "new").write_text(line + "\n" + json.dumps({"step": 30, "val/loss": 1.0}) + "\nno json\n")
    (tmp_path / "new").replace(path)  # as a resumed run does
    assert follower.news() == [(30, 1.0)]
    path.write_text(json.dumps({"step": 40, "val/loss": 0.5}) + "\n")  # shorter, and the same file for the system
    assert follower.news() == [(40, 0.5)]
