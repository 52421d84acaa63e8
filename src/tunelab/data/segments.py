"""What all templates share: putting segments together."""

from collections.abc import Sequence

from tunelab.data.records import RenderedExample, Segment


def assemble(segments: Sequence[Segment], response: str, origin: str) -> RenderedExample:
    """Return the rendered example of `segments`: empty ones left out, neighbours of one kind joined.

    At least one segment must be supervised.
    """
    joined: list[Segment] = []
    for segment in segments:
        if joined and joined[-1].supervised == segment.supervised:
            joined[-1] = Segment(joined[-1].text + segment.text, segment.supervised)
        elif segment.text:
            joined.append(segment)
    last = max(index for index, segment in enumerate(joined) if segment.supervised)
    prompt = "".join(segment.text for segment in joined[:last])
    return RenderedExample(tuple(joined), prompt=prompt, response=response, origin=origin)
