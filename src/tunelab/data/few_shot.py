"""Prompts with worked examples in front: rows of the training split, as earlier turns of the same template."""

import heapq
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tunelab.config import OverLength
from tunelab.data.building import KeptExamples, Stage, survey_examples
from tunelab.data.fitting import fit, prompt_ids
from tunelab.data.records import (
    Conversation,
    EncodedExample,
    EvaluationExample,
    Example,
    RenderedExample,
    Role,
    TokenizedExample,
    tokenized,
)
from tunelab.data.tokenizing import Encoder
from tunelab.errors import DataError

_REMEDY = "leave evaluation.num_few_shot out"


@dataclass(frozen=True, slots=True)
class FewShot:
    """`examples` are those that are measured on, with the same worked examples before each prompt.

    None where the whole is longer than the model's positions, or where the response was cut in the split itself and is
    not here. `origins` are the rows of the worked examples; `first_prompt` is the text of a prompt.
    """

    examples: list[EvaluationExample | None]
    origins: list[str]
    first_prompt: str

    @property
    def num_left_out(self) -> int:
        """How many prompts have no room for the worked examples."""
        return sum(example is None for example in self.examples)


def few_shot(
    stage: Stage, split: str, measured: Sequence[EvaluationExample], count: int, seed: int, num_positions: int | None
) -> FewShot:
    """Put `count` training examples, drawn by `seed`, before each prompt of `measured`, the first ones of `split`.

    They are turns of the conversation before the prompt's own: after its system message, without theirs, none of them
    supervised. Each ends in the end-of-turn token, as in training. The rows are read and checked once more.

    Raises:
        DataError: there are too few training examples, the data are no conversations, or no prompt has room.
    """
    shots, asked = _read(stage, split, count, seed)
    rendered = _rendered(stage, asked, measured, shots)
    found = [each for each in rendered if each is not None]
    encoded = iter(Encoder(stage.tokenizer, stage.add_bos).encode(found))
    limit = num_positions or 2**31
    examples = [
        None if each is None else _finished(example, next(encoded), limit)
        for example, each in zip(measured, rendered, strict=True)
    ]
    first = next((each for example, each in zip(examples, rendered, strict=True) if example and each), None)
    if first is None:
        raise DataError(
            f"evaluation.num_few_shot: expected prompts that leave room for {count} examples before them, with whole "
            f"responses, found none of {len(measured)} ({num_positions} positions); lower it, or {_REMEDY}."
        )
    return FewShot(examples, [shot.origin for shot in shots], first.prompt)


def with_shots(example: Conversation, shots: Sequence[Conversation]) -> Conversation:
    """The conversation with those of `shots` before it."""
    start = 1 if example.messages[0].role is Role.SYSTEM else 0
    turns = [message for shot in shots for message in shot.messages if message.role is not Role.SYSTEM]
    earlier = [replace(message, trained=False) for message in turns]
    return replace(example, messages=(*example.messages[:start], *earlier, *example.messages[start:]))


def _read(stage: Stage, split: str, count: int, seed: int) -> tuple[list[Conversation], list[Conversation]]:
    """The worked examples in the order in which they were drawn, and the conversations of `split`."""
    generator = random.Random(seed)
    drawn: list[tuple[float, int, Conversation]] = []  # a heap: the `count` largest draws so far
    asked: list[Conversation] = []
    for number, item in enumerate(KeptExamples(stage, survey_examples(stage))):
        for example in item.examples[:1] if item.split == "train" else item.examples:
            if isinstance(example, Conversation) and example.desirable is False:
                continue
            if item.split == split:
                asked.append(_conversation(example))
            elif item.split == "train" and isinstance(example, Conversation):
                draw = (generator.random(), number, example)
                heapq.heappush(drawn, draw)
                if len(drawn) > count:
                    heapq.heappop(drawn)
    if len(drawn) < count:
        raise DataError(
            f"evaluation.num_few_shot: expected {count} training examples to show, found {len(drawn)} conversations; "
            f"lower it, or {_REMEDY}."
        )
    return [shot for _, _, shot in sorted(drawn, reverse=True)], asked


def _conversation(example: Example) -> Conversation:
    if not isinstance(example, Conversation):
        raise DataError(
            "evaluation.num_few_shot: expected conversations, with prompts to put examples before, found one without "
            f"turns ({example.origin}); {_REMEDY}."
        )
    return example


def _rendered(
    stage: Stage, asked: Sequence[Conversation], measured: Sequence[EvaluationExample], shots: Sequence[Conversation]
) -> list[RenderedExample | None]:
    """Each measured example behind the worked ones; None where the template makes other examples of it there.

    Examples of the split that are not measured were dropped when it was prepared.
    """
    found: list[RenderedExample | None] = []
    for example in asked:
        plain, fronted = (stage.renderer.render(each) for each in (example, with_shots(example, shots)))
        for number, alone in enumerate(plain):
            if len(found) == len(measured):
                return found
            wanted = measured[len(found)]
            if (wanted.origin, wanted.prompt, wanted.response) == (alone.origin, alone.prompt, alone.response):
                found.append(fronted[number] if len(fronted) == len(plain) else None)
    if len(found) < len(measured):
        raise DataError(
            f"evaluation.num_few_shot: expected the rows of the split as they were prepared, found "
            f"{measured[len(found)].origin} changed; run again when the data are complete."
        )
    return found


def _finished(measured: EvaluationExample, encoded: EncodedExample, limit: int) -> EvaluationExample | None:
    """The measured example with these ids; None where they do not fit, or other tokens are supervised."""
    fitted = fit(encoded, limit, OverLength.drop, None)
    if not fitted.examples:
        return None
    example = tokenized(fitted.examples[0])
    if _supervised(example) != _supervised(measured.tokenized):
        return None
    return replace(measured, prompt_ids=prompt_ids(encoded, limit, None), tokenized=example)


def _supervised(example: TokenizedExample) -> list[int]:
    return example.input_ids[example.loss_mask].tolist()
