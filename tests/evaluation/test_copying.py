import random

import torch
from conftest import make_tokenizer

from tunelab.config import EvaluationConfig
from tunelab.data.records import TokenizedExample
from tunelab.evaluation.copying import SubstringIndex, trained_texts, with_copies
from tunelab.evaluation.metrics import Answer, chosen_metrics
from tunelab.evaluation.scores import score_answers


def longest_shared_run(first: list[str], texts: list[list[str]]) -> int:
    """By trying all runs."""
    runs = {tuple(text[a:b]) for text in texts for a in range(len(text)) for b in range(a + 1, len(text) + 1)}
    own = [tuple(first[a:b]) for a in range(len(first)) for b in range(a + 1, len(first) + 1)]
    return max((len(run) for run in own if run in runs), default=0)


def test_longest_runs_are_those_of_a_search_through_all_runs():
    rng = random.Random(0)
    for letters in ("ab", "abc", "abcdefgh"):
        for _ in range(60):
            sequences = [rng.choices(letters, k=rng.randrange(9)) for _ in range(rng.randrange(6))]
            texts = [rng.choices(letters, k=rng.randrange(9)) for _ in range(rng.randrange(5))]
            index = SubstringIndex(sequences)
            for text in texts:
                index.look(text)
            assert index.longest_runs() == [longest_shared_run(sequence, texts) for sequence in sequences]


def values_of(texts: list[str] | None, *completions: str) -> dict[str, float]:
    answers = [Answer(completion, "x") for completion in completions]
    metrics = chosen_metrics(EvaluationConfig(metrics=["copied_fraction", "copied_share"]), ["x"])
    given = answers if texts is None else with_copies([*answers, None], texts)
    return {scores.name: scores.value for scores in score_answers(metrics, given)}


def test_copies():
    texts = ["we will send the parcel today", "no"]
    found = values_of(texts, "send the  parcel", "we will never send", "", "no", "no no")
    assert found == {"copied_fraction": 2 / 5, "copied_share": (1 + 2 / 4 + 0 + 1 + 1 / 2) / 5}


def test_without_training_responses_there_is_no_value():
    assert all(value != value for value in values_of(None, "a").values())


def test_texts_are_the_supervised_stretches():
    tokenizer = make_tokenizer()
    parts = [
        ("<|user|>what is two", False),
        ("five.<|end|>", True),
        ("<|user|>three?", False),
        ("the answer<|end|>", True),
    ]
    ids, mask = [], []
    for text, supervised in parts:
        encoded = tokenizer.encode(text)
        ids, mask = ids + encoded, mask + [supervised] * len(encoded)
    example = TokenizedExample(torch.tensor(ids), torch.tensor(mask), "r:1")
    assert list(trained_texts([example], tokenizer)) == ["five.", "the answer"]
