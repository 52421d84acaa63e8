"""Checkpoints: what goes in comes out, and nothing that is damaged is believed."""

import errno
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from tunelab.errors import CheckpointError
from tunelab.training import checkpoint
from tunelab.training.checkpoint import (
    BEST,
    LAST,
    PREVIOUS,
    ResumePoint,
    SafetensorsCheckpointIO,
    keep_previous,
    newest_checkpoint,
    read_checkpoint,
    write_checkpoint,
)

SMALL: dict[str, Any] = {
    "state_dict": {"weight": torch.arange(6.0)}, "global_step": 7, "loops": {"a": (1, [2.5, None])}
}  # fmt: skip


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def same(first: Any, second: Any) -> bool:
    """Equal in value, type and, for tensors, in every bit."""
    if type(first) is not type(second):
        return False
    if isinstance(first, torch.Tensor):
        bits = [t.contiguous().reshape(-1).view(torch.uint8) for t in (first, second)]
        return first.dtype == second.dtype and first.shape == second.shape and torch.equal(*bits)
    if isinstance(first, dict):
        return same(list(first), list(second)) and all(same(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second or (isinstance(first, float) and math.isnan(first) and math.isnan(second))


@st.composite
def tensors(draw) -> torch.Tensor:
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool]))
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 99)))) * 9
    tensor = tensor.to(dtype) if dtype is not torch.uint8 else tensor.abs().to(dtype)
    return tensor.transpose(0, -1) if tensor.dim() > 1 else tensor  # not contiguous


KEYS = st.one_of(
    st.text(alphabet="abc_.", max_size=4),
    st.integers(-2, 9),
    st.booleans(),
    st.tuples(st.integers(), st.text(max_size=2)),
)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5))
PLAIN = st.recursive(
    st.one_of(SCALARS, tensors()),
    lambda inside: st.one_of(
        st.lists(inside, max_size=3), st.lists(inside, max_size=3).map(tuple), st.dictionaries(KEYS, inside, max_size=3)
    ),
    max_leaves=8,
)


HEALTH = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@settings(max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=HEALTH)
@given(value=PLAIN)
def test_what_goes_in_comes_out(value: Any, tmp_path: Path):
    # One tensor a name: values whose names would clash have their own test below.
    content = {"content": value}
    write_checkpoint(content, tmp_path / LAST)
    assert same(read_checkpoint(tmp_path / LAST), content)


@pytest.mark.parametrize(
    "value",
    [
        {0: torch.zeros(1), 1: (torch.ones(2), [torch.tensor(3)])},
        {"exp_avg": torch.tensor(1.0, dtype=torch.bfloat16), "step": torch.tensor(5.0)},
        {(1, "a"): torch.zeros(2, 0)},
        [],
        (),
        {"__tensor__": "weight", "__dict__": [1], "__tuple__": ()},
        [float("inf"), -0.0, 1e-310, 2**70, "é\ud800"],
    ],
)
def test_shapes_that_optimizers_and_loops_have(value: Any, tmp_path: Path):
    write_checkpoint({"value": value}, tmp_path / LAST)
    assert same(read_checkpoint(tmp_path / LAST)["value"], value)


@pytest.mark.parametrize(
    "value", [{0: torch.zeros(1), "0": torch.ones(1)}, {"a/b": torch.zeros(1), "a": {"b": torch.ones(1)}}]
)
def test_keys_that_read_alike_are_kept_apart(value: Any, tmp_path: Path):
    write_checkpoint(value, tmp_path / LAST)
    assert same(read_checkpoint(tmp_path / LAST), value)


@pytest.mark.parametrize("value", [{1, 2}, object(), b"bytes", Path("a"), torch.float32, 1j])
def test_what_is_no_plain_data_is_refused(value: Any, tmp_path: Path):
    write_checkpoint(SMALL, tmp_path / LAST)
    with pytest.raises(
        CheckpointError, match=f"holds plain data only, found {type(value).__name__} at 'checkpoint/a/0'"
    ):
        write_checkpoint({"a": [value]}, tmp_path / LAST)
    assert same(read_checkpoint(tmp_path / LAST), SMALL)


def test_tensors_that_share_memory_are_written_apart(tmp_path: Path):
    whole = torch.arange(6.0)
    write_checkpoint({"a": whole, "b": whole[2:4], "c": whole.view(2, 3).t()}, tmp_path / LAST)
    read = read_checkpoint(tmp_path / LAST)
    assert read["b"].tolist() == [2.0, 3.0]
    assert torch.equal(read["c"], whole.view(2, 3).t())


# --- damage ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def content(tmp_path: Path) -> bytes:
    write_checkpoint(SMALL, tmp_path / LAST)
    return (tmp_path / LAST).read_bytes()


def test_a_file_cut_anywhere_is_refused(content: bytes, tmp_path: Path):
    for size in range(len(content)):
        (tmp_path / LAST).write_bytes(content[:size])
        with pytest.raises(CheckpointError):
            read_checkpoint(tmp_path / LAST)


def flips(content: bytes, places: range) -> list[tuple[int, int]]:
    return [(place, 1 << (place % 8)) for place in places]


def accepted_though_different(content: bytes, places: list[tuple[int, int]], path: Path) -> list[tuple[int, str]]:
    """Places where a flipped bit was neither refused nor without effect."""
    odd: list[tuple[int, str]] = []
    for place, bit in places:
        damaged = bytearray(content)
        damaged[place] ^= bit
        path.write_bytes(damaged)
        try:
            if not same(read_checkpoint(path), SMALL):
                odd.append((place, "believed"))
        except CheckpointError:
            continue
        except Exception as error:
            odd.append((place, type(error).__name__))
    return odd


def test_a_flipped_bit_of_the_tensors_is_noticed(content: bytes, tmp_path: Path):
    start = 8 + int.from_bytes(content[:8], "little")
    places = flips(content, range(start, len(content)))
    assert len(places) == 24
    assert accepted_though_different(content, places, tmp_path / LAST) == []


def test_a_flipped_bit_of_the_header_is_noticed(content: bytes, tmp_path: Path):
    start = 8 + int.from_bytes(content[:8], "little")
    assert accepted_though_different(content, flips(content, range(start)), tmp_path / LAST) == []


def test_a_flipped_bit_is_never_believed(content: bytes, tmp_path: Path):
    found = accepted_though_different(content, flips(content, range(len(content))), tmp_path / LAST)
    assert "believed" not in {kind for _, kind in found}


def test_another_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checkpoint, "FORMAT_VERSION", 1)
    write_checkpoint(SMALL, tmp_path / LAST)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="expected checkpoint format 2, found 1"):
        read_checkpoint(tmp_path / LAST)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_a_foreign_safetensors_file_is_refused(metadata, tmp_path: Path):
    save_file({"a": torch.zeros(2)}, tmp_path / LAST, metadata)
    with pytest.raises(CheckpointError, match=r"expected a checkpoint of tunelab|expected checkpoint format 2"):
        read_checkpoint(tmp_path / LAST)


def test_a_pickled_checkpoint_is_not_unpickled(tmp_path: Path):
    torch.save(SMALL, tmp_path / LAST)
    with pytest.raises(CheckpointError, match="no readable checkpoint"):
        read_checkpoint(tmp_path / LAST)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"last\.ckpt: no readable checkpoint"):
        read_checkpoint(tmp_path / LAST)


# --- which one to resume from ----------------------------------------------------------------------------------------


def save_step(folder: Path, step: int) -> None:
    keep_previous(folder)
    write_checkpoint({"global_step": step}, folder / LAST)


def test_the_last_is_the_newest_and_the_one_before_is_kept(tmp_path: Path):
    for step in (1, 2, 3):
        save_step(tmp_path, step)
    assert newest_checkpoint(tmp_path) == ResumePoint(tmp_path / LAST, 3, [])
    assert [read_checkpoint(tmp_path / name)["global_step"] for name in (LAST, PREVIOUS)] == [3, 2]
    assert names(tmp_path) == [LAST, PREVIOUS]


def test_without_hard_links_the_previous_one_is_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: Any) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(checkpoint.os, "link", refuse)
    for step in (1, 2):
        save_step(tmp_path, step)
    assert [read_checkpoint(tmp_path / name)["global_step"] for name in (LAST, PREVIOUS)] == [2, 1]
    assert names(tmp_path) == [LAST, PREVIOUS]


def test_keeping_the_same_file_twice_leaves_nothing_behind(tmp_path: Path):
    save_step(tmp_path, 1)
    keep_previous(tmp_path)
    keep_previous(tmp_path)
    assert names(tmp_path) == [LAST, PREVIOUS]


@pytest.mark.parametrize("damage", [None, b"half"])
def test_lost_best_weights_are_noticed_before_training(damage: bytes | None, tmp_path: Path):
    content = {"global_step": 4, "callbacks": {"RunCheckpoint": {"best": {"val/loss": 1.0}, "best_step": 2}}}
    for name in (LAST, BEST):
        write_checkpoint(content, tmp_path / name)
    assert newest_checkpoint(tmp_path).step == 4
    (tmp_path / BEST).unlink()
    if damage:
        (tmp_path / BEST).write_bytes(damage)
    with pytest.raises(CheckpointError, match=r"best\.ckpt: .*best weights so far, of step 2: put the file back"):
        newest_checkpoint(tmp_path)


def test_a_sound_best_is_gone_on_from_where_no_other_can_be_read(tmp_path: Path):
    write_checkpoint({"global_step": 2}, tmp_path / BEST)
    for name in (LAST, PREVIOUS):
        (tmp_path / name).write_bytes(b"half")
    point = newest_checkpoint(tmp_path)
    assert (point.path, point.step, len(point.problems)) == (tmp_path / BEST, 2, 2)


def test_a_damaged_last_is_passed_over_and_named(tmp_path: Path):
    for step in (1, 2):
        save_step(tmp_path, step)
    damaged = bytearray((tmp_path / LAST).read_bytes())
    (tmp_path / LAST).unlink()  # a new file: the old one may have a second name
    (tmp_path / LAST).write_bytes(damaged[:-9])
    point = newest_checkpoint(tmp_path)
    path, [problem] = point.path, point.problems
    assert read_checkpoint(path)["global_step"] == 1
    assert problem.startswith(str(tmp_path / LAST))


def test_a_kill_between_keeping_and_writing_leaves_a_last(tmp_path: Path):
    save_step(tmp_path, 1)
    keep_previous(tmp_path)
    assert newest_checkpoint(tmp_path).path == tmp_path / LAST


def test_no_checkpoint_at_all(tmp_path: Path):
    keep_previous(tmp_path)
    assert names(tmp_path) == []
    with pytest.raises(CheckpointError, match=r"expected a checkpoint to resume from.*start the run again"):
        newest_checkpoint(tmp_path)


def test_lightning_reads_and_writes_through_it(tmp_path: Path):
    io = SafetensorsCheckpointIO()
    io.save_checkpoint(SMALL, tmp_path / "folder" / LAST)
    assert same(io.load_checkpoint(tmp_path / "folder" / LAST, weights_only=False), SMALL)
    io.remove_checkpoint(tmp_path / "folder" / LAST)
    io.remove_checkpoint(tmp_path / "folder" / LAST)
    assert names(tmp_path / "folder") == []
