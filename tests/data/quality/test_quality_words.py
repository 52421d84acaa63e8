import random
import unicodedata

import numpy as np
import pytest

from tunelab.data.quality.scripts import shares
from tunelab.data.quality.words import SCRIPTS, survey_pieces, words_of

ALPHABET = "abcXYZ0189 \t\n.,-_’éÉßЖж漢字かなไทย한글हिन्दी😀—\u00a0\ufffd\x00"


def reference_words(text: str) -> list[str]:
    """Words one character at a time, from the names of the characters."""
    words: list[str] = []
    previous_in_word = False
    for character in text:
        name = unicodedata.name(character, "")
        alone = ord(character) > 0xFFFF or (
            name.startswith(("CJK UNIFIED", "HIRAGANA LETTER", "THAI CHARACTER"))
            and unicodedata.category(character) == "Lo"
        )
        in_word = not alone and unicodedata.category(character)[0] in "LMN"
        if in_word and previous_in_word:
            words[-1] += character.lower()
        elif in_word or alone:
            words.append(character.lower())
        previous_in_word = in_word
    return words


def random_texts(count: int, seed: int) -> list[str]:
    generator = random.Random(seed)
    return ["".join(generator.choices(ALPHABET, k=generator.randrange(40))) for _ in range(count)]


@pytest.mark.parametrize("shorten", [False, True])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_ngrams_are_equal_exactly_where_the_words_are(size: int, shorten: bool) -> None:
    texts = random_texts(300, seed=size)
    hashes, counts = words_of(texts).ngrams(size, shorten)
    expected: list[tuple[str, ...]] = []
    for text, count in zip(texts, counts, strict=True):
        words = reference_words(text)
        span = min(size, len(words)) if shorten else size
        ngrams = [tuple(words[i : i + span]) for i in range(len(words) - span + 1)] if words else []
        assert len(ngrams) == count, text
        expected += ngrams
    hash_of = dict(zip(expected, hashes.tolist(), strict=True))
    assert [hash_of[ngram] for ngram in expected] == hashes.tolist()
    assert len(set(hash_of.values())) == len(hash_of)


def test_a_text_has_the_same_hashes_in_any_company() -> None:
    text = "The quick brown fox jumps"
    alone, _ = words_of([text]).ngrams(3, shorten=False)
    among, counts = words_of(["漢字 😀 first", text.upper() + "!", "last"]).ngrams(3, shorten=False)
    assert among[counts[0] : counts[0] + counts[1]].tolist() == alone.tolist()


def test_words_are_of_the_texts_and_not_of_what_stands_aside() -> None:
    apart = survey_pieces(["you are a helpful assistant", "two words", "", "漢字"]).words
    assert apart.counts.tolist() == [2, 2]
    assert apart.hashes.tolist() == words_of(["two words", "漢字"]).hashes.tolist()


def test_a_text_longer_than_the_powers_at_hand() -> None:
    text = "word " * 60_000 + "end of it"
    hashes, counts = words_of([text, "end of it"]).ngrams(3, shorten=False)
    assert counts.tolist() == [60_001, 1]
    assert hashes[-2] == hashes[-1]
    assert len(set(hashes.tolist())) == 4  # three words, two and "end", one and "end of", "end of it"


def test_no_text_at_all() -> None:
    hashes, counts = words_of(["", " ... "]).ngrams(5, shorten=True)
    assert hashes.size == 0
    assert counts.tolist() == [0, 0]


def test_letters_are_counted_by_script() -> None:
    counts = survey_pieces(["abc", "Ab1 привет 漢字𠀀 かカ αβ عر 한 हि ไ 😀"]).script_counts
    found = {name: count for name, count in zip(SCRIPTS, counts.tolist(), strict=True) if count}
    assert found == {
        **{"Latin": 5, "Cyrillic": 6, "Han": 3, "Hiragana": 1, "Katakana": 1, "Greek": 2, "Arabic": 2},
        **{"Hangul": 1, "Devanagari": 1, "Thai": 1},
    }
    assert shares(counts)["Cyrillic"] == round(6 / 23, 4)
    assert next(iter(shares(counts))) == "Cyrillic"
    assert shares(np.zeros(len(SCRIPTS), np.int64)) == {}


def test_damaged_characters_are_found_with_their_piece() -> None:
    surveyed = survey_pieces(["fine\t\r\n\f", "bad\ufffd", "", "\x00", "\x9b", "\ud800 \x7f", "\u200d\ufeff", "\uffff"])
    found = list(zip(surveyed.damaged_pieces.tolist(), surveyed.damaged_code_points.tolist(), strict=True))
    assert found == [(1, 0xFFFD), (3, 0), (4, 0x9B), (5, 0xD800), (5, 0x7F), (7, 0xFFFF)]
