"""Tokenized examples become the tensors of one forward pass. Nothing else in tunelab makes `labels`."""

from collections.abc import Sequence

import torch
from torch.nn.utils.rnn import pad_sequence

from tunelab.data.records import IGNORE_INDEX, MicroBatch, TokenizedExample


def collate(examples: Sequence[TokenizedExample], padded: bool, pad_token_id: int) -> MicroBatch:
    """Lay examples end to end in one row, or where `padded` one example a row.

    Returns tensors of shape (1, sum of lengths) or (number of examples, longest), int64; see `MicroBatch`.
    `pad_token_id` is read where `padded`; it may equal any other id, since masks and labels never look at
    ids. Raises ValueError for no examples.
    """
    if not examples:
        raise ValueError("expected at least 1 example for a micro-batch, found none")
    labels = [_labels(example) for example in examples]
    return _padded(examples, labels, pad_token_id) if padded else _packed(examples, labels)


def _labels(example: TokenizedExample) -> torch.Tensor:
    """Unshifted labels of one example: (length,), int64.

    The first is never supervised: alone nothing predicts it, and in a padding-free row the last token of the
    example before it would.
    """
    labels = example.input_ids.masked_fill(~example.loss_mask, IGNORE_INDEX)
    labels[0] = IGNORE_INDEX
    return labels


def _packed(examples: Sequence[TokenizedExample], labels: list[torch.Tensor]) -> MicroBatch:
    lengths = tuple(example.num_tokens for example in examples)
    return MicroBatch(
        input_ids=torch.cat([example.input_ids for example in examples])[None],
        position_ids=torch.cat([torch.arange(length) for length in lengths])[None],
        labels=torch.cat(labels)[None],
        attention_mask=None,
        segment_lengths=lengths,
    )


def _padded(examples: Sequence[TokenizedExample], labels: list[torch.Tensor], pad_token_id: int) -> MicroBatch:
    ids = [example.input_ids for example in examples]
    lengths = torch.tensor([example.num_tokens for example in examples])
    positions = torch.arange(int(lengths.max())).repeat(len(examples), 1)
    return MicroBatch(
        input_ids=pad_sequence(ids, batch_first=True, padding_value=pad_token_id),
        position_ids=positions,
        labels=pad_sequence(labels, batch_first=True, padding_value=IGNORE_INDEX),
        attention_mask=(positions < lengths[:, None]).long(),
        segment_lengths=None,
    )
