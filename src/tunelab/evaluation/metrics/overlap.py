"""Metrics of how much two texts share: words (token F1, Jaccard, ROUGE) and characters (edit distance)."""

from collections import Counter
from collections.abc import Sequence
from statistics import median

import numpy as np
from torchmetrics.functional.text import rouge_score

from tunelab.evaluation.metrics.matching import (
    NORMALISED_WORDS,
    answer_words,
    fits_text,
    has_normalised_words,
    is_text,
    spaced,
)
from tunelab.evaluation.metrics.registry import Answer, metric

LATIN = "a reference of mostly ASCII letters and digits, of which alone ROUGE makes words"
LONG_WORDS = 10  # a median reference of as many words is a text to overlap with, rather than an answer


def is_latin(text: str) -> bool:
    """Whether ASCII letters and digits, of which alone ROUGE makes words, are at least half of all."""
    counted = [character.isascii() for character in text if character.isalnum()]
    return bool(counted) and 2 * sum(counted) >= len(counted)


def fits_long_text(references: Sequence[str]) -> bool:
    """Whether the references are plain texts of some length."""
    lengths = [len(spaced(reference).split()) for reference in references if is_text(reference)]
    return bool(lengths) and median(lengths) >= LONG_WORDS


def fits_long_latin(references: Sequence[str]) -> bool:
    """The same of those that ROUGE can read."""
    return fits_long_text([reference for reference in references if is_latin(reference)])


@metric("token F1", needs=NORMALISED_WORDS, fits=fits_text)
def token_f1(answer: Answer) -> float | None:
    """F1 of the words that both have, each as often as both have it, after SQuAD's normalisation (SQuAD 2.0).

    Of Chinese and Japanese each character is a word.
    """
    if not has_normalised_words(answer.reference):
        return None
    found, expected = answer_words(answer.completion), answer_words(answer.reference)
    if not found or not expected:
        return float(found == expected)
    num_shared = sum((Counter(found) & Counter(expected)).values())
    return 2 * num_shared / (len(found) + len(expected))


@metric("word Jaccard", needs=NORMALISED_WORDS)
def jaccard(answer: Answer) -> float | None:
    """Words of both over words of either, as sets, after SQuAD's normalisation; two empty texts score 1."""
    if not has_normalised_words(answer.reference):
        return None
    found, expected = set(answer_words(answer.completion)), set(answer_words(answer.reference))
    return len(found & expected) / len(found | expected) if found | expected else 1.0


@metric("ROUGE-1", needs=LATIN)
def rouge1(answer: Answer) -> float | None:
    """F-measure of shared words (Lin 2004), by torchmetrics, without stemming."""
    return _rouge(answer, "rouge1")


@metric("ROUGE-2", needs=LATIN)
def rouge2(answer: Answer) -> float | None:
    """F-measure of shared pairs of words (Lin 2004), by torchmetrics, without stemming."""
    return _rouge(answer, "rouge2")


@metric("ROUGE-L", needs=LATIN, fits=fits_long_latin)
def rougeL(answer: Answer) -> float | None:  # noqa: N802 (the name that the field uses)
    """F-measure of the longest common subsequence of words (Lin 2004), by torchmetrics, without stemming."""
    return _rouge(answer, "rougeL")


@metric("edit distance", better=False)
def edit_distance(answer: Answer) -> float:
    """Fewest insertions, deletions and substitutions of characters, over the length of the longer text."""
    longest = max(len(answer.completion), len(answer.reference))
    return _num_edits(answer.completion, answer.reference) / longest if longest else 0.0


def _rouge(answer: Answer, key: str) -> float | None:
    if not is_latin(answer.reference):
        return None  # no words: 0 even where the texts are the same
    return float(rouge_score(answer.completion, answer.reference, rouge_keys=key)[f"{key}_fmeasure"])


def _num_edits(first: str, second: str) -> int:
    """Levenshtein's distance, a row at a time: an insertion may follow any cell to its left, a running minimum."""
    codes = np.array([ord(character) for character in second], dtype=np.int64)
    places = np.arange(len(second) + 1)
    costs = places.copy()
    for row, character in enumerate(first, start=1):
        kept = costs[:-1] + (codes != ord(character))
        without_insertion = np.concatenate([[row], np.minimum(kept, costs[1:] + 1)])
        costs = np.minimum.accumulate(without_insertion - places) + places
    return int(costs[-1])
