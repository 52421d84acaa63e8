"""Equal budgets: solves the free key of each job so that all train as many parameters, tokens or FLOPs.

Trained parameters are matched by the key that sets a method's size (`peft.r` and its like), among jobs of one base
model; tokens and FLOPs of the whole run by `trainer.max_steps`, among all jobs.
"""

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tunelab.config import Match, RunConfig, SweepConfig, to_plain
from tunelab.data.batching import num_steps
from tunelab.data.preparing import prepare_data
from tunelab.errors import ConfigError
from tunelab.model.adapter import build_peft_config
from tunelab.model.flops import Lengths, Trained, Widths, flops_per_example, widths_of
from tunelab.model.sizing import Knob, count_trainable, knob_of
from tunelab.model.tokenizer import load_tokenizer
from tunelab.model.tuning import read_tuning
from tunelab.model.virtual_tokens import num_virtual_tokens, with_own_tokenizer
from tunelab.sweeping.budgets import STEPS, Solved
from tunelab.sweeping.solving import LIMIT, nearest


@dataclass(frozen=True, slots=True)
class _Data:
    """The training set of a job."""

    num_examples: int
    lengths: Lengths


class Matching:
    """Solves the jobs of one sweep; what was counted once is not counted again."""

    def __init__(self, settings: SweepConfig) -> None:
        assert settings.match is not None
        self._match: Match = settings.match
        self._given = settings.match_target
        self._known: dict[str, Any] = {}

    def solve(self, configs: Sequence[RunConfig]) -> list[Solved]:
        """Each job's solution, in order.

        Raises:
            TunelabError: the first job's budget is not known.
        """
        copies = [copy.deepcopy(config) for config in configs]  # to look at a key is not to use it
        one = self._parameters if self._match is Match.trainable_parameters else self._steps
        return [one(config, copies) for config in copies]

    def _parameters(self, config: RunConfig, jobs: Sequence[RunConfig]) -> Solved:
        model = _text(config.model)
        first = next(job for job in jobs if _text(job.model) == model)
        target = self._target(partial(self._count, first, first.peft))
        key = f"solved {_text(config.peft)} {model} {target}"
        return self._once(key, partial(self._size, config, target))

    def _size(self, config: RunConfig, target: float) -> Solved:
        knob, now = knob_of(to_plain(config.peft), config.model), self._count(config, config.peft)
        if knob is None or now is None:
            return Solved(None, None, now, target)
        if now == target:
            return Solved(None, None, now, target)

        def value(number: int) -> int:
            return knob.values[number - 1] if knob.values else knob.step * number

        def size(number: int) -> int | None:
            try:
                return self._count(config, {**to_plain(config.peft), **knob.settings(value(number))})
            except ConfigError:  # a value that the method refuses
                return None

        last = {"last": len(knob.values)} if knob.values else {}
        found = nearest(size, target, max(1, knob.now // knob.step), **last)
        if found is None:
            return Solved(None, None, now, target)
        if found == LIMIT and not knob.values and (reached := size(found) or 0) < target:
            raise ConfigError(
                f"sweep.match_target: expected a size that peft.{knob.key} reaches ({reached:,} parameters at "
                f"{value(found)}), found {target:,.0f}; lower it."
            )
        return _set(knob, value(found), size(found), target)

    def _count(self, config: RunConfig, peft: Mapping[str, Any]) -> int | None:
        plain = to_plain(peft)
        key = f"count {json.dumps(plain, sort_keys=True, default=str)} {_text(config.model)}"
        return self._once(key, partial(count_trainable, plain, config.model))

    def _steps(self, config: RunConfig, jobs: Sequence[RunConfig]) -> Solved:
        target = self._target(partial(self._spent, jobs[0]))
        a_step, now = self._a_step(config), self._num_steps(config)
        if a_step is None:
            return Solved(None, None, None, target)
        spent = self._spent(config)
        steps = max(1, round(target / a_step))
        if spent == target or steps == now:
            return Solved(None, None, spent, target)
        return Solved(STEPS, steps, steps * a_step, target, (f"{STEPS}={steps}",))

    def _spent(self, config: RunConfig) -> float | None:
        """Tokens or FLOPs of the whole run; whole epochs end with a smaller step."""
        a_step = self._a_step(config)
        if a_step is None:
            return None
        examples = self._num_steps(config) * config.data.batch_size
        if config.trainer.max_steps is None:
            examples = self._data(config).num_examples * config.trainer.max_epochs
        return a_step * examples / config.data.batch_size

    def _num_steps(self, config: RunConfig) -> int:
        steps, count = config.trainer.max_steps, self._data(config).num_examples
        return num_steps(count, config.data.batch_size, 0 if steps is not None else config.trainer.max_epochs, steps)

    def _a_step(self, config: RunConfig) -> float | None:
        """Tokens or FLOPs of a step."""
        lengths = self._data(config).lengths
        if self._match is Match.tokens:
            return config.data.batch_size * lengths.tokens
        found: Widths | None = self._once(f"widths {_text(config.model)}", partial(widths_of, config.model))
        count = self._count(config, config.peft)
        if found is None or count is None:
            return None
        tuning = read_tuning(to_plain(config.peft))
        adapter = build_peft_config(with_own_tokenizer(to_plain(config.peft), config.model))
        more = num_virtual_tokens(adapter)
        own = 0 if adapter is None or more else count  # virtual tokens are inputs, no weights
        trained = Trained(own, tuning.num_layers, adapter is None, config.trainer.gradient_checkpointing)
        longer = Lengths(
            lengths.tokens + more, lengths.squared + 2 * more * lengths.tokens + more**2, lengths.supervised
        )
        return config.data.batch_size * flops_per_example(found, trained, longer)

    def _data(self, config: RunConfig) -> _Data:
        rest = {key: value for key, value in to_plain(config.data).items() if key != "batch_size"}
        return self._once(
            f"data {json.dumps(rest, sort_keys=True, default=str)} {_text(config.model)}", partial(_read, config)
        )

    def _target(self, of_first: Any) -> float:
        found = self._given if self._given is not None else of_first()
        if not found:
            raise ConfigError(
                f"sweep.match: expected a first job whose {self._match.value} can be counted without weights, found "
                "one where only loading tells; set sweep.match_target=<number>."
            )
        return float(found)

    def _once(self, key: str, make: Any) -> Any:
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]


def _set(knob: Knob, value: int, budget: float | None, target: float) -> Solved:
    overrides = tuple(f"++peft.{key}={each}" for key, each in knob.settings(value).items())
    return Solved(f"peft.{knob.key}", value, budget, target, () if value == knob.now else overrides)


def _read(config: RunConfig) -> _Data:
    data = prepare_data(config.data, load_tokenizer(config.model), Path(config.output_dir) / "cache")
    tokens = np.asarray(data.train.num_tokens, dtype=np.float64)
    supervised = np.asarray(data.train.num_supervised_tokens, dtype=np.float64)
    return _Data(len(tokens), Lengths(float(tokens.mean()), float((tokens**2).mean()), float(supervised.mean())))


def _text(section: Any) -> str:
    return json.dumps(to_plain(section), sort_keys=True, default=str)
