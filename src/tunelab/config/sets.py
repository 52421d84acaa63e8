"""Extra sets: what is measured besides the test split, and how it differs from that."""

import re
from dataclasses import dataclass, field
from typing import Any

from tunelab.config.data import DataConfig
from tunelab.config.section import Section, require, to_plain
from tunelab.errors import ConfigError

TAKEN = ("train", "validation", "test", "val", "base", "tuned", "harness")  # begin other keys of summary.json


@dataclass(kw_only=True)
class SetMeasures(Section):
    """How an extra set is measured; what is null, and what is not here, is as for the test split."""

    generate: bool | None = None
    metrics: Any = "auto"  # what fits this set, whatever is asked of the test split
    regex: str | None = None
    max_examples: int | None = None
    max_new_tokens: int | None = None


@dataclass(kw_only=True)
class EvaluationSetConfig(Section):
    """Examples that are measured besides the test split: all rows of `data.test_path`, or else of `data.path`.

    Its keys are those that a choice of the group `data` sets.
    """

    data: DataConfig = field(default_factory=DataConfig)  # template auto: that of the run
    evaluation: SetMeasures = field(default_factory=SetMeasures)
    trainer: dict[str, Any] = field(default_factory=dict)  # what a data choice may say of training; not used here

    def settle(self, key: str) -> None:
        """Read the rows as a test split and nothing else; `key` is the set's, for the error.

        Raises:
            ConfigError: no rows are named.
        """
        data = to_plain(self.data)
        rows = data["test_path"] or data["path"]
        require(rows is not None, f"{key}.data.path", "rows to measure on", rows)
        for name, value in {"path": rows, "test_path": rows, "validation_path": None, "info": None, "mix": []}.items():
            setattr(self.data, name, value)
        self.data.validation_fraction = self.data.test_fraction = 0.0
        self.data.quality.enabled = False  # nothing is learned from it


def check_set_name(name: str) -> None:
    """Raise a ConfigError where summary.json could not use `name` as the first part of its keys."""
    if not re.fullmatch(r"\w[\w-]*", name) or name in TAKEN:
        raise ConfigError(
            f"evaluation.sets: expected names of letters and digits, and none of {', '.join(TAKEN)}, found {name!r}; "
            "name the set: 'evaluation.sets={mine:<file>}'."
        )
