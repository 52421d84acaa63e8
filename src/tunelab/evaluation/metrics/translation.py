"""BLEU and chrF of a whole set, as sacrebleu computes them, from counts that add up over examples."""

from functools import cache

import numpy as np
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.metrics.helpers import extract_all_char_ngrams, extract_all_word_ngrams

from tunelab.evaluation.metrics.matching import is_unspaced
from tunelab.evaluation.metrics.overlap import fits_long_text
from tunelab.evaluation.metrics.registry import POINTS, Answer, Sums, metric
from tunelab.evaluation.statistics import Floats

SPACES = "a reference with spaces between its words (Chinese and Japanese have none: measure chrf)"
BLEU_ORDER = 4
CHRF_ORDER = 6
_SQUARED_BETA = CHRF.BETA**2


def bleu_value(sums: Floats) -> Floats:
    """BLEU of summed counts (..., 10): lengths of completions and references, matches and totals of n = 1 to 4.

    Geometric mean of the precisions times the brevity penalty (Papineni et al. 2002); a precision of 0 counts as
    1 / (2 x total), the next 1 / (4 x total), … (sacrebleu's smoothing `exp`).
    """
    lengths, reference_lengths = sums[..., 0], sums[..., 1]
    matches, totals = sums[..., 2 : 2 + BLEU_ORDER], sums[..., 2 + BLEU_ORDER :]
    num_zeros = np.cumsum(matches == 0, axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        precisions = np.where(matches > 0, matches, 0.5**num_zeros) / totals
        brevity = np.exp(np.minimum(0, 1 - reference_lengths / lengths))
        score = 100 * brevity * np.exp(np.log(precisions).mean(axis=-1))
    return np.where((matches[..., 0] > 0) & (totals > 0).all(axis=-1), score, 0.0)


def chrf_value(sums: Floats) -> Floats:
    """chrF2 of summed counts (..., 18): for n = 1 to 6 those of the completions, of the references, and shared ones.

    F of the mean precision and mean recall, over the n that both have, recall twice as heavy (Popović 2015).
    """
    counts = sums.reshape(*sums.shape[:-1], CHRF_ORDER, 3)
    found, expected, shared = counts[..., 0], counts[..., 1], counts[..., 2]
    effective = (found > 0) & (expected > 0)
    num_orders = np.maximum(1, effective.sum(axis=-1))
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.where(effective, shared / found, 0).sum(axis=-1) / num_orders
        recall = np.where(effective, shared / expected, 0).sum(axis=-1) / num_orders
        score = 100 * (1 + _SQUARED_BETA) * precision * recall / (_SQUARED_BETA * precision + recall)
    return np.where(precision + recall > 0, score, 0.0)


def bleu_signature() -> str:
    """What sacrebleu prints beside the score, so that others can repeat it."""
    return _signature(BLEU())


def chrf_signature() -> str:
    """The same for chrF."""
    return _signature(CHRF())


@metric("BLEU", POINTS, value=bleu_value, per_example=False, signature=bleu_signature, needs=SPACES)
def bleu(answer: Answer) -> Sums | None:
    """Counts of shared n-grams of words, tokenized by sacrebleu's `13a` (Post 2018), which splits at spaces."""
    if is_unspaced(answer.reference):
        return None
    tokenize = _tokenizer()
    found, num_found = extract_all_word_ngrams(tokenize(answer.completion.rstrip()), 1, BLEU_ORDER)
    expected, num_expected = extract_all_word_ngrams(tokenize(answer.reference.rstrip()), 1, BLEU_ORDER)
    matches, totals = [0.0] * BLEU_ORDER, [0.0] * BLEU_ORDER
    for ngram, count in found.items():
        totals[len(ngram) - 1] += count
        matches[len(ngram) - 1] += min(count, expected[ngram])
    return (float(num_found), float(num_expected), *matches, *totals)


@metric("chrF", POINTS, value=chrf_value, fits=fits_long_text, per_example=False, signature=chrf_signature)
def chrf(answer: Answer) -> Sums:
    """Counts of shared n-grams of characters, white space left out."""
    counts: list[float] = []
    found_by_order, expected_by_order = (
        extract_all_char_ngrams(text, CHRF_ORDER) for text in (answer.completion, answer.reference)
    )
    for found, expected in zip(found_by_order, expected_by_order, strict=True):
        # Where the reference is too short for n-grams of an order, sacrebleu counts none of the completion.
        counts += [found.total() if expected else 0, expected.total(), (found & expected).total()]
    return tuple(counts)


@cache
def _tokenizer():  # the type is sacrebleu's own
    return BLEU().tokenizer


def _signature(scorer: BLEU | CHRF) -> str:
    scorer.corpus_score(["a"], [["a"]])  # the signature tells the number of references
    return str(scorer.get_signature())
