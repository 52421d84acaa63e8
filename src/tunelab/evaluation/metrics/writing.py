"""Metrics of how a model writes, whatever the references say: length, ends, empty and repeated text."""

from collections.abc import Sequence
from itertools import pairwise

from tunelab.evaluation.metrics.registry import TOKENS, Answer, fits_all, metric, overall_metric


def _distinct(answers: Sequence[Answer], size: int) -> float | None:
    texts = [answer.completion.split() for answer in answers]
    ngrams = [ngram for words in texts for ngram in (pairwise(words) if size == 2 else words)]
    return len(set(ngrams)) / len(ngrams) if ngrams else None


@metric("ended by itself", is_rate=True, fits=fits_all, per_example=False)
def finished_fraction(answer: Answer) -> bool:
    """The model wrote an end token, within the tokens that it had."""
    return answer.finished


@metric("cut off", is_rate=True, better=False, per_example=False)
def truncated_fraction(answer: Answer) -> bool:
    """The model wrote on until `evaluation.max_new_tokens`, or its last position."""
    return not answer.finished


@metric("empty", is_rate=True, better=False, per_example=False)
def empty_fraction(answer: Answer) -> bool:
    """Nothing but white space was written."""
    return not answer.completion.strip()


@metric("length (tokens)", TOKENS, better=None, fits=fits_all)
def length_tokens(answer: Answer) -> int:
    """Tokens written, the end token left out."""
    return answer.num_tokens


@overall_metric("distinct-1", better=None, needs="a word in its completion")
def distinct_1(answers: Sequence[Answer]) -> float | None:
    """Different words over all words of all completions (Li et al. 2016)."""
    return _distinct(answers, 1)


@overall_metric("distinct-2", better=None, needs="two words in its completion")
def distinct_2(answers: Sequence[Answer]) -> float | None:
    """Different pairs of adjacent words over all pairs of all completions (Li et al. 2016)."""
    return _distinct(answers, 2)
