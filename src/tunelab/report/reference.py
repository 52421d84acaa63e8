"""The row that all others are compared with: one that was asked for, or the base of a sweep that changed one thing at a
time; and what each of the others changes of it.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tunelab.errors import ConfigError
from tunelab.report.formatting import joined, level_text, plural
from tunelab.report.grouping import Factor, Group, is_alike, settings
from tunelab.report.reading import parse_value
from tunelab.suggesting import did_you_mean

RECIPE = "the recipe"
_ASSIGNMENT = re.compile(r"[\w.@+-]+=")
_NEXT = re.compile(r",\s*(?=[\w.@+-]+=)")  # a comma before the next key, not one within a list
_MOST = 12  # rows that a message lists


def find_reference(asked: str | None, factors: Sequence[Factor], groups: Sequence[Group]) -> Group | None:
    """The group that `asked` names: by its label, by keys and values, or by one of its runs; without it the base of
    the sweep, if there is one.

    Raises:
        ConfigError: no group is meant, or more than one.
    """
    bases = base_groups(groups)
    base = bases[0] if len(bases) == 1 else None
    if asked is None:
        return base
    text = asked.strip()
    known = name_changes(groups, factors, base) if base else list(groups)
    labels = [{own.label, group.label} for own, group in zip(known, groups, strict=True)]
    found = [
        group
        for group, own in zip(known, labels, strict=True)
        if text in own or any(_is_named(run.folder, text) for run in group.runs)
    ]
    if not found and _ASSIGNMENT.match(text):
        found = _with_values(text, factors, known)
    if len(found) != 1:
        which = plural(len(found), "row") if found else "none"
        raise ConfigError(
            f"reference: expected one row of the table, found {which} for {asked!r}; set reference to one of "
            f"{joined([repr(group.label) for group in found or known], _MOST)}, or to key=value,… of it alone."
        )
    return found[0]


def base_groups(groups: Sequence[Group]) -> list[Group]:
    """Those with runs of the base of their sweep."""
    return [group for group in groups if any(run.is_base for run in group.runs)]


def name_changes(groups: Sequence[Group], factors: Sequence[Factor], reference: Group) -> list[Group]:
    """The groups, named by what they change of the reference, where there are several factors and each changes one."""
    changes = [
        [factor for factor in factors if not is_alike(group.levels[factor.name], reference.levels[factor.name])]
        for group in groups
    ]
    others = [own for own, group in zip(changes, groups, strict=True) if group.number != reference.number]
    if len(factors) < 2 or not others or any(len(own) != 1 for own in others):
        return list(groups)
    return [
        replace(group, changed=assigned(own[0].name, group.levels[own[0].name]) if own else RECIPE)
        for own, group in zip(changes, groups, strict=True)
    ]


def assigned(name: str, level: Any) -> str:
    """`peft.r=8`; of a paired list `peft.r=8 & optim.lr=1e-4`."""
    names, values = name.split(" & "), level_text(level).split(" & ")
    if len(names) != len(values):
        return f"{name}={level_text(level)}"
    return " & ".join(f"{key}={value}" for key, value in zip(names, values, strict=True))


def _is_named(folder: Path, text: str) -> bool:
    """By the name of a run folder, the hash at its end, or its path."""
    return text in (folder.name, folder.name.rpartition("_")[2]) or ("/" in text and Path(text).resolve() == folder)


def _with_values(text: str, factors: Sequence[Factor], groups: Sequence[Group]) -> list[Group]:
    left = list(groups)
    for part in _NEXT.split(text):
        key, _, value = part.partition("=")
        name = key.strip().lstrip("+")
        columns = [_value(group, name, factors) for group in groups]
        if all(each is None for each in columns):
            known = [factor.name for factor in factors]
            raise ConfigError(
                f"reference: expected keys of the runs, found {name!r}, which none has"
                f"{did_you_mean(name, known) or f'; swept were {joined(known, _MOST)}.'}"
            )
        meant = {group.number for group, each in zip(groups, columns, strict=True) if each and _is(each[0], value)}
        left = [group for group in left if group.number in meant]
    return left


def _value(group: Group, name: str, factors: Sequence[Factor]) -> tuple[Any] | None:
    if any(factor.name == name for factor in factors):
        return (group.levels[name],)
    config = settings(group.runs[0])
    if name in config:
        return (config[name],)
    typed = next((run.typed[name] for run in group.runs if name in run.typed), None)  # a group's choice
    return None if typed is None else (parse_value(typed),)


def _is(value: Any, text: str) -> bool:
    return level_text(value) == text.strip() or is_alike(value, parse_value(text))
