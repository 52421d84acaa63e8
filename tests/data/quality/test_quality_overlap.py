import random

import pytest

from tunelab.data.quality import overlap
from tunelab.data.quality.overlap import EvaluationNgrams
from tunelab.data.quality.words import words_of


def passages(count: int, seed: int) -> list[str]:
    generator = random.Random(seed)
    return [" ".join(f"w{generator.randrange(400)}" for _ in range(generator.randrange(40))) for _ in range(count)]


def ngrams(text: str, size: int) -> set[tuple[str, ...]]:
    words = text.split()
    return {tuple(words[i : i + size]) for i in range(len(words) - size + 1)}


def collect(texts: list[str], size: int, batch: int = 7) -> EvaluationNgrams:
    collected = EvaluationNgrams(size)
    for start in range(0, len(texts), batch):
        collected.add(words_of(texts[start : start + batch]))
    return collected


@pytest.mark.parametrize("size", [1, 2, 3, 13])
def test_shared_ngrams_are_those_of_sets(size: int) -> None:
    evaluation, train = passages(60, seed=size), passages(200, seed=size + 100)
    train[::20] = [f"before {text} after" for text in evaluation[::6]]
    having: dict[tuple[str, ...], int] = {}
    for text in evaluation:
        for ngram in ngrams(text, size):
            having[ngram] = having.get(ngram, 0) + 1
    counted = {ngram for ngram, count in having.items() if count <= overlap.MAX_SHARING}
    index = collect(evaluation, size).index()
    matched = [*index.match(words_of(train[:90])), *index.match(words_of(train[90:]))]
    assert matched == [bool(ngrams(text, size) & counted) for text in train]
    in_train = set[tuple[str, ...]]().union(*(ngrams(text, size) for text in train)) & counted
    assert index.shared.tolist() == [bool(ngrams(text, size) & in_train) for text in evaluation]
    assert 0 < sum(matched) <= 200


@pytest.mark.parametrize("count", [6, 30])  # more than half of a few, more than ten of many
def test_a_form_that_many_evaluation_examples_have_does_not_count(count: int) -> None:
    form = "say whether the review is positive or negative"
    index = collect([f"{form} review number {i} of film x{i} y{i} z{i}" for i in range(count)], size=5).index()
    matched = index.match(words_of([f"{form} another film", "of film x3 y3 z3"]))
    assert matched.tolist() == [False, True]
    assert index.shared.nonzero()[0].tolist() == [3]


def test_nothing_to_compare_with() -> None:
    index = collect(["too short", ""], size=13).index()
    assert not index
    assert index.match(words_of([" ".join("abcdefghijklmnopq")])).tolist() == [False]


def test_too_many_ngrams_are_thinned_by_their_hash_and_copies_still_found(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluation = [" ".join(f"e{i}w{j}" for j in range(100)) for i in range(50)]
    monkeypatch.setattr(overlap, "MAX_NGRAMS", 1000)
    index = collect(evaluation, size=5).index()
    assert index.one_in == 8  # 4800 n-grams: half, a quarter, an eighth
    assert index.match(words_of(evaluation)).all()
    assert index.shared.all()
    assert not index.match(words_of(passages(50, seed=0))).any()
