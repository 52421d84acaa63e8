"""What is measured of the base model and of the tuned one."""

from dataclasses import dataclass
from typing import Any, cast

from tunelab.config.section import Section, require


@dataclass(kw_only=True)
class EvaluationConfig(Section):
    """What is measured on the test split, for the base model and for the tuned one."""

    base: bool = True  # measure the base model too
    generate: bool = True  # greedy completions and their scores, besides the loss
    metrics: Any = "auto"  # names, see docs/evaluation.md; auto: what fits the references
    regex: str | None = None  # the pattern that the metric regex_match looks for
    max_examples: int | None = None  # first examples of the split; None: all
    max_new_tokens: int = 256
    generation_batch_tokens: int = 16384  # memory knob: prompt and completion positions of one batch

    def __post_init__(self) -> None:
        names = [self.metrics] if isinstance(self.metrics, str) else self.metrics
        require(_are_names(names), "evaluation.metrics", "auto or a list of names", names)
        self.metrics = list(cast(list[str], names))
        for key in ("max_new_tokens", "generation_batch_tokens"):
            value = getattr(self, key)
            require(value >= 1, f"evaluation.{key}", "at least 1 token", value)
        limit = self.max_examples
        require(limit is None or limit >= 1, "evaluation.max_examples", "null or at least 1", limit)


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(name, str) for name in cast(list[Any], value))
