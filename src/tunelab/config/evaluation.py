"""What is measured of the base model and of the tuned one."""

from dataclasses import dataclass

from tunelab.config.section import Section, require


@dataclass(kw_only=True)
class EvaluationConfig(Section):
    """What is measured on the test split, for the base model and for the tuned one."""

    base: bool = True  # measure the base model too
    generate: bool = True  # greedy completions and their scores, besides the loss
    max_examples: int | None = None  # first examples of the split; None: all
    max_new_tokens: int = 256
    generation_batch_tokens: int = 16384  # memory knob: prompt and completion positions of one batch

    def __post_init__(self) -> None:
        for key in ("max_new_tokens", "generation_batch_tokens"):
            value = getattr(self, key)
            require(value >= 1, f"evaluation.{key}", "at least 1 token", value)
        limit = self.max_examples
        require(limit is None or limit >= 1, "evaluation.max_examples", "null or at least 1", limit)
