"""What a model showed on a split: all that its scores are computed from, in plain data."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tunelab.evaluation.metrics import Answer, Chosen
from tunelab.evaluation.statistics import Floats


@dataclass(frozen=True, slots=True)
class Observations:
    """Of the examples of a split, in order.

    `sums`: (num_examples, 3) nll, supervised tokens, and tokens predicted right. `choices` and `samples` (what it
    wrote, once or several times) have None where an example has none; they are empty where nobody asked.
    """

    sums: Floats
    choices: list[Chosen | None]
    samples: list[list[Answer] | None]

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it, to the last bit."""
        return {
            "sums": self.sums.tolist(),
            "choices": [None if each is None else asdict(each) for each in self.choices],
            "samples": [None if each is None else [asdict(answer) for answer in each] for each in self.samples],
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Observations":
        """Raises KeyError or TypeError where `content` is no observations."""
        return cls(
            np.array(content["sums"], dtype=np.float64).reshape(-1, 3),
            [None if each is None else _chosen(each) for each in content["choices"]],
            [None if each is None else [Answer(**answer) for answer in each] for each in content["samples"]],
        )


def _chosen(content: Mapping[str, Any]) -> Chosen:
    return Chosen(tuple(content["choices"]), tuple(content["log_likelihoods"]), content["right"])
