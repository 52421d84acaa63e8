"""What is measured of the base model and of the tuned one."""

from dataclasses import dataclass, field
from typing import Any, cast

from tunelab.config.section import Section, require, to_plain
from tunelab.config.sets import EvaluationSetConfig, check_set_name, in_keys_of_set
from tunelab.errors import ConfigError


@dataclass(kw_only=True)
class EvaluationConfig(Section):
    """What is measured on the test split, for the base model and for the tuned one."""

    base: bool = True  # measure the base model too
    num_few_shot: int = 0  # evaluate.py: the base model once more, with so many training examples before each prompt
    generate: bool = True  # completions and their scores, besides the loss
    metrics: Any = "auto"  # names, see docs/evaluation.md; auto: what fits the references
    regex: str | None = None  # the pattern that the metric regex_match looks for
    bert_score_model: str | None = None  # the folder of the encoder that the metric bert_score compares with
    bert_score_layer: int | None = None  # its layer, from 1; null: the last
    max_examples: int | None = None  # first examples of the split; None: all
    max_new_tokens: int = 256
    temperature: float = 0.0  # 0: greedy, always the most likely token; above: tokens are drawn
    top_p: float = 1.0  # draw among the fewest most likely tokens whose probabilities reach this …
    top_k: int | None = None  # … of the so many most likely ones; null: of all
    seed: int = 0  # of drawn tokens (with it a sample depends on its prompt alone) and of the worked examples
    num_samples: int = 1  # completions of each example, for pass@k and majority votes
    generation_batch_tokens: int = 16384  # memory knob: prompt and completion positions of one batch
    sets: dict[str, EvaluationSetConfig] = field(default_factory=dict[str, EvaluationSetConfig])  # name → extra set

    def __post_init__(self) -> None:
        names = [self.metrics] if isinstance(self.metrics, str) else self.metrics
        require(_are_names(names), "evaluation.metrics", "auto or a list of names", names)
        self.metrics = list(cast(list[str], names))
        require(self.temperature >= 0, "evaluation.temperature", "0 or more", self.temperature)
        require(0 < self.top_p <= 1, "evaluation.top_p", "a probability in (0, 1]", self.top_p)
        require(self.top_k is None or self.top_k >= 1, "evaluation.top_k", "null or at least 1", self.top_k)
        require(0 <= self.seed < 2**32, "evaluation.seed", "an integer in [0, 2**32)", self.seed)
        require(self.num_samples >= 1, "evaluation.num_samples", "at least 1", self.num_samples)
        require(self.num_few_shot >= 0, "evaluation.num_few_shot", "0 or more examples", self.num_few_shot)
        if self.num_samples > 1 and self.temperature == 0:
            raise ConfigError(
                "evaluation.num_samples: expected 1 for greedy completions, which are all the same, found "
                f"{self.num_samples}; set evaluation.temperature=0.8, say."
            )
        for key, usual in (("top_p", 1.0), ("top_k", None), ("seed", 0)):
            if self.temperature == 0 and getattr(self, key) != usual and not (key == "seed" and self.num_few_shot):
                raise ConfigError(
                    f"evaluation.{key}: expected {usual} for greedy completions, which draw nothing, found "
                    f"{getattr(self, key)}; set evaluation.temperature=0.8, say, or leave it out."
                )
        for key in ("max_new_tokens", "generation_batch_tokens"):
            value = getattr(self, key)
            require(value >= 1, f"evaluation.{key}", "at least 1 token", value)
        limit = self.max_examples
        require(limit is None or limit >= 1, "evaluation.max_examples", "null or at least 1", limit)
        self._settle_sets()

    def _settle_sets(self) -> None:
        self.sets = dict(self.sets)
        for name, each in self.sets.items():
            check_set_name(name)
            each.settle(f"evaluation.sets.{name}")
            self.of_set(name)  # which checks the values

    def of_set(self, name: str) -> "EvaluationConfig":
        """How the extra set `name` is measured; nothing counts as read.

        Raises:
            ConfigError: a value that the set changes cannot be.
        """
        plain: dict[str, Any] = to_plain(self)
        given = plain.pop("sets")[name]["evaluation"]
        plain["regex"] = None
        plain |= {key: value for key, value in given.items() if value is not None}
        try:
            return EvaluationConfig(**plain)
        except ConfigError as error:
            raise ConfigError(in_keys_of_set(name, str(error))) from error

    def used_keys(self) -> list[str]:
        """The keys that measuring reads, given the others."""
        keys = ["base", "num_few_shot", "generate", "max_examples", "metrics"]
        if "regex_match" in self.metrics:
            keys += ["regex"]
        if "bert_score" in self.metrics:
            keys += ["bert_score_model", "bert_score_layer"]
        if self.generate:
            keys += ["max_new_tokens", "generation_batch_tokens", "temperature", "num_samples"]
        if self.generate and self.temperature > 0:
            keys += ["top_p", "top_k", "seed"]
        return [*keys, "seed"] if self.num_few_shot else keys


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(name, str) for name in cast(list[Any], value))
