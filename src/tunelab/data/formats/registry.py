"""The registry of formats: what each reads, the function that does it, and what was decided for one source."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tunelab.data.records import Example, Role
from tunelab.errors import ConfigError

if TYPE_CHECKING:
    from tunelab.data.formats.fields import Fields

Reader = Callable[["Fields"], Example]
Columns = Mapping[str, str | tuple[str, ...]]  # part → its column; of several names, the first is the format's own


@dataclass(frozen=True, slots=True)
class Tags:
    """The names inside a turn: the key of who speaks, the key of what is said, and who each speaker is.

    `calls` are the speakers whose content is a tool call, written as JSON text.
    """

    role: str
    content: str
    speakers: Mapping[str, Role]
    calls: frozenset[str] = frozenset()


OPENAI_TAGS = Tags(
    role="role",
    content="content",
    speakers={
        "system": Role.SYSTEM,
        "developer": Role.SYSTEM,
        "user": Role.USER,
        "assistant": Role.ASSISTANT,
        "tool": Role.TOOL,
    },
)
SHAREGPT_TAGS = Tags(
    role="from",
    content="value",
    speakers={
        "system": Role.SYSTEM,
        "human": Role.USER,
        "user": Role.USER,
        "gpt": Role.ASSISTANT,
        "assistant": Role.ASSISTANT,
        "function_call": Role.ASSISTANT,
        "observation": Role.TOOL,
        "tool": Role.TOOL,
    },
    calls=frozenset({"function_call"}),
)


@dataclass(frozen=True, slots=True)
class Format:
    """One way to lay out a row. Several may share a name (a preference pair can be written in three ways).

    `required` and `optional` map a part to the names that its column may have. `turns` are the parts whose values may
    be turns of a conversation; `tags` the names inside them, None where the rows decide. `by_role`: `data.train_on`
    matters. `last_resort`: auto takes it only where no other format fits.
    """

    name: str
    required: Mapping[str, tuple[str, ...]]
    optional: Mapping[str, tuple[str, ...]]
    turns: tuple[str, ...]
    tags: Tags | None
    by_role: bool
    last_resort: bool
    read: Reader

    def parts(self) -> dict[str, tuple[str, ...]]:
        """All parts, required and optional, with their possible columns."""
        return {**self.required, **self.optional}


@dataclass(frozen=True, slots=True)
class Layout:
    """How the rows of one source are read: the format, and the column of each part.

    `required` columns are in every row; `optional` ones may be absent or null. `tags` is None where no column holds
    turns. `remark` is one sentence for the person: what was decided and why.
    """

    format: str
    required: Mapping[str, str]
    optional: Mapping[str, str]
    tags: Tags | None
    remark: str
    reader: Format = field(repr=False)

    @property
    def by_role(self) -> bool:
        """Whether `data.train_on` matters: in no other format does a message's role decide what is trained."""
        return self.reader.by_role

    def has(self, part: str) -> bool:
        """Whether the format reads `part`."""
        return part in self.optional or part in self.required

    def names(self) -> set[str]:
        """All columns that may be read."""
        return {*self.required.values(), *self.optional.values()}


FORMATS: list[Format] = []


def data_format(
    name: str,
    *,
    required: Columns,
    optional: Columns | None = None,
    turns: tuple[str, ...] = (),
    tags: Tags | None = None,
    by_role: bool = False,
    last_resort: bool = False,
) -> Callable[[Reader], Reader]:
    """Register the decorated function, from Fields to Example, as the format `name`.

    Raises ConfigError where a format of this name with the same required parts exists.
    """

    def register(read: Reader) -> Reader:
        if any(known.name == name and known.required.keys() == required.keys() for known in FORMATS):
            raise ConfigError(
                f"data.format: expected a new name, found {name!r}, which is taken; forget_format({name!r}) frees it."
            )
        parts = _listed(required), _listed(optional or {})
        FORMATS.append(Format(name, *parts, turns, tags, by_role, last_resort, read))
        return read

    return register


def forget_format(name: str) -> None:
    """Remove all formats of this name."""
    FORMATS[:] = [known for known in FORMATS if known.name != name]


def known_formats() -> list[str]:
    """The names that `data.format` accepts besides `auto`, in the order of registration."""
    return list(dict.fromkeys(known.name for known in FORMATS))


def _listed(columns: Columns) -> dict[str, tuple[str, ...]]:
    return {part: (names,) if isinstance(names, str) else names for part, names in columns.items()}
