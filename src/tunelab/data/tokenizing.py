"""Rendered text becomes token ids with a loss mask, derived in two independent ways that must agree."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from tunelab.data.counting import SeamCounter
from tunelab.data.records import EncodedExample, RenderedExample, TokenSequence
from tunelab.data.spelling import make_speller
from tunelab.data.upstream import bos_token_id, encode_texts, plain_backend
from tunelab.data.verifying import Batch, bounds, flatten, make_batch, verify
from tunelab.errors import DataError

_NUM_AHEAD = 2  # chunks that are encoded, or wait for it, while an earlier one gets its masks


class Encoder:
    """Encodes rendered examples; what it learns about the tokenizer it keeps for all of them."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, add_bos: bool) -> None:
        if not tokenizer.is_fast:
            raise DataError(
                "model.path: expected a fast tokenizer (tokenizer.json), found one without character offsets."
            )
        self._tokenizer = tokenizer
        self._bos_id = bos_token_id(tokenizer) if add_bos else None
        self._counter = SeamCounter(tokenizer)
        self._speller = make_speller(tokenizer)

    def encode(self, rendered: Sequence[RenderedExample]) -> list[EncodedExample]:
        """As the function `encode`."""
        texts = self.texts(rendered)
        return self.mask(rendered, texts, encode_texts(self._tokenizer, texts)) if texts else []

    def texts(self, rendered: Sequence[RenderedExample]) -> list[str]:
        """What is to be encoded. Raises DataError for text that is no Unicode."""
        texts = ["".join([segment.text for segment in example.segments]) for example in rendered]
        _require_unicode(rendered, texts)
        return texts

    def mask(
        self, rendered: Sequence[RenderedExample], texts: Sequence[str], wholes: Sequence[list[int]]
    ) -> list[EncodedExample]:
        """Find out which of the ids of `texts` are supervised, in two ways."""
        flat = flatten(wholes)
        counted = self._counter.count(rendered, texts, wholes, flat)
        as_they_were = not any(result.num_seams_apart for result in counted)
        batch = make_batch(rendered, texts, counted, flat if as_they_were else None)
        verify(batch, self._speller, self._tokenizer)
        return _finish(batch, self._bos_id)


def encode(
    rendered: Sequence[RenderedExample], tokenizer: PreTrainedTokenizerBase, add_bos: bool
) -> list[EncodedExample]:
    """Encode many rendered examples at once (some thousands a call; memory grows with their text).

    The text is encoded whole, with no special tokens but those it spells out; `add_bos` puts the
    beginning-of-sequence token first. Where the text before a seam, encoded by itself, gives the first ids of the
    whole, the seam lies there; where it does not (a merge straddles the seam) the segments are encoded apart. Then
    `verify` derives the mask a second time.

    Raises DataError, quoting the origin, where the two ways disagree or a trained text is not found again, and for
    a tokenizer without offsets.
    """
    return Encoder(tokenizer, add_bos).encode(rendered)


def encode_stream(
    chunks: Iterable[Sequence[RenderedExample]], tokenizer: PreTrainedTokenizerBase, add_bos: bool
) -> Iterator[list[EncodedExample]]:
    """As `encode`, chunk by chunk in order, while a thread encodes the chunks that follow.

    That thread runs outside of Python; here chunks are made, and masks. An error in making a chunk is raised after the
    chunks before it were yielded.
    """
    encoder = Encoder(tokenizer, add_bos)
    ahead = deque[_Ahead]()
    failure: Exception | None = None
    with plain_backend(tokenizer), ThreadPoolExecutor(max_workers=1, thread_name_prefix="encode") as executor:
        source = iter(chunks)
        while True:
            try:
                chunk = next(source, None)
                texts = encoder.texts(chunk or ())
            except Exception as error:
                failure = error
                break
            if chunk is None:
                break
            ahead.append(_Ahead(chunk, texts, executor.submit(encode_texts, tokenizer, texts)))
            if len(ahead) > _NUM_AHEAD:
                yield ahead.popleft().masked(encoder)
        while ahead:
            yield ahead.popleft().masked(encoder)
    if failure is not None:
        raise failure


@dataclass(frozen=True, slots=True)
class _Ahead:
    """A chunk whose texts are being encoded."""

    rendered: Sequence[RenderedExample]
    texts: list[str]
    ids: Future[list[list[int]]]

    def masked(self, encoder: Encoder) -> list[EncodedExample]:
        return encoder.mask(self.rendered, self.texts, self.ids.result()) if self.texts else []


def from_ids(sequence: TokenSequence, tokenizer: PreTrainedTokenizerBase) -> EncodedExample:
    """Take ids as they are. Raises DataError for one that the tokenizer does not have."""
    ids, size = sequence.input_ids, len(tokenizer)
    if ids and not 0 <= min(ids) <= max(ids) < size:
        position = next(index for index, token_id in enumerate(ids) if not 0 <= token_id < size)
        raise DataError(
            f"{sequence.origin}: expected ids from 0 to {size - 1}, the vocabulary of model.path, found "
            f"{ids[position]} at position {position}; set model.path=<the model that the data was tokenized for>."
        )
    return EncodedExample(np.array(ids, dtype=np.int32), np.array(sequence.loss_mask, dtype=bool), sequence.origin)


def _require_unicode(rendered: Sequence[RenderedExample], texts: Sequence[str]) -> None:
    for example, text in zip(rendered, texts, strict=True):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"{example.origin}: expected text of whole characters, found half of a surrogate pair "
                f"({text[error.start]!r}) at character {error.start}; mend the text of this row."
            ) from error


def _finish(batch: Batch, bos_id: int | None) -> list[EncodedExample]:
    """Cut the batch into examples, the beginning-of-sequence token in front of each."""
    ids, mask, num_tokens = batch.ids, np.repeat(batch.kinds, batch.counts), batch.num_tokens
    if bos_id is not None:
        starts = bounds(num_tokens)[:-1]
        ids, mask, num_tokens = np.insert(ids, starts, bos_id), np.insert(mask, starts, False), num_tokens + 1
    ids.flags.writeable = mask.flags.writeable = False
    ends = np.cumsum(num_tokens).tolist()
    return [
        EncodedExample(ids[begin:end], mask[begin:end], example.origin, result.num_seams_apart, example.windowed)
        for begin, end, example, result in zip([0, *ends], ends, batch.rendered, batch.counted, strict=False)
    ]
