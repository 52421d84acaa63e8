"""The names inside turns: as the rows have them, or as `data.tags` says."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from tunelab.data.formats.registry import OPENAI_TAGS, SHAREGPT_TAGS, Format, Tags
from tunelab.data.records import Role, Row
from tunelab.errors import ConfigError

Given = Mapping[str, str | None]  # the keys of data.tags, or of data.columns, with what the person set

_ROLES = {"system": Role.SYSTEM, "user": Role.USER, "assistant": Role.ASSISTANT, "tool": Role.TOOL}


def decide_tags(format_: Format, columns: Mapping[str, str], given: Given, rows: Sequence[Row]) -> Tags | None:
    """Return the names inside the turns of these columns; None where the rows hold no turns there."""
    if format_.tags:
        return _overridden(format_.tags, given)
    turn = next(_turns([columns[part] for part in format_.turns], rows), None)
    if turn is None:
        return None
    role_key = given["role"]
    sharegpt = "from" in turn if role_key is None else str(turn.get(role_key)) not in OPENAI_TAGS.speakers
    return _overridden(SHAREGPT_TAGS if sharegpt else OPENAI_TAGS, given)


def other_keys(format_: Format, columns: Mapping[str, str], given: Given, rows: Sequence[Row]) -> list[str] | None:
    """The keys of the rows' turns where these lack the key of who speaks that the format looks for; else None."""
    if format_.tags is None:
        return None
    key = given["role"] or format_.tags.role
    turns = list(_turns([columns[part] for part in format_.turns], rows))
    if not turns or any(key in turn for turn in turns):
        return None
    return list(turns[0])


def _turns(columns: Sequence[str], rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """The first turn of each value that holds turns."""
    for row in rows:
        for name in columns:
            value = row.fields.get(name)
            first = cast("list[Any]", value)[0] if isinstance(value, list) and value else value
            if isinstance(first, dict):
                yield cast("dict[str, Any]", first)


def _overridden(tags: Tags, given: Given) -> Tags:
    """`tags` with what `data.tags` says; a speaker that is given has no other name."""
    speakers, calls = dict(tags.speakers), tags.calls
    names = [name for key in (*_ROLES, "tool_call") if (name := given[key])]
    if len(set(names)) < len(names):
        raise ConfigError(f"data.tags: expected a name of its own for each speaker, found {', '.join(names)}.")
    for key, role in _ROLES.items():
        if name := given[key]:
            kept = {known: who for known, who in speakers.items() if who is not role or known in calls}
            speakers = {**kept, name: role}
    if call := given["tool_call"]:
        speakers = {**{name: who for name, who in speakers.items() if name not in calls}, call: Role.ASSISTANT}
        calls = frozenset({call})
    role_key, content_key = given["role"] or tags.role, given["content"] or tags.content
    return replace(tags, role=role_key, content=content_key, speakers=speakers, calls=calls)
