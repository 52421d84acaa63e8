"""Marks in a completion what differs from the reference, word by word."""

import re
from difflib import SequenceMatcher
from enum import StrEnum

MAX_WORDS = 2000  # of both texts: beyond that the comparison takes too long, and nothing is marked
_WORDS = re.compile(r"\s+|\w+|[^\w\s]")


class Mark(StrEnum):
    """What a piece of text is, seen from the reference: in both, only written, or left out."""

    SAME = "same"
    ADDED = "added"
    MISSING = "missing"


Pieces = list[tuple[Mark, str]]


def mark_differences(reference: str, completion: str) -> Pieces:
    """Cut `completion` where it leaves `reference`: the pieces that are not MISSING are the completion.

    Those that are not ADDED are the reference. Without a reference, or where the texts have more than MAX_WORDS words,
    all of the completion is SAME.
    """
    expected, found = _WORDS.findall(reference), _WORDS.findall(completion)
    if not reference.strip() or len(expected) + len(found) > MAX_WORDS:
        return [(Mark.SAME, completion)] if completion else []
    pieces: Pieces = []
    for kind, start, end, found_start, found_end in SequenceMatcher(None, expected, found, False).get_opcodes():
        if kind == "equal":
            pieces.append((Mark.SAME, "".join(found[found_start:found_end])))
            continue
        if end > start:
            pieces.append((Mark.MISSING, "".join(expected[start:end])))
        if found_end > found_start:
            pieces.append((Mark.ADDED, "".join(found[found_start:found_end])))
    return pieces
