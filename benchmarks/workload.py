"""What every measured trainer gets alike: token ids of drawn lengths, in a fixed order, with a supervised response.

Imports nothing of tunelab, so that the workers of other trainers can use it in their own environments.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

# Where the quantiles of a length distribution are known; between them it is linear.
PROBABILITIES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
NUM_RESERVED_IDS = 3  # pad, begin, end: never drawn


@dataclass(frozen=True, slots=True)
class Lengths:
    """Quantiles, in tokens, of prompt and response lengths at PROBABILITIES."""

    name: str
    prompt: tuple[int, ...]
    response: tuple[int, ...]


# Characters of the 7,473 training rows of GSM8K, 3.6 (question) and 2.14 (answer) to a token.
GSM8K = Lengths("gsm8k", (12, 32, 47, 60, 78, 115, 146, 274), (23, 54, 85, 120, 169, 263, 350, 574))
# Characters of the 999 rows of LLaMA-Factory's alpaca_en_demo, 4.4 to a token, and 36 tokens of template.
ALPACA = Lengths("alpaca", (40, 44, 47, 51, 58, 78, 130, 218), (1, 7, 24, 106, 277, 445, 549, 645))


@dataclass(frozen=True, slots=True)
class DrawnExample:
    """Token ids, of which the first `num_prompt_tokens` are not supervised."""

    ids: list[int]
    num_prompt_tokens: int

    @property
    def labels(self) -> list[int]:
        """The ids with -100 for the prompt: unshifted labels as transformers reads them."""
        return [-100] * self.num_prompt_tokens + self.ids[self.num_prompt_tokens :]


def draw_examples(lengths: Lengths, num_examples: int, vocabulary: int, seed: int) -> list[DrawnExample]:
    """Draw examples: lengths by their quantiles, ids uniformly. A pure function of its arguments."""
    generator = np.random.Generator(np.random.Philox(seed))
    uniform = generator.random((2, num_examples))
    prompts = np.interp(uniform[0], PROBABILITIES, lengths.prompt).round().astype(int)
    responses = np.interp(uniform[1], PROBABILITIES, lengths.response).round().astype(int)
    return [
        DrawnExample(generator.integers(NUM_RESERVED_IDS, vocabulary, prompt + response).tolist(), int(prompt))
        for prompt, response in zip(prompts, responses, strict=True)
    ]


def describe(examples: Sequence[DrawnExample]) -> dict[str, float]:
    """Medians and means, for the record."""
    prompts = np.array([example.num_prompt_tokens for example in examples])
    totals = np.array([len(example.ids) for example in examples])
    return {
        "num_examples": len(examples),
        "median_prompt_tokens": float(np.median(prompts)),
        "median_response_tokens": float(np.median(totals - prompts)),
        "mean_tokens": float(totals.mean()),
        "longest_tokens": int(totals.max()),
        "supervised_fraction": float((totals - prompts).sum() / totals.sum()),
    }


def write_examples(examples: Sequence[DrawnExample], path: Path) -> None:
    """Write one JSON object a line."""
    lines = (json.dumps({"ids": e.ids, "num_prompt_tokens": e.num_prompt_tokens}) for e in examples)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def read_examples(path: Path) -> list[DrawnExample]:
    """Read what `write_examples` wrote."""
    return [DrawnExample(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
