import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunelab.escaping import printable, shorten

ANY_TEXT = st.text(st.characters(exclude_categories=()))  # lone surrogates too


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("a\nb\tc\r", "a\\nb\\tc\\r"),
        ("\x1b]0;title\x07\x9b", "\\x1b]0;title\\x07\\x9b"),
        ("x\u202ey\u2066z\u200f", "x\\u202ey\\u2066z\\u200f"),
        ("zero\u200bwidth\ufeff", "zero\\u200bwidth\\ufeff"),
        ("\u2028\u2029", "\\u2028\\u2029"),
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\U000e0041"),
        ("Zoë 👩‍💻 می‌خواهم", "Zoë 👩‍💻 می‌خواهم"),
    ],
)
def test_printable(text, shown):
    assert printable(text) == shown


def test_what_is_kept():
    assert printable("a\nb\x1b", keep="\n") == "a\nb\\x1b"


@given(ANY_TEXT)
def test_nothing_acting_is_left(text):
    shown = printable(text)
    assert {unicodedata.category(c) for c in shown if c not in "\u200c\u200d"}.isdisjoint(
        {"Cc", "Cf", "Cs", "Zl", "Zp"}
    )
    shown.encode()  # as no lone surrogate can be
    assert printable(shown) == shown


def test_shorten():
    assert shorten("abc", 3) == "abc"
    assert shorten("a" * 500 + "b" * 1500, 100) == "a" * 50 + " […1,900 characters not shown…] " + "b" * 50


@given(st.text(max_size=50), st.integers(2, 60))
def test_shorten_keeps_both_ends(text, limit):
    shown = shorten(text, limit)
    half = limit // 2
    assert shown == text if len(text) <= limit else (shown[:half], shown[-half:]) == (text[:half], text[-half:])
