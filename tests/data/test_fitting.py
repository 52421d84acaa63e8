import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunelab.config import OverLength
from tunelab.data.fitting import Dropped, fit, prompt_ids
from tunelab.data.records import EncodedExample
from tunelab.errors import DataError

BOS = 1


def encoded(text: str, bos: bool = False, windowed: bool = False) -> EncodedExample:
    """One token a letter, its id the letter's code; capitals are supervised."""
    ids = [BOS] * bos + [ord(letter) for letter in text]
    mask = [False] * bos + [letter.isupper() for letter in text]
    arrays = np.array(ids, dtype=np.int32), np.array(mask, dtype=bool)
    for array in arrays:
        array.flags.writeable = False  # as `encode` gives them
    return EncodedExample(*arrays, "a.jsonl:3", windowed=windowed)


def fitted(text, max_length, over_length=OverLength.truncate_prompt, bos=False):
    """(kept text with `^` for bos, supervised tokens lost, truncated)"""
    result = fit(encoded(text, bos), max_length, over_length, BOS)
    (example,) = result.examples
    assert (example.origin, result.num_windows) == ("a.jsonl:3", 0)
    assert not example.loss_mask[0]
    assert example.num_tokens <= max_length
    letters = ["^" if i == BOS else chr(i) for i in example.input_ids.tolist()]
    mask = example.loss_mask.tolist()
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
    assert (result.examples, result.dropped, result.num_supervised_tokens_lost) == (
        (),
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
    assert (result.examples, result.dropped, result.num_supervised_tokens_lost) == (
        (),
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


def test_an_example_that_fits_is_not_copied():
    example = encoded("abcXY")
    assert fit(example, 5, OverLength.error, BOS).examples[0] is example


@pytest.mark.parametrize("over_length", OverLength)
def test_a_document_is_cut_into_windows_whatever_the_policy(over_length):
    result = fit(encoded("ABCDEFG", bos=True, windowed=True), 4, over_length, BOS)
    texts = ["".join("^" if i == BOS else chr(i) for i in each.input_ids.tolist()) for each in result.examples]
    assert texts == ["^ABC", "CDEF", "FG"]
    assert (result.num_windows, result.truncated, result.dropped) == (3, False, None)
    assert result.num_supervised_tokens_lost == 0


def test_a_document_that_fits_is_no_window():
    result = fit(encoded("ABC", windowed=True), 3, OverLength.drop, BOS)
    assert (len(result.examples), result.num_windows, result.num_supervised_tokens_lost) == (1, 0, 1)


def test_windows_without_supervised_tokens_are_left_out():
    result = fit(encoded("abcdeF", windowed=True), 3, OverLength.drop, BOS)
    assert [each.input_ids.tolist() for each in result.examples] == [[ord("e"), ord("F")]]
    assert (result.num_windows, result.num_supervised_tokens_lost) == (1, 0)


@given(st.integers(2, 60), st.integers(2, 20), st.booleans())
def test_every_token_of_a_document_but_the_first_is_supervised_once(num_tokens, max_length, bos):
    ids = np.arange(100, 100 + num_tokens, dtype=np.int32)  # each is its own position
    ids[0] = BOS if bos else ids[0]
    mask = np.arange(num_tokens) >= bos
    result = fit(EncodedExample(ids, mask, "x", windowed=True), max_length, OverLength.error, BOS)
    supervised = [i for each in result.examples for i in each.input_ids[each.loss_mask].tolist()]
    assert supervised == ids[1:].tolist()
    assert all(2 <= each.num_tokens <= max_length for each in result.examples)
    assert all(not each.loss_mask[0] and each.loss_mask[1:].all() for each in result.examples)
    assert result.num_supervised_tokens_lost == (not bos)
    for before, after in zip(result.examples, result.examples[1:], strict=False):
        assert before.input_ids[-1] == after.input_ids[0]


@given(st.text(st.sampled_from("abXY"), min_size=1, max_size=30), st.integers(2, 12), st.booleans())
def test_truncation_keeps_what_it_says(text, max_length, bos):
    example = encoded(text, bos)
    result = fit(example, max_length, OverLength.truncate_prompt, BOS)
    if result.dropped:
        assert not example.loss_mask[1:].any()
        return
    (kept,) = result.examples
    assert kept.num_tokens == min(example.num_tokens, max_length)
    assert result.truncated == (example.num_tokens > max_length)
    assert result.num_supervised_tokens_lost == example.num_supervised_tokens - kept.num_supervised_tokens
    assert kept.num_supervised_tokens >= 1
    if bos:
        assert kept.input_ids[0] == BOS
