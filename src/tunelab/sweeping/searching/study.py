"""The trials of a search in its study: what they are asked to be, and what became of them."""

import contextlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from tunelab.config import Sampler, SearchConfig
from tunelab.sweeping.searching.objectives import Objective
from tunelab.sweeping.searching.opening import asked_of_all, open_study, told
from tunelab.sweeping.searching.pruning import make_pruner
from tunelab.sweeping.searching.samplers import grid_points, make_sampler
from tunelab.sweeping.searching.space import Choices, Integers, Parameter, Space

STATES = {
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}
# What is kept of a trial besides Optuna's own.
SEEDS, JOBS, REASON, RACED, RETRIES = "values_of_seeds", "jobs", "reason", "raced", "retries"
GIVEN_UP = "given_up"  # the step, and the pruner
MIN_TRIALS_FOR_IMPORTANCE = 10


@dataclass(frozen=True, slots=True)
class Asked:
    """A trial as the sampler wants it: key → value as it is typed; keys whose condition does not hold are left out."""

    number: int
    values: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Record:
    """A trial as the study has it. `values`: one an objective; `seeds`: seed → the same of each run; `jobs`: their ids.

    `raced`: some of its seeds were spared.
    """

    number: int
    state: str
    params: Mapping[str, str]
    values: tuple[float, ...] | None
    seeds: Mapping[int, tuple[float, ...]]
    jobs: tuple[str, ...]
    reason: str | None
    raced: bool


class Study:
    """Asks Optuna for trials and tells it of them. One process at a time works with it."""

    def __init__(
        self,
        path: Path,
        space: Space,
        objectives: Sequence[Objective],
        settings: SearchConfig,
        fixed: Mapping[str, Any] | None = None,
    ) -> None:
        """`fixed`: key → value of what all trials share; trials of other values are not comparable with these."""
        self._space, self._settings = space, settings
        self._points = grid_points(space) if settings.sampler is Sampler.grid else []
        optuna.logging.set_verbosity(optuna.logging.ERROR)  # what it says goes into the table of the sweep
        with told(path):
            self._study = open_study(path, objectives, asked_of_all(space, objectives, settings, fixed or {}))
        self._path = path
        self._trials: dict[int, optuna.Trial] = {}
        self._reported: dict[int, set[int]] = {}
        self._choose_pruner()

    @property
    def limit(self) -> int:
        """Trials that there may be at most."""
        return min(self._settings.num_trials, len(self._points) or self._settings.num_trials)

    def may_ask(self) -> bool:
        """Whether there are to be more trials."""
        return sum(each.state != "waiting" for each in self.records()) < self.limit

    def ask(self) -> Asked:
        """Begin a trial: one that is to be repeated, else a new one."""
        with told(self._path):
            trials = self._study.get_trials(deepcopy=False)
            waiting = [trial for trial in trials if trial.state is TrialState.WAITING]
            new = sum(RETRIES not in trial.user_attrs for trial in trials)
            if self._points and not waiting:
                self._study.enqueue_trial(self._points[new])
            self._study.sampler = make_sampler(self._settings, waiting[0].number if waiting else len(trials))
            return self._suggest(self._study.ask())

    def unfinished(self) -> list[Asked]:
        """The trials that an earlier command has left under way: they are this one's now."""
        found: list[Asked] = []
        with told(self._path):
            for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                self._study.sampler = make_sampler(self._settings, trial.number)
                found.append(self._suggest(optuna.Trial(self._study, trial._trial_id)))  # pyright: ignore[reportPrivateUsage]
        return found

    def retry_failed(self) -> int:
        """Let what has failed be asked again, with the same values; how many these are."""
        failed = [record for record in self.records() if record.state == "failed"]
        with told(self._path):
            for record in failed:
                params = self._frozen(record.number).params
                self._study.enqueue_trial(params, user_attrs={RETRIES: record.number})
        return len(failed)

    def note_jobs(self, number: int, jobs: Sequence[str]) -> None:
        """Keep the ids of the jobs of a trial."""
        with told(self._path):
            self._trials[number].set_user_attr(JOBS, list(jobs))

    def report(self, number: int, step: int, value: float) -> bool:
        """Tell of a validation, each step once; whether the trial should be pruned by it."""
        trial = self._trials[number]
        if step in self._reported[number]:
            return False
        self._reported[number].add(step)
        with told(self._path):
            trial.report(value, step)
            if isinstance(self._study.pruner, optuna.pruners.NopPruner):  # it waited for the first step
                self._choose_pruner()
            return self._is_given_up(number, step)

    def given_up(self, number: int) -> tuple[int, float] | None:
        """The step and the value by which a trial should be pruned that an earlier command has left; None: it goes on.

        That command may have been killed after it was told of the value, and before it could act.
        """
        frozen = self._frozen(number)
        with told(self._path):
            if frozen.last_step is None or not self._is_given_up(number, frozen.last_step):
                return None
        return frozen.last_step, frozen.intermediate_values[frozen.last_step]

    def num_reported(self, number: int) -> int:
        """Validations that were told of a trial."""
        return len(self._reported[number])

    def complete(self, number: int, values: Sequence[float], seeds: Mapping[int, Sequence[float]], raced: bool) -> None:
        """End a trial with its values. `raced`: some of its seeds were spared."""
        with told(self._path):
            trial = self._trials[number]
            trial.set_user_attr(SEEDS, [[seed, *found] for seed, found in seeds.items()])
            trial.set_user_attr(RACED, raced)
            self._study.tell(trial, list(values))

    def prune(self, number: int, reason: str | None) -> None:
        """End a trial before its time."""
        self._end(number, TrialState.PRUNED, reason)

    def fail(self, number: int, reason: str | None) -> None:
        """End a trial that has no value."""
        self._end(number, TrialState.FAIL, reason)

    def records(self) -> list[Record]:
        """All trials, those left out of which a later one is the repetition."""
        trials = self._study.get_trials(deepcopy=False)
        repeated = {trial.user_attrs.get(RETRIES) for trial in trials}
        return [self._record(trial) for trial in trials if trial.number not in repeated]

    def front(self) -> list[int]:
        """The trials that no other beats in all objectives; of one objective, the best."""
        return sorted(trial.number for trial in self._study.best_trials)

    def importances(self) -> dict[str, float]:
        """Share of each key in what makes the good trials good (PED-ANOVA, Watanabe et al. 2023); empty for few trials.

        Of several objectives, the first.
        """
        direction = self._study.directions[0]
        sign = -1 if direction is StudyDirection.MAXIMIZE else 1  # with a target, Optuna takes its low values as good
        complete = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if len(complete) < MIN_TRIALS_FOR_IMPORTANCE:
            return {}
        with warnings.catch_warnings(), contextlib.suppress(ValueError, RuntimeError):
            warnings.simplefilter("ignore")
            return optuna.importance.get_param_importances(self._study, target=lambda trial: sign * trial.values[0])
        return {}

    def _suggest(self, trial: optuna.Trial) -> Asked:
        values: dict[str, str] = {}
        for parameter in self._space.in_order():
            if self._space.is_searched(parameter.key, values):
                values[parameter.key] = _suggested(trial, parameter)
        self._trials[trial.number] = trial
        self._reported[trial.number] = set(self._frozen(trial.number).intermediate_values)
        return Asked(trial.number, {key: values[key] for key in self._space.keys if key in values})

    def _is_given_up(self, number: int, step: int) -> bool:
        """Ask the pruner of the last step, and keep its word: of a rung of successive halving, it has one only once."""
        trial, word = self._trials[number], [step, self._settings.pruner.value]
        given_up = trial.user_attrs.get(GIVEN_UP) == word or trial.should_prune()
        if given_up:
            trial.set_user_attr(GIVEN_UP, word)
        return given_up

    def _choose_pruner(self) -> None:
        trials = self._study.get_trials(deepcopy=False)
        steps = [step for trial in trials for step in trial.intermediate_values]
        self._study.pruner = make_pruner(self._settings, min(steps, default=None))

    def _end(self, number: int, state: TrialState, reason: str | None) -> None:
        with told(self._path):
            self._trials[number].set_user_attr(REASON, reason)
            self._study.tell(self._trials[number], state=state)

    def _frozen(self, number: int) -> FrozenTrial:
        return self._study.get_trials(deepcopy=False)[number]

    def _record(self, trial: FrozenTrial) -> Record:
        known = {parameter.key: parameter for parameter in self._space.parameters}
        return Record(
            number=trial.number,
            state=STATES[trial.state],
            params={key: _text(known[key], value) for key, value in trial.params.items()},
            values=tuple(trial.values) if trial.state is TrialState.COMPLETE and trial.values else None,
            seeds={int(seed): tuple(found) for seed, *found in trial.user_attrs.get(SEEDS, ())},
            jobs=tuple(trial.user_attrs.get(JOBS, ())),
            reason=trial.user_attrs.get(REASON),
            raced=bool(trial.user_attrs.get(RACED)),
        )


def _suggested(trial: optuna.Trial, parameter: Parameter) -> str:
    key = parameter.key
    if isinstance(parameter, Choices):
        return _text(parameter, trial.suggest_categorical(key, parameter.values))
    if isinstance(parameter, Integers):
        number = trial.suggest_int(key, parameter.low, parameter.high, step=parameter.step, log=parameter.log)
        return _text(parameter, number)
    return _text(
        parameter, trial.suggest_float(key, parameter.low, parameter.high, step=parameter.step, log=parameter.log)
    )


def _text(parameter: Parameter, value: Any) -> str:
    """A value of a trial as it is typed into a run."""
    return str(value) if isinstance(parameter, (Choices, Integers)) else parameter.text(float(value))


def best_of(records: Sequence[Record], higher_is_better: bool) -> Record | None:
    """The best trial by the first objective, of those that have all their seeds: the others are not comparable."""
    whole = [record for record in records if record.values is not None and not record.raced]
    sign = -1 if higher_is_better else 1
    return min(whole, key=lambda record: sign * (record.values or (0.0,))[0], default=None)
