import random

import numpy as np
import pytest
from numpy.typing import NDArray

from tunelab.data.quality import duplicates
from tunelab.data.quality.duplicates import (
    Sketches,
    contradictions,
    near_any,
    near_earlier,
    repeats,
    signatures_of,
    similarity,
)
from tunelab.data.quality.words import words_of


def sketches_of(texts: list[str]) -> Sketches:
    words = words_of(texts)
    return Sketches(signatures_of(words), words.counts > 0)


def ngrams(text: str) -> frozenset[int]:
    """The set of word 5-grams of a text in lower case without punctuation."""
    words = text.split()
    return frozenset(hash(tuple(words[i : i + 5])) for i in range(len(words) - 4))


def jaccards(texts: list[str], others: list[str]) -> NDArray[np.float64]:
    """Exact similarities, texts × others."""
    sets, other_sets = [ngrams(text) for text in texts], [ngrams(text) for text in others]
    shared = np.array([[len(a & b) for b in other_sets] for a in sets])
    sizes, other_sizes = np.array([len(a) for a in sets]), np.array([len(b) for b in other_sets])
    return shared / (sizes[:, None] + other_sizes - shared)


def near_copies(count: int, seed: int) -> list[str]:
    """Texts of 60 to 160 words, each but a few an earlier one with up to 8 words changed."""
    generator = random.Random(seed)
    vocabulary = [f"word{i}" for i in range(2000)]
    texts = [generator.choices(vocabulary, k=generator.randrange(60, 160)) for _ in range(count // 3)]
    while len(texts) < count:
        copy = list(generator.choice(texts))
        for place in generator.sample(range(len(copy)), generator.randrange(9)):
            copy[place] = generator.choice(vocabulary)
        texts.append(copy)
    generator.shuffle(texts)
    return [" ".join(words) for words in texts]


@pytest.mark.parametrize("threshold", [0.6, 0.8, 0.9])
def test_near_duplicates_are_those_of_brute_force(threshold: float) -> None:
    texts = near_copies(300, seed=1)
    found = near_earlier(sketches_of(texts), threshold)
    highest = np.tril(jaccards(texts, texts), k=-1).max(axis=1)
    clearly, clearly_not = highest >= threshold + 0.1, highest < threshold - 0.1
    assert clearly.sum() > 15
    assert clearly_not.sum() > 100
    assert found[clearly].all()  # beyond three standard deviations of the estimate nothing is missed …
    assert not found[clearly_not].any()  # … and nothing invented
    truth = highest >= threshold
    assert (found & truth).sum() / truth.sum() > 0.85  # recall, with those at the threshold
    assert (found & truth).sum() / found.sum() > 0.85  # precision


def test_the_estimate_is_unbiased_and_as_exact_as_stated() -> None:
    texts = near_copies(300, seed=2)
    signatures = sketches_of(texts).signatures
    exact = jaccards(texts, texts)
    rows, others = np.nonzero(np.triu(exact, k=1) > 0.3)
    errors = similarity(signatures[rows], signatures[others]) - exact[rows, others]
    assert rows.size > 200
    assert abs(errors.mean()) < 0.01
    assert errors.std() < 0.045


@pytest.mark.parametrize(
    ("first", "second", "near"),
    [
        ("what is 2 + 3", "what is 2 + 4", False),  # four words: all of them must agree
        ("What is 2 + 3?", "what is 2 3", True),
        ("yes", "Yes!", True),
        ("yes", "no", False),
        ("...", "!!!", False),  # no words: not compared
        ("Dear customer, " + "thank you for your order of last week " * 9 + "1", "Dear customer, "
         + "thank you for your order of last week " * 9 + "2", True),
    ],
)  # fmt: skip
def test_what_near_means_for_short_texts_and_forms(first: str, second: str, near: bool) -> None:
    assert near_earlier(sketches_of([first, second]), 0.8).tolist() == [False, near]


def test_texts_of_another_split_are_near_in_any_order() -> None:
    texts = near_copies(200, seed=3)
    left, right = sketches_of(texts[:120]), sketches_of(texts[120:])
    for split, other, own, others in ((left, right, texts[:120], texts[120:]), (right, left, texts[120:], texts[:120])):
        found = near_any(split, other, 0.8)
        highest = jaccards(own, others).max(axis=1)
        assert found[highest >= 0.9].all()
        assert found.sum() > 10
        assert not found[highest < 0.7].any()


def test_the_order_decides_only_which_of_the_copies_is_the_first() -> None:
    texts = [f"{text} {i}" for i, text in enumerate(near_copies(40, seed=4)[:10])]
    copies = [text + " indeed" for text in texts for _ in range(3)]
    generator = random.Random(0)
    counts = set[int]()
    for _ in range(5):
        generator.shuffle(copies)
        found = near_earlier(sketches_of(copies), 0.8)
        first = [copies.index(copy) == place for place, copy in enumerate(copies)]
        counts.add(int(found.sum()))
        assert not found[0]
        assert all(found[place] or first[place] for place in range(len(copies)))
    assert len(counts) == 1


def test_similarity_one_takes_equal_sets_only() -> None:
    texts = ["a b c d e f g h", "A, b c d e f g h!", "a b c d e f g i"]
    assert near_earlier(sketches_of(texts), 1.0).tolist() == [False, True, False]


def test_a_crowd_in_one_band_is_compared_with_its_earliest_only(monkeypatch: pytest.MonkeyPatch) -> None:
    signatures = np.random.default_rng(0).integers(0, 256, (400, duplicates.NUM_HASHES), dtype=np.uint8)
    signatures[:, :10] = 7  # all share the first band, none is similar
    compared = 0

    def counted(first: duplicates.Signatures, second: duplicates.Signatures) -> object:
        nonlocal compared
        compared += len(first)
        return similarity(first, second)

    monkeypatch.setattr(duplicates, "similarity", counted)
    assert not near_earlier(Sketches(signatures, np.ones(400, np.bool_)), 0.8).any()
    assert 0 < compared <= 400 * duplicates.MAX_CANDIDATES


def test_repeats_and_contradictions_are_those_of_brute_force() -> None:
    generator = np.random.default_rng(0)
    for size in (0, 1, 50, 500):
        prompts = generator.integers(0, 40, size).astype(np.uint64)
        identities = prompts * np.uint64(1000) + generator.integers(0, 3, size).astype(np.uint64)
        seen = set[int]()
        earlier = [value in seen or seen.add(value) is not None for value in identities.tolist()]
        assert repeats(identities).tolist() == earlier
        answers: dict[int, set[int]] = {}
        for prompt, identity in zip(prompts.tolist(), identities.tolist(), strict=True):
            answers.setdefault(prompt, set()).add(identity)
        expected = [prompt != 0 and len(answers[prompt]) > 1 for prompt in prompts.tolist()]
        assert contradictions(prompts, identities).tolist() == expected
