"""Metrics that are right or wrong: exact match, the same after normalising, numbers, a pattern, valid JSON."""

import re
import string
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from functools import partial

from tunelab.config import EvaluationConfig
from tunelab.errors import ConfigError
from tunelab.evaluation.metrics.registry import Answer, Metric, metric
from tunelab.evaluation.scoring import exact_answer, parse_object
from tunelab.evaluation.scoring import exact_match as is_exact_match

NORMALISED_WORDS = "a reference with words that are neither articles nor punctuation"
ANSWER_MARK = "####"  # before the final number, in GSM8K (Cobbe et al. 2021)
_NUMBER = re.compile(r"(?<![\w.])[-+−]?[$€£]?(?:[0-9][0-9,]*(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_UNSPACED = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")  # Han and kana
_WIDE_PUNCTUATION = re.compile("[\u3001-\u303f\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65]")  # their own


def normalise_answer(text: str) -> str:
    """The normalisation of SQuAD: lower case, no ASCII punctuation, no English articles, single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def spaced(text: str) -> str:
    """`text` with spaces around each Han character and kana, which are written without spaces between words."""
    return _UNSPACED.sub(r" \g<0> ", text)


def is_unspaced(text: str) -> bool:
    """Whether Han characters and kana are at least half of the letters and digits."""
    num_unspaced = len(_UNSPACED.findall(text))
    return num_unspaced > 0 and 2 * num_unspaced >= sum(map(str.isalnum, text))


def answer_words(text: str) -> list[str]:
    """The words of `normalise_answer`; of Chinese and Japanese each character is one (MLQA, Lewis et al. 2020)."""
    return spaced(normalise_answer(_WIDE_PUNCTUATION.sub(" ", text))).split()


def final_number(text: str) -> Decimal | None:
    """The first number after the last `####`, or without that mark the last number of the text; None for none.

    Thousands commas, a currency sign before it and any unit behind it do not count: "$1,234.50 a day" is 1234.5.
    """
    _, mark, marked = text.rpartition(ANSWER_MARK)
    numbers: list[str] = _NUMBER.findall(marked)
    if not numbers:
        return None
    digits = re.sub(r"[,$€£+]", "", numbers[0 if mark else -1]).replace("−", "-")
    try:
        return Decimal(digits)
    except InvalidOperation:  # an exponent beyond reason
        return None


def is_text(reference: str) -> bool:
    """Whether a reference is plain text: neither a JSON object nor an answer with GSM8K's mark."""
    return bool(reference.strip()) and ANSWER_MARK not in reference and parse_object(reference) is None


def has_normalised_words(reference: str) -> bool:
    """Whether SQuAD's normalisation leaves a word of it; a blank reference has nothing to lose: nothing is right."""
    return not reference.strip() or bool(normalise_answer(reference))


def fits_some(references: Sequence[str]) -> bool:
    """Whether any reference says something; where all are blank there are none."""
    return any(reference.strip() for reference in references)


def fits_text(references: Sequence[str]) -> bool:
    """Whether any reference is plain text."""
    return any(is_text(reference) for reference in references)


def fits_json(references: Sequence[str]) -> bool:
    """Whether any reference is a JSON object."""
    return any(parse_object(reference) is not None for reference in references)


def _fits_numbers(references: Sequence[str]) -> bool:
    return any(ANSWER_MARK in reference and final_number(reference) is not None for reference in references)


def _last_match(text: str, pattern: re.Pattern[str]) -> str | None:
    finds = list(pattern.finditer(text))
    if not finds:
        return None
    return (finds[-1].group(1 if pattern.groups else 0) or "").strip() or None


def _with_pattern(metric: Metric, config: EvaluationConfig) -> Metric:
    """The metric with the pattern that the configuration names."""
    if config.regex is None:
        raise ConfigError(
            "evaluation.regex: expected the pattern that evaluation.metrics=[regex_match] looks for, found null; set "
            "'evaluation.regex=\"answer is (\\w+)\"', say."
        )
    try:
        pattern = re.compile(config.regex)
    except re.error as error:
        raise ConfigError(
            f"evaluation.regex: expected a regular expression, found {config.regex!r} ({error}); mend evaluation.regex."
        ) from error
    return replace(metric, score=partial(regex_match, pattern=pattern), vote=partial(_last_match, pattern=pattern))


@metric("exact match", is_rate=True, fits=fits_some, vote=exact_answer)
def exact_match(answer: Answer) -> bool:
    """The same JSON object as a value, or the same text after white space is normalised (`scoring.exact_match`)."""
    return is_exact_match(answer.completion, answer.reference)


@metric("normalized match", is_rate=True, needs=NORMALISED_WORDS, fits=fits_text, vote=normalise_answer)
def normalized_exact_match(answer: Answer) -> bool | None:
    """The same text after SQuAD's normalisation (Rajpurkar et al. 2016), where that leaves a word of the reference."""
    if not has_normalised_words(answer.reference):
        return None
    return normalise_answer(answer.completion) == normalise_answer(answer.reference)


@metric("numeric match", is_rate=True, needs="a number in its reference", fits=_fits_numbers, vote=final_number)
def numeric_match(answer: Answer) -> bool | None:
    """The same final number as the reference has (GSM8K, Cobbe et al. 2021)."""
    expected = final_number(answer.reference)
    return None if expected is None else final_number(answer.completion) == expected


@metric("regex match", is_rate=True, vote=_last_match, configured=_with_pattern)
def regex_match(answer: Answer, pattern: re.Pattern[str]) -> bool:
    """The pattern finds in the completion what it finds in the reference (without a find there: the reference).

    The last find counts, of it the first group where the pattern has one; white space at its ends does not, and an
    empty find is none.
    """
    found = _last_match(answer.completion, pattern)
    expected = _last_match(answer.reference, pattern)
    return found is not None and found == (answer.reference.strip() if expected is None else expected)


@metric("valid JSON", is_rate=True, needs="a JSON object as its reference", fits=fits_json)
def json_valid(answer: Answer) -> bool | None:
    """The completion is a JSON object, where the reference is one."""
    return None if parse_object(answer.reference) is None else parse_object(answer.completion) is not None
