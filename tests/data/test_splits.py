import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunelab.data.records import Row
from tunelab.data.splits import position, split_rows
from tunelab.errors import ConfigError


def rows(count):
    return [Row({"question": f"q{i}", "answer": i}, f"a.jsonl:{i + 1}") for i in range(count)]


def test_adding_rows_moves_no_other_row():
    few, many = split_rows(rows(500), 0.1, 0.1), split_rows(rows(1000), 0.1, 0.1)
    for name in ("train", "validation", "test"):
        assert getattr(many, name)[: len(getattr(few, name))] == getattr(few, name)


def test_fractions_are_met_and_nothing_is_lost():
    splits = split_rows(rows(4000), 0.1, 0.2)
    assert len(splits.train) + len(splits.validation) + len(splits.test) == 4000
    assert 350 <= len(splits.validation) <= 450
    assert 720 <= len(splits.test) <= 880


def test_one_fraction_moves_no_row_of_the_others_split():
    assert split_rows(rows(500), 0.1, 0.1).test == split_rows(rows(500), 0.4, 0.1).test
    assert split_rows(rows(500), 0.1, 0.1).validation == split_rows(rows(500), 0.1, 0.4).validation


def test_nothing_held_out():
    splits = split_rows(rows(50), 0.0, 0.0)
    assert splits.train == rows(50)
    assert not splits.validation
    assert not splits.test


def test_positions_are_pinned():
    """A change here moves rows between the splits of published runs."""
    assert position({"b": 1, "a": "é"}) == position({"a": "é", "b": 1}) == 0.4282028867201326
    assert position({"a": "\ud800"}) < 1  # half a surrogate pair is no reason to fail here


@given(st.dictionaries(st.text(max_size=5), st.none() | st.booleans() | st.integers() | st.text(max_size=20)))
def test_positions_lie_in_the_unit_interval(fields):
    assert 0 <= position(fields) < 1
    assert position(dict(reversed(fields.items()))) == position(fields)


def test_fractions_that_leave_nothing():
    with pytest.raises(ConfigError, match=r"expected a sum below 1, found 0\.5 \+ 0\.5; lower one of them"):
        split_rows(rows(5), 0.5, 0.5)
