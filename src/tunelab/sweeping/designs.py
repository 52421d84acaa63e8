"""Designs of a sweep: which combinations of the swept keys' values are jobs."""

import itertools
from collections.abc import Mapping, Sequence

from tunelab.config import Design, SweepConfig
from tunelab.errors import ConfigError
from tunelab.report.formatting import plural
from tunelab.sweeping.conditions import Condition, parse_conditions, plain
from tunelab.sweeping.jobs import SEED

Assignment = Mapping[str, str]  # key → value as typed
Block = Sequence[Assignment]  # what moves together: one swept key, or those of a zip


def lay_out(swept: Mapping[str, Sequence[str]], fixed: Assignment, settings: SweepConfig) -> list[Assignment]:
    """The jobs: for each the keys that are set, with their values. Some may be equal, where conditions do not hold.

    `swept`: key → its values as typed, `fixed`: what was typed with one value.

    Raises:
        ConfigError: `sweep.zip` or `sweep.only` names what is not swept, or does not fit.
    """
    conditions = parse_conditions(settings.only)
    _check_keys(conditions, swept, fixed)
    chosen = _chosen(_blocks(swept, settings.zip_groups()), settings.design)
    jobs = [_kept({**fixed, **each}, conditions) for each in chosen]
    never = next((each for each in conditions if not any(each.key in job for job in jobs)), None)
    if never is not None and jobs:
        raise ConfigError(f"sweep.only: expected conditions that hold in some job, found {never.text!r}; remove it.")
    return jobs


def describe(swept: Mapping[str, Sequence[str]], settings: SweepConfig, jobs: Sequence[Assignment]) -> str:
    """`grid of peft (2) × seed (3): 6 jobs`; where conditions make some of them equal, how many are."""
    blocks = _blocks(swept, settings.zip_groups())
    seeds = [block for block in blocks if SEED in block[0]]
    rest = [block for block in blocks if block not in seeds]
    num_alike = len(jobs) - len({frozenset(job.items()) for job in jobs})
    alike = f", {num_alike} of them like {'another' if num_alike == 1 else 'others'}" if num_alike else ""
    total = plural(len(jobs), "job") + alike
    if settings.design is Design.grid:
        return f"grid of {' × '.join(map(_sized, blocks))}: {total}"
    base = " ".join(f"{key}={value}" for block in rest for key, value in block[0].items())
    changes = " + ".join(_sized(block[1:], block) for block in rest if len(block) > 1)
    crossed = "".join(f" × {_sized(block)}" for block in seeds)
    return f"one change at a time, base {base or 'alone'}, changes {changes or 'none'}{crossed}: {total}"


def _sized(block: Block, named: Block | None = None) -> str:
    return f"{' & '.join((named or block)[0])} ({len(block)})"


def _blocks(swept: Mapping[str, Sequence[str]], groups: Sequence[Sequence[str]]) -> list[Block]:
    """In the order in which their first keys were typed."""
    for group in groups:
        unswept = [key for key in group if key not in swept]
        if unswept:
            raise ConfigError(
                f"sweep.zip: expected keys with several values, found {unswept[0]}; give it as many as the others have."
            )
        if len({len(swept[key]) for key in group}) > 1:
            found = ", ".join(f"{key} with {len(swept[key])}" for key in group)
            raise ConfigError(f"sweep.zip: expected lists of one length, found {found}; give each as many values.")
    together = {key: group for group in groups for key in group}
    first = dict.fromkeys(tuple(key for key in swept if key in together.get(own, (own,))) for own in swept)
    return [
        [dict(zip(keys, row, strict=True)) for row in zip(*(swept[key] for key in keys), strict=True)] for keys in first
    ]


def _chosen(blocks: Sequence[Block], design: Design) -> list[Assignment]:
    """Without conditions."""
    if design is Design.grid:
        return [_joined(rows) for rows in itertools.product(*blocks)]
    seeds = [block for block in blocks if any(SEED in row for row in block)]
    rest = [block for block in blocks if block not in seeds]
    base = [block[0] for block in rest if block]
    changed = [[*base[:at], row, *base[at + 1 :]] for at, block in enumerate(rest) for row in block[1:]]
    return [_joined((*rows, *own)) for rows in (base, *changed) for own in itertools.product(*seeds)]


def _joined(rows: Sequence[Assignment]) -> Assignment:
    return {key: value for row in rows for key, value in row.items()}


def _kept(values: Assignment, conditions: Sequence[Condition]) -> Assignment:
    """Without the keys whose condition does not hold; a key that is left out fulfils no other's condition either."""
    while dropped := {each.key for each in conditions if each.key in values and not each.holds(values)}:
        values = {key: value for key, value in values.items() if key not in dropped}
    return values


def _check_keys(conditions: Sequence[Condition], swept: Mapping[str, Sequence[str]], fixed: Assignment) -> None:
    for condition in conditions:
        if condition.key not in swept and condition.key not in fixed:
            raise ConfigError(
                f"sweep.only: expected a key of this sweep before 'if', found {condition.key} in {condition.text!r}; "
                f"give it values: {condition.key}=<value>,<value>."
            )
        for key, wanted in condition.wanted.items():
            if key not in swept:
                raise ConfigError(
                    f"sweep.only: expected a key with several values after 'if', found {key} in {condition.text!r}; "
                    f"sweep it, or remove the condition."
                )
            values = swept[key]
            unknown = next((value for value in wanted if value not in map(plain, values)), None)
            if unknown is not None:
                raise ConfigError(
                    f"sweep.only: expected a value that {key} takes in this sweep ({', '.join(values)}), found "
                    f"{unknown!r} in {condition.text!r}; correct it."
                )
