"""Metrics of what a model repeats word for word from the responses that it was trained on."""

from tunelab.evaluation.metrics.registry import Answer, metric

NEEDS = "training responses to look in"


@metric("copied from train", is_rate=True, better=None, needs=NEEDS, needs_train=True, per_example=False)
def copied_fraction(answer: Answer) -> bool | None:
    """All words of the completion stand side by side in one training response."""
    if answer.copied_words is None:
        return None
    return 0 < len(answer.completion.split()) == answer.copied_words


@metric("longest copied run", better=None, needs=NEEDS, needs_train=True)
def copied_share(answer: Answer) -> float | None:
    """Words of the longest run that one training response has as well / words of the completion."""
    if answer.copied_words is None:
        return None
    num_words = len(answer.completion.split())
    return answer.copied_words / num_words if num_words else 0.0
