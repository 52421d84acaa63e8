"""What lm-evaluation-harness measures."""

from dataclasses import dataclass
from typing import Any, cast

from tunelab.config.section import Section, require


@dataclass(kw_only=True)
class HarnessConfig(Section):
    """Tasks of lm-evaluation-harness, measured besides the split; none without `tasks`."""

    tasks: Any = None  # names of tasks, groups or tags; null: none
    include: str | None = None  # a folder with task files (YAML) of one's own; embedded:harness has one
    num_few_shot: int | None = None  # answered examples before each question; null: as the task says, else 0
    max_examples: int | None = None  # first documents of each task; null: all
    apply_chat_template: bool = False  # render questions with the template of training; false: as plain text

    def __post_init__(self) -> None:
        names: Any = [] if self.tasks is None else [self.tasks] if isinstance(self.tasks, str) else self.tasks
        are_names = isinstance(names, list) and all(isinstance(name, str) for name in cast(list[Any], names))
        require(are_names, "harness.tasks", "a list of names", names)
        self.tasks = cast(list[str], names)
        shots, limit = self.num_few_shot, self.max_examples
        require(shots is None or shots >= 0, "harness.num_few_shot", "0 or more", shots)
        require(limit is None or limit >= 1, "harness.max_examples", "null or at least 1", limit)
