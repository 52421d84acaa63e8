"""What is searched: for each key its choices, or an interval of numbers, and where it is searched at all."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tunelab.errors import ConfigError
from tunelab.sweeping.conditions import Condition

DIGITS = 6  # significant: what is typed into a run is what a person can read and type again
EXAMPLE = "python train.py -m hydra/sweeper=optuna 'optim.lr=tag(log,interval(1e-5,1e-3))' peft.r=8,16"


@dataclass(frozen=True, slots=True)
class Choices:
    """Some values, as they are typed."""

    key: str
    values: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise ConfigError(f"{self.key}: expected values to choose from, found an empty list; set {self.key}=a,b.")

    @property
    def ends(self) -> tuple[str, ...]:
        """What is tried before anything starts: every one of them."""
        return self.values


@dataclass(frozen=True, slots=True)
class Reals:
    """All numbers of an interval, both ends included, or those in steps; `log`: equally often in each power of ten."""

    key: str
    low: float
    high: float
    step: float | None = None
    log: bool = False

    def __post_init__(self) -> None:
        _require_interval(self.key, self.low, self.high, self.log, self.step)

    @property
    def ends(self) -> tuple[str, ...]:
        """The two ends."""
        return self.text(self.low), self.text(self.high)

    def steps(self) -> list[float]:
        """The numbers in steps, rounded as they are typed."""
        step = self.step or math.inf
        count = math.floor((self.high - self.low) / step * (1 + 1e-9))
        return [float(self.text(self.low + index * step)) for index in range(count + 1)]

    def text(self, value: float) -> str:
        """A number as it is typed: short, and within the interval."""
        return repr(min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high))


@dataclass(frozen=True, slots=True)
class Integers:
    """The whole numbers from `low` to `high` in steps, both ends included."""

    key: str
    low: int
    high: int
    step: int = 1
    log: bool = False

    def __post_init__(self) -> None:
        _require_interval(self.key, self.low, self.high, self.log, None if self.step == 1 else self.step)

    @property
    def ends(self) -> tuple[str, ...]:
        """The two ends."""
        return str(self.low), str(self.high)


Parameter = Choices | Reals | Integers


@dataclass(frozen=True, slots=True)
class Space:
    """All that is searched. A key with a condition is searched only where it holds, after the keys that it names."""

    parameters: tuple[Parameter, ...]
    conditions: tuple[Condition, ...] = ()

    def __post_init__(self) -> None:
        keys = self.keys
        for condition in self.conditions:
            missing = next((key for key in (condition.key, *condition.wanted) if key not in keys), None)
            if missing is not None:
                raise ConfigError(
                    f"sweep.only: expected keys that are searched ({', '.join(keys)}), found {missing} in "
                    f"{condition.text!r}; set several values of it, or remove the condition."
                )

    @property
    def keys(self) -> tuple[str, ...]:
        """What is searched, in the order typed."""
        return tuple(parameter.key for parameter in self.parameters)

    def is_searched(self, key: str, values: Mapping[str, str]) -> bool:
        """Whether the conditions on `key` hold for the values of a trial."""
        return all(condition.holds(values) for condition in self.conditions if condition.key == key)

    def in_order(self) -> list[Parameter]:
        """The parameters, each after those that decide whether it is searched."""
        ordered: list[Parameter] = []
        waits = {
            key: {name for each in self.conditions if each.key == key for name in each.wanted} for key in self.keys
        }
        while ready := [
            each for each in self.parameters if each not in ordered and waits[each.key] <= {one.key for one in ordered}
        ]:
            ordered.append(ready[0])
        return ordered

    def to_dict(self) -> dict[str, Any]:
        """As it is written into the study, to tell whether another one lies there."""
        parameters = {each.key: {"kind": type(each).__name__, **asdict(each)} for each in self.parameters}
        content = {"parameters": parameters, "only": sorted(each.text for each in self.conditions)}
        return json.loads(json.dumps(content))  # as it is read back


def corners(space: Space) -> list[dict[str, str]]:
    """Points at which each choice and each end occurs, the other keys at their first: what is composed beforehand."""
    first = {each.key: each.ends[0] for each in space.parameters}
    points = [{**first, each.key: end} for each in space.parameters for end in each.ends]
    searched = [{key: point[key] for key in point if space.is_searched(key, point)} for point in points]
    return [point for index, point in enumerate(searched) if point not in searched[:index]]


def require_space(parameters: Sequence[Parameter]) -> None:
    """Raise a ConfigError where there is nothing to search."""
    if not parameters:
        raise ConfigError(f"-m: expected keys with several values or an interval ({EXAMPLE}), found none; set one.")


def _require_interval(key: str, low: float, high: float, log: bool, step: float | None) -> None:
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ConfigError(
            f"{key}: expected an interval from a lower to a higher number, found {low:g} to {high:g}; set "
            f"'{key}=interval(<low>,<high>)', or one value."
        )
    if log and step is not None:
        raise ConfigError(
            f"{key}: expected no steps on a logarithmic scale, found {step:g}; set 'tag(log,interval(<low>,<high>))'."
        )
    if log and low <= 0:
        raise ConfigError(
            f"{key}: expected numbers above 0 for a logarithmic scale, found {low:g}; raise it, or remove tag(log,…)."
        )
