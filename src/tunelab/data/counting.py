"""The first way to a loss mask: tokens are counted by encoding what stands before each seam."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase

from tunelab.data.records import RenderedExample
from tunelab.data.upstream import added_token_settings, encode_texts, unknown_token

_SHORT = 64  # characters: what a template writes before a response, worth remembering
_MOST_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class Counted:
    """Token ids of one example, the number of them in each segment, and the seams that were encoded apart."""

    ids: list[int]
    counts: list[int]
    num_seams_apart: int


@dataclass(frozen=True, slots=True)
class _Head:
    """Text that ends at a seam and begins at token `position`: with the text, or with a marker inside it."""

    position: int
    text: str


class SeamCounter:
    """Counts the tokens of segments: a seam lies where the text before it, encoded by itself, ends in the whole.

    Added tokens are cut out of a text before anything else happens to it, so that what follows one does not depend
    on what stands before it: such a marker, found in text and ids alike, saves encoding all that precedes it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._unknown = unknown_token(tokenizer)
        self._markers = _markers(tokenizer)
        self._marker_ids = np.array(sorted(self._markers.values()), dtype=np.int32)
        longest_first = sorted(self._markers, key=lambda text: (-len(text), text))
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._remembered: dict[str, list[int]] = {}

    def count(
        self,
        rendered: Sequence[RenderedExample],
        texts: Sequence[str],
        wholes: Sequence[list[int]],
        flat: npt.NDArray[np.int32],
    ) -> list[Counted]:
        """Count the tokens of all segments; `wholes` are the ids of `texts`, and `flat` the same end to end.

        Where a merge straddles a seam, the segments of that example are encoded apart: at generation, too, the
        prompt is encoded by itself.
        """
        spots = self._spots(texts, wholes, flat)
        heads = [_heads(*each) for each in zip(rendered, texts, spots, strict=True)]
        encoded = self._encode(head.text for each in heads for head in each)
        ends = [_ends(whole, each, encoded, self._unknown) for whole, each in zip(wholes, heads, strict=True)]
        straddled = [index for index, found in enumerate(ends) if None in found]
        apart = iter(_encode_apart(self._tokenizer, [rendered[index] for index in straddled]))
        return [
            _apart(next(apart), found.count(None)) if None in found else Counted(whole, _counts(found, len(whole)), 0)
            for whole, found in zip(wholes, ends, strict=True)
        ]

    def _spots(
        self, texts: Sequence[str], wholes: Sequence[list[int]], flat: npt.NDArray[np.int32]
    ) -> list[list[tuple[int, int, int]]]:
        """For each text its markers: where they begin and end in the text, and which token they are.

        None for a text whose markers are not those of its ids, for whatever reason.
        """
        positions = np.flatnonzero(np.isin(flat, self._marker_ids))
        ends = np.cumsum([len(whole) for whole in wholes])
        bounds = [0, *np.searchsorted(positions, ends).tolist()]
        kinds, places = flat[positions].tolist(), positions.tolist()
        starts = [0, *ends.tolist()]
        spots: list[list[tuple[int, int, int]]] = []
        for text, (first, last), start in zip(texts, pairwise(bounds), starts, strict=False):
            found = [(*match.span(), self._markers[match.group()]) for match in self._pattern.finditer(text)]
            same = [kind for _, _, kind in found] == kinds[first:last]
            tokens = [place - start for place in places[first:last]]
            spots.append([(a, b, at) for (a, b, _), at in zip(found, tokens, strict=True)] if same else [])
        return spots

    def _encode(self, texts: Iterable[str]) -> dict[str, list[int]]:
        wanted = [text for text in dict.fromkeys(texts) if text not in self._remembered]
        found = dict(zip(wanted, encode_texts(self._tokenizer, wanted), strict=True))
        if len(self._remembered) < _MOST_REMEMBERED:
            self._remembered |= {text: ids for text, ids in found.items() if len(text) <= _SHORT}
        return self._remembered | found if wanted else self._remembered


def _markers(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """The added tokens that match what they spell, wherever it stands, and take nothing beside it."""
    return {
        token.content: token_id
        for token_id, token in added_token_settings(tokenizer).items()
        if token.content and not (token.lstrip or token.rstrip or token.single_word or token.normalized)
    }


def _heads(example: RenderedExample, text: str, spots: list[tuple[int, int, int]]) -> list[_Head]:
    """The text before each seam, from the last marker on."""
    heads: list[_Head] = []
    start = position = reached = 0
    for seam in _seams(example):
        while reached < len(spots) and spots[reached][1] <= seam:
            start, _, position = spots[reached]
            reached += 1
        heads.append(_Head(position, text[start:seam]))
    return heads


def _seams(example: RenderedExample) -> list[int]:
    """Where segments meet, in characters."""
    return list(accumulate(len(segment.text) for segment in example.segments))[:-1]


def _ends(
    whole: list[int], heads: list[_Head], encoded: dict[str, list[int]], unknown: tuple[str, int] | None
) -> list[int | None]:
    """How many tokens stand before each seam; None where a merge straddles it.

    It may also where the last of them is unknown: that token looks the same however far it reaches.
    """
    ends: list[int | None] = []
    for head in heads:
        ids = encoded[head.text]
        end = head.position + len(ids)
        hidden = unknown is not None and ids[-1:] == [unknown[1]] and not head.text.endswith(unknown[0])
        ends.append(end if whole[head.position : end] == ids and not hidden else None)
    return ends


def _counts(ends: Sequence[int | None], num_tokens: int) -> list[int]:
    return [after - before for before, after in pairwise([0, *(end or 0 for end in ends), num_tokens])]


def _apart(parts: list[list[int]], num_seams_apart: int) -> Counted:
    return Counted(list(chain.from_iterable(parts)), [len(part) for part in parts], num_seams_apart)


def _encode_apart(tokenizer: PreTrainedTokenizerBase, rendered: Sequence[RenderedExample]) -> list[list[list[int]]]:
    """Encode each segment as it would be inside a longer text: some tokenizers put a space before every text.

    A line break in front takes that space and is taken off again; where it merges with the text, alone it is.
    """
    if not rendered:
        return []
    inner = [segment.text for example in rendered for segment in example.segments[1:]]
    texts = ["\n", *(example.segments[0].text for example in rendered), *inner, *(f"\n{text}" for text in inner)]
    guard, *encoded = encode_texts(tokenizer, texts)
    firsts, alone, guarded = encoded[: len(rendered)], encoded[len(rendered) :][: len(inner)], encoded[-len(inner) :]
    others = iter(
        behind[len(guard) :] if behind[: len(guard)] == guard else by_itself
        for by_itself, behind in zip(alone, guarded, strict=True)
    )
    return [
        [first, *(next(others) for _ in example.segments[1:])] for first, example in zip(firsts, rendered, strict=True)
    ]
