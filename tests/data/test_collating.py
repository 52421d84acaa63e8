import pytest
import torch

from tunelab.data.collating import collate
from tunelab.data.records import IGNORE_INDEX, TokenizedExample

X = IGNORE_INDEX


def example(ids: list[int], mask: list[bool]) -> TokenizedExample:
    return TokenizedExample(torch.tensor(ids), torch.tensor(mask), "x")


FIRST = example([5, 6, 0], [False, True, True])  # ends in an id that equals the pad id
SECOND = example([7, 8], [True, True])  # claims its first token supervised: labels must not believe it


def test_padding_free():
    batch = collate([FIRST, SECOND], padded=False, pad_token_id=0)
    assert batch.input_ids.tolist() == [[5, 6, 0, 7, 8]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 0, 1]]
    assert batch.labels.tolist() == [[X, 6, 0, X, 8]]
    assert batch.attention_mask is None
    assert batch.segment_lengths == (3, 2)
    assert batch.num_tokens == batch.num_real_tokens == 5


def test_padded():
    batch = collate([FIRST, SECOND], padded=True, pad_token_id=0)
    assert batch.input_ids.tolist() == [[5, 6, 0], [7, 8, 0]]
    assert batch.labels.tolist() == [[X, 6, 0], [X, 8, X]]
    assert batch.attention_mask is not None
    assert batch.attention_mask.tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch.position_ids.tolist() == [[0, 1, 2], [0, 1, 2]]
    assert batch.segment_lengths is None
    assert (batch.num_tokens, batch.num_real_tokens) == (6, 5)


@pytest.mark.parametrize("padded", [True, False])
def test_all_tensors_are_int64(padded):
    batch = collate([FIRST, SECOND], padded=padded, pad_token_id=0)
    tensors = [batch.input_ids, batch.position_ids, batch.labels, batch.attention_mask]
    assert {t.dtype for t in tensors if t is not None} == {torch.int64}


def test_examples_are_left_unchanged():
    collate([SECOND], padded=True, pad_token_id=0)
    assert SECOND.loss_mask.tolist() == [True, True]
    assert SECOND.input_ids.tolist() == [7, 8]


def test_nothing_to_collate():
    with pytest.raises(ValueError, match="expected at least 1 example"):
        collate([], padded=False, pad_token_id=0)
