"""Which split a row belongs to."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunelab.config import DataConfig
from tunelab.data.records import Row
from tunelab.data.splits import Divider, position
from tunelab.errors import ConfigError, DataError


def rows(count: int) -> list[Row]:
    return [Row({"question": f"q{i}", "answer": i, "topic": i // 10}, f"a.jsonl:{i + 1}") for i in range(count)]


def splits(count: int, *fractions: float, group_by: str | None = None) -> dict[str, str]:
    divider = Divider(*fractions, group_by)
    return {row.origin: divider.split(row) for row in rows(count)}


def members(found: dict[str, str], split: str) -> set[str]:
    return {origin for origin, name in found.items() if name == split}


def test_adding_rows_moves_no_other_row():
    few, many = splits(500, 0.1, 0.1), splits(1000, 0.1, 0.1)
    assert {origin: many[origin] for origin in few} == few


def test_fractions_are_met_and_nothing_is_lost():
    counts = Counter(splits(4000, 0.1, 0.2).values())
    assert sum(counts.values()) == 4000
    assert 350 <= counts["validation"] <= 450
    assert 720 <= counts["test"] <= 880


def test_one_fraction_moves_no_row_of_the_others_split():
    base = splits(500, 0.1, 0.1)
    assert members(splits(500, 0.4, 0.1), "test") == members(base, "test")
    assert members(splits(500, 0.1, 0.4), "validation") == members(base, "validation")


def test_nothing_held_out():
    assert set(splits(50, 0.0, 0.0).values()) == {"train"}


def test_a_group_stays_together():
    found = splits(3000, 0.2, 0.2, group_by="topic")
    by_topic = {row.origin: row.fields["topic"] for row in rows(3000)}
    assert len({(by_topic[origin], split) for origin, split in found.items()}) == 300
    assert set(found.values()) == {"train", "validation", "test"}


def test_a_row_without_the_group_column():
    with pytest.raises(DataError, match=r"a\.jsonl:1: expected a column 'user'.*'question'.*data\.group_by"):
        splits(1, 0.1, 0.1, group_by="user")


def test_given_files_take_nothing_out_of_the_training_file():
    divider = Divider.create(DataConfig(path="a", validation_path="b", test_path="c", validation_fraction=0.9))
    assert (divider.validation_fraction, divider.test_fraction, divider.group_by) == (0.0, 0.0, None)


def test_positions_are_pinned():
    """A change here moves rows between the splits of published runs."""
    assert position({"b": 1, "a": "é"}) == position({"a": "é", "b": 1}) == 0.4282028867201326
    assert position({"a": "\ud800"}) < 1  # half a surrogate pair is no reason to fail here


@given(st.dictionaries(st.text(max_size=5), st.none() | st.booleans() | st.integers() | st.text(max_size=20)))
def test_positions_lie_in_the_unit_interval(fields):
    assert 0 <= position(fields) < 1
    assert position(dict(reversed(fields.items()))) == position(fields)
    assert position(fields, salt="weight") != position(fields)


def test_fractions_that_leave_nothing():
    config = DataConfig(path="a", validation_fraction=0.5, test_fraction=0.5)
    with pytest.raises(ConfigError, match=r"expected a sum below 1, found 0\.5 \+ 0\.5; lower one of them"):
        Divider.create(config)
