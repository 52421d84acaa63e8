"""The sentences of the findings and of the refusals; no secret and no personal datum is ever quoted."""

from dataclasses import dataclass

from tunelab.data.quality.duplicates import NGRAM_WORDS
from tunelab.data.quality.rules import Rules


@dataclass(frozen=True, slots=True)
class Parts:
    """How many examples another split has too: exactly, otherwise nearly, and by words in a row.

    Those found by words may be among the first two. Of the n-grams of words one in `one_in` was compared.
    """

    exactly: int
    nearly: int
    by_words: int = 0
    one_in: int = 1


def phrase(check: str, rules: Rules) -> str:
    """What an example that `check` finds is like, to follow "12 of 7,473 train examples:"."""
    return {
        "exact_duplicates": "the same as an earlier example of the split",
        "near_duplicates": (
            "nearly the text of an earlier example of the split, with an estimated share of common runs of "
            f"{NGRAM_WORDS} words of {rules.similarity:g} or more (different examples that follow one form count too)"
        ),
        "overlap": "in validation or test too",
        "contradictions": "the same prompt as another example of the split, with another response",
        "empty_responses": "a response without text",
        "short_responses": f"a response of fewer than {rules.short_characters} characters",
        "encoding_damage": "damaged characters",
        "special_tokens": "text that spells a special token of the tokenizer",
        "secrets": "what looks like a key or a password",
        "personal_data": "what looks like personal data",
        "balance_by": f"more than the rarest value of the column {rules.balance_by!r} has",
    }[check]


def detail(check: str, split: str, count: tuple[int, int], rules: Rules, kinds: dict[str, int]) -> str:
    """The sentence of a finding; `count` is (found, all of the split), `kinds` is kind → examples."""
    named = ", ".join(f"{number:,} {kind}" for kind, number in sorted(kinds.items()))
    return f"{_of(count, split)}: {phrase(check, rules)}{f' ({named})' if named else ''}."


def overlap_detail(split: str, count: tuple[int, int], parts: Parts, rules: Rules) -> str:
    """The sentence of an overlap: of train with validation or test, or of one of these with train."""
    other = "validation or test" if split == "train" else "train"
    sampled = f", of which one in {parts.one_in} was compared" if parts.one_in > 1 else ""
    by_words_alone = parts.by_words > 0 and not (parts.exactly or parts.nearly)
    remark = " Words alone may be a phrase that different examples repeat: read some of them." if by_words_alone else ""
    return (
        f"{_of(count, split)}: {other} has the same ({parts.exactly:,} exactly, {parts.nearly:,} nearly, "
        f"{parts.by_words:,} only {rules.ngram_words} words in a row{sampled}).{remark}"
    )


def between_detail(count: tuple[int, int], parts: Parts) -> str:
    """The sentence of an overlap of validation with test."""
    return f"{_of(count, 'validation')}: in test too ({parts.exactly:,} exactly, {parts.nearly:,} nearly)."


def refusal(check: str, origin: str, found: str) -> str:
    """The message of an action `error`."""
    return (
        f"{origin}: expected no finding of data.quality.{check}=error, found {found.rstrip('.')}; "
        f"mend the data, or set data.quality.{check}=report or data.quality.{check}=drop."
    )


def _of(count: tuple[int, int], split: str) -> str:
    return f"{count[0]:,} of {count[1]:,} {split} examples"
