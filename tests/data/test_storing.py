"""Splits on disk read back as they were written."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tunelab.data.records import EncodedExample
from tunelab.data.storing import SplitWriter, StoredEvaluation, StoredExamples


def example(ids: list[int], mask: list[bool], origin: str = "a.jsonl:1") -> EncodedExample:
    return EncodedExample(np.array(ids, dtype=np.int32), np.array(mask, dtype=bool), origin)


def stored(folder: Path, examples: list[EncodedExample], **extra) -> StoredExamples:
    with SplitWriter(folder) as writer:
        for one in examples:
            writer.add(one, {"origin": one.origin, **extra})
    return StoredExamples(folder)


ragged = st.lists(st.lists(st.tuples(st.integers(0, 2**31 - 1), st.booleans()), min_size=1, max_size=9), max_size=6)


@given(ragged)
def test_everything_comes_back(tmp_path_factory, rows):
    written = [example([i for i, _ in row], [m for _, m in row], f"ü\ud800:{n}") for n, row in enumerate(rows)]
    found = stored(tmp_path_factory.mktemp("split") / "train", written)
    assert len(found) == len(written)
    assert found.num_tokens.tolist() == [one.num_tokens for one in written]
    assert found.num_supervised_tokens.tolist() == [one.num_supervised_tokens for one in written]
    for one, back in zip(written, found, strict=True):
        assert back.input_ids.dtype == torch.int64
        assert back.loss_mask.dtype == torch.bool
        assert back.input_ids.tolist() == one.input_ids.tolist()
        assert back.loss_mask.tolist() == one.loss_mask.tolist()
        assert back.origin == one.origin


def test_slices_and_negative_indices(tmp_path):
    found = stored(tmp_path / "train", [example([n], [True], f"a:{n}") for n in range(4)])
    assert [one.origin for one in found[1:3]] == ["a:1", "a:2"]
    assert found[-1].origin == "a:3"
    with pytest.raises(IndexError):
        found[4]


def test_what_evaluation_needs(tmp_path):
    extra = {"prompt": "2+2=\n", "response": "4", "prompt_ids": [7, 8]}
    found = StoredEvaluation(stored(tmp_path / "test", [example([7, 8, 9], [False, False, True])], **extra))
    assert (found[0].prompt, found[0].response, found[0].prompt_ids) == ("2+2=\n", "4", [7, 8])
    assert found[0].tokenized.input_ids.tolist() == [7, 8, 9]
    assert [one.origin for one in found[:1]] == ["a.jsonl:1"]


def test_reading_does_not_change_the_files(tmp_path):
    found = stored(tmp_path / "train", [example([1, 2], [False, True])])
    found[0].input_ids[0] = 5
    found[0].loss_mask[0] = True
    assert found[0].input_ids.tolist() == [1, 2]
    assert found[0].loss_mask.tolist() == [False, True]


def test_a_writer_that_fails_leaves_nothing_that_can_be_read(tmp_path):
    writer = SplitWriter(tmp_path / "train")
    with pytest.raises(AttributeError), writer:
        writer.add("no example", {"origin": "a"})
    with pytest.raises(FileNotFoundError):
        StoredExamples(tmp_path / "train")
