import pytest
import torch

from tunelab.config import OverLength
from tunelab.data.fitting import Dropped, fit, prompt_ids
from tunelab.data.tokenizing import EncodedExample
from tunelab.errors import DataError

BOS = 1


def encoded(text: str, bos: bool = False) -> EncodedExample:
    """One token a letter, its id the letter's code; capitals are supervised."""
    ids = [BOS] * bos + [ord(letter) for letter in text]
    mask = [False] * bos + [letter.isupper() for letter in text]
    return EncodedExample(torch.tensor(ids), torch.tensor(mask), 0, "a.jsonl:3")


def fitted(text, max_length, over_length=OverLength.truncate_prompt, bos=False):
    """(kept text with `^` for bos, supervised tokens lost, truncated)"""
    result = fit(encoded(text, bos), max_length, over_length, BOS)
    assert result.example is not None
    assert not result.example.loss_mask[0]
    assert result.example.num_tokens <= max_length
    letters = ["^" if i == BOS else chr(i) for i in result.example.input_ids.tolist()]
    mask = result.example.loss_mask.tolist()
    assert all(m == letter.isupper() for m, letter in list(zip(mask, letters, strict=True))[1:])
    return "".join(letters), result.num_supervised_tokens_lost, result.truncated


@pytest.mark.parametrize(
    ("text", "max_length", "bos", "expected"),
    [
        ("abcXY", 5, False, ("abcXY", 0, False)),
        ("abcXY", 4, False, ("bcXY", 0, True)),
        ("abcXY", 4, True, ("^cXY", 0, True)),
        ("abcXY", 3, False, ("cXY", 0, True)),
        ("abcXY", 3, True, ("^XY", 0, True)),
        ("abcXY", 2, False, ("cX", 1, True)),  # the response alone is too long: it loses its end
        ("abcXY", 2, True, ("^X", 1, True)),
        ("abcXYz", 3, False, ("cXY", 0, True)),  # what follows the response goes before the response does
        ("abcXYz", 4, True, ("^XYz", 0, True)),
        ("abXYcdZW", 6, False, ("XYcdZW", 1, True)),  # nothing predicts X any more
        ("abXYcdZW", 5, True, ("^cdZW", 2, True)),
        ("abXYcdZWV", 3, False, ("dZW", 3, True)),
        ("XY", 2, False, ("XY", 1, False)),
    ],
)
def test_truncate_prompt(text, max_length, bos, expected):
    assert fitted(text, max_length, bos=bos) == expected


def test_drop():
    result = fit(encoded("abcXY"), 4, OverLength.drop, BOS)
    assert (result.example, result.dropped, result.num_supervised_tokens_lost) == (
        None,
        Dropped.OVER_LENGTH,
        2,
    )
    assert fitted("abcXY", 5, OverLength.drop) == ("abcXY", 0, False)


def test_error():
    with pytest.raises(DataError, match=r"a\.jsonl:3: expected at most 4 tokens \(data\.max_length\), found 5; set"):
        fit(encoded("abcXY"), 4, OverLength.error, BOS)


@pytest.mark.parametrize(("text", "lost"), [("abc", 0), ("Xbc", 1), ("X", 1)])
def test_nothing_supervised(text, lost):
    result = fit(encoded(text), 9, OverLength.truncate_prompt, BOS)
    assert (result.example, result.dropped, result.num_supervised_tokens_lost) == (
        None,
        Dropped.NO_SUPERVISED_TOKENS,
        lost,
    )


@pytest.mark.parametrize(
    ("text", "max_length", "bos", "expected"),
    [
        ("abXYcdZW", 9, False, "abXYcd"),
        ("abXYcdZWVU", 3, False, "Ycd"),
        ("abXYcdZW", 3, True, "^cd"),
        ("XY", 5, False, ""),
    ],
)
def test_prompt_ids(text, max_length, bos, expected):
    ids = prompt_ids(encoded(text, bos), max_length, BOS)
    assert "".join("^" if i == BOS else chr(i) for i in ids) == expected
