"""Whatever a row holds, it becomes an example or a DataError that begins with the row's origin: nothing else."""

import contextlib
import json

from format_rows import GOOD_ROWS, rows_of
from hypothesis import given, settings
from hypothesis import strategies as st

from tunelab.config import ColumnsConfig, TagsConfig, TrainOn
from tunelab.data.formats import decide_layout, known_formats, to_example
from tunelab.data.records import Conversation, Role
from tunelab.errors import DataError

COLUMNS = sorted({name for _, fields in GOOD_ROWS.values() for name in fields} | {"tools", "system", "loss_mask"})
KEYS = ["role", "content", "from", "value", "train", "weight", "tool_calls", "tool_call_id", "name", "label", "text"]
KEYS += ["function", "arguments", "type", "loss"]
WORDS = [
    "user",
    "assistant",
    "system",
    "tool",
    "human",
    "gpt",
    "function_call",
    "observation",
    "hi",
    "",
    "\0",
    "\ud800",
]
WORDS += ['{"name": "f", "arguments": {}}', "[]", "[1"]
LEAVES = st.none() | st.booleans() | st.integers(-101, 5) | st.floats() | st.sampled_from(WORDS) | st.just("text")
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)
TURNS = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(WORDS[:4]), "content": LEAVES},
        optional=dict.fromkeys(KEYS[4:8], VALUES),
    ),
    max_size=5,
)
ROWS = st.dictionaries(st.sampled_from(COLUMNS), VALUES | TURNS, min_size=1, max_size=5)
MUTATED = st.sampled_from(sorted(GOOD_ROWS)).flatmap(
    lambda case: st.builds(
        lambda more: {**GOOD_ROWS[case][1], **more}, st.dictionaries(st.sampled_from(COLUMNS), VALUES)
    )
)


@settings(max_examples=300)
@given(
    fields=ROWS | MUTATED,
    format=st.sampled_from(["auto", *known_formats()]),
    tags=st.sampled_from([{}, {"role": "name"}, {"user": "gpt"}]),
    train_on=st.sampled_from(TrainOn),
)
def test_an_example_or_a_data_error(fields, format, tags, train_on):
    (row,) = rows_of(fields)
    try:
        layout = decide_layout(format, ColumnsConfig(), TagsConfig(**tags), [row])
        example = to_example(row, layout, train_on)
    except DataError as error:
        sentence = str(error)
    else:
        sentence = ""
        _check(example)
    assert not sentence or sentence.startswith("a.jsonl:7: expected ")
    assert "\n" not in sentence
    assert sentence.encode() is not None  # a lone surrogate in it could not be printed


def _check(example):
    assert example.origin == "a.jsonl:7"
    if isinstance(example, Conversation):
        answers = [example.messages, example.rejected] if example.rejected else [example.messages]
        assert all(messages[-1].role is Role.ASSISTANT for messages in answers)
        for message in (*example.messages, *example.rejected):
            json.dumps([message.content, dict(message.extra)], ensure_ascii=False, allow_nan=False).encode()


@given(fields=st.lists(ROWS | MUTATED, max_size=4), train_on=st.sampled_from(TrainOn))
def test_a_layout_of_some_rows_reads_or_refuses_the_others(fields, train_on):
    rows = rows_of(*fields)
    with contextlib.suppress(DataError):
        layout = decide_layout("auto", ColumnsConfig(), TagsConfig(), rows[:2])
        for row in rows:
            with contextlib.suppress(DataError):
                assert to_example(row, layout, train_on).origin == row.origin
