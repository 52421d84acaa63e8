"""What all templates share: putting stretches of text together."""

from collections.abc import Sequence
from dataclasses import dataclass

from tunelab.data.records import RenderedExample, Segment


@dataclass(frozen=True, slots=True)
class Stretch:
    """A stretch of text; `trained` is what must be found again in it where it is supervised, None elsewhere."""

    text: str
    trained: str | None = None


def assemble(stretches: Sequence[Stretch], response: str, origin: str, end_of_turn: str | None) -> RenderedExample:
    """Return the rendered example of `stretches`: empty ones left out, neighbours of one kind joined.

    `end_of_turn` is kept where each supervised segment ends in it. Without any supervised stretch the whole is prompt.
    """
    filled = [stretch for stretch in stretches if stretch.text]
    prompt_end = max((i for i, stretch in enumerate(filled) if stretch.trained is not None), default=len(filled))
    prompt = "".join(stretch.text for stretch in filled[:prompt_end])
    joined: list[Stretch] = []
    for stretch in filled:
        if joined and (joined[-1].trained is None) == (stretch.trained is None):
            joined[-1] = _join(joined[-1], stretch)
        else:
            joined.append(stretch)
    supervised = [stretch.text for stretch in joined if stretch.trained is not None]
    ended = end_of_turn is not None and all(text.endswith(end_of_turn) for text in supervised)
    return RenderedExample(
        segments=tuple(Segment(stretch.text, stretch.trained is not None) for stretch in joined),
        prompt=prompt,
        response=response,
        origin=origin,
        trained=tuple(stretch.trained for stretch in joined if stretch.trained is not None),
        end_of_turn=end_of_turn if ended else None,
    )


def _join(left: Stretch, right: Stretch) -> Stretch:
    """Two neighbours as one; of two supervised ones, all that stands before the trained text's end is looked for."""
    if left.trained is None or right.trained is None:
        return Stretch(left.text + right.text)
    begin = left.text.find(left.trained) if left.trained else len(left.text)
    end = right.text.rfind(right.trained) + len(right.trained) if right.trained else 0
    return Stretch(left.text + right.text, (left.text[begin:] + right.text[:end]).strip())
