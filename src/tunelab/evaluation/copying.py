"""How much of what a model wrote stands word for word in the responses that it was trained on."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from tunelab.data.records import TokenizedExample
from tunelab.evaluation.metrics import Answer
from tunelab.model.tokenizer import completion_text


def trained_texts(examples: Iterable[TokenizedExample], tokenizer: Any) -> Iterator[str]:
    """The text of each supervised stretch of `examples`, one at a time, without special tokens."""
    for example in examples:
        pairs = zip(example.loss_mask.tolist(), example.input_ids.tolist(), strict=True)
        for supervised, stretch in groupby(pairs, key=lambda pair: pair[0]):
            if supervised:
                ids = [token for _, token in stretch]
                yield completion_text(tokenizer, ids)


def with_copies(answers: Sequence[Answer | None], texts: Iterable[str]) -> list[Answer | None]:
    """The answers with `copied_words`: the longest run of words of each completion that one of `texts` has as well.

    Words are what white space separates. `texts` are read once and not kept: memory grows with the completions alone.
    """
    completions = [answer.completion.split() if answer else [] for answer in answers]
    index = SubstringIndex(completions)
    for text in texts:
        index.look(text.split())
    runs = index.longest_runs()
    return [answer and replace(answer, copied_words=run) for answer, run in zip(answers, runs, strict=True)]


class SubstringIndex:
    """All runs of words of some sequences, as a suffix automaton (Blumer et al. 1985), and which of them were seen.

    It has at most two states for each word. A state stands for runs that end at the same places; `_lengths` is the
    longest of them, `_links` leads to the state of their longest suffix that also ends elsewhere.
    """

    def __init__(self, sequences: Sequence[Sequence[str]]) -> None:
        self._sequences = sequences
        self._next: list[dict[str | int, int]] = [{}]
        self._links, self._lengths = [-1], [0]
        last = 0
        for number, sequence in enumerate(sequences):
            for word in (*sequence, number):  # the number parts the sequences: no text has it
                last = self._extend(last, word)
        self._seen = [0] * len(self._next)  # the longest run of each state that a text had

    def look(self, words: Sequence[str]) -> None:
        """Note the runs that `words` share with the sequences."""
        state = length = 0
        for word in words:
            while state and word not in self._next[state]:
                state = self._links[state]
                length = self._lengths[state]
            if word not in self._next[state]:
                continue
            state, length = self._next[state][word], length + 1
            self._seen[state] = max(self._seen[state], length)

    def longest_runs(self) -> list[int]:
        """For each sequence the number of words of its longest run that was seen; 0 for none."""
        by_length = sorted(range(len(self._next)), key=lambda state: self._lengths[state])
        seen = list(self._seen)
        for state in reversed(by_length[1:]):  # with a run, all of its suffixes were seen
            if seen[state]:
                seen[self._links[state]] = self._lengths[self._links[state]]
        for state in by_length[1:]:  # where a run was not, one of its suffixes may have been
            seen[state] = seen[state] or seen[self._links[state]]
        runs: list[int] = []
        for sequence in self._sequences:
            state = longest = 0
            for word in sequence:
                state = self._next[state][word]
                longest = max(longest, seen[state])
            runs.append(longest)
        return runs

    def _extend(self, last: int, word: str | int) -> int:
        """Add a word behind the state `last`; return the state of all that was read."""
        state = self._new_state({}, self._lengths[last] + 1, 0)
        place = last
        while place >= 0 and word not in self._next[place]:
            self._next[place][word] = state
            place = self._links[place]
        if place >= 0:
            self._links[state] = self._without_longer_runs(place, word)
        return state

    def _without_longer_runs(self, place: int, word: str | int) -> int:
        """The state after `word` at `place` whose longest run ends there; where it has longer ones, split off."""
        follower = self._next[place][word]
        if self._lengths[follower] == self._lengths[place] + 1:
            return follower
        copy = self._new_state(dict(self._next[follower]), self._lengths[place] + 1, self._links[follower])
        self._links[follower] = copy
        while place >= 0 and self._next[place].get(word) == follower:
            self._next[place][word] = copy
            place = self._links[place]
        return copy

    def _new_state(self, following: dict[str | int, int], length: int, link: int) -> int:
        self._next.append(following)
        self._lengths.append(length)
        self._links.append(link)
        return len(self._next) - 1
