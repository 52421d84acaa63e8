"""How the format and the columns of a source are decided, and what a person is told of it."""

import pickle

import pytest
from format_rows import ASSISTANT, GOOD_ROWS, GPT, HUMAN, USER, layout_of, read, rows_of

from tunelab.config import ColumnsConfig, TagsConfig, read_keys
from tunelab.data.formats import decide_layout, known_formats
from tunelab.data.formats.deciding import FOREIGN_FORMATS
from tunelab.errors import ConfigError, DataError

NAMES = ["messages", "sharegpt", "prompt_completion", "alpaca", "text", "segments", "pretokenized", "multiple_choice"]
NAMES += ["preference", "kto"]


def test_known_formats_and_a_good_row_for_each():
    assert set(known_formats()) == set(NAMES) == {name for name, _ in GOOD_ROWS.values()}


@pytest.mark.parametrize("case", GOOD_ROWS)
def test_auto(case):
    name, fields = GOOD_ROWS[case]
    layout = layout_of(fields)
    assert layout.format == name
    assert layout.remark.startswith(f"format {name}, found by auto: the rows have '")
    assert layout.names() >= set(layout.required.values())
    assert pickle.loads(pickle.dumps(layout)) == layout


@pytest.mark.parametrize(
    ("fields", "columns", "expected"),
    [
        ({"q", "a"}, {"prompt": "q", "response": "a"}, "prompt_completion"),
        ({"prompt", "out"}, {"response": "out"}, "prompt_completion"),
        ({"instruction", "answer"}, {"response": "answer"}, "alpaca"),
        ({"q", "context", "a"}, {"prompt": "q", "input": "context", "response": "a"}, "alpaca"),
        ({"q", "input", "a"}, {"prompt": "q", "response": "a"}, "alpaca"),
        ({"body"}, {"text": "body"}, "text"),
        ({"q", "good", "bad"}, {"prompt": "q", "chosen": "good", "rejected": "bad"}, "preference"),
    ],
)
def test_auto_with_columns_of_other_names(fields, columns, expected):
    assert layout_of(dict.fromkeys(fields, "x"), **columns).format == expected


def test_a_column_that_was_set_decides_between_formats():
    fields = {"messages": [USER, ASSISTANT], "prompt": "a", "response": "b"}
    assert layout_of(fields, messages="messages").format == "messages"
    assert layout_of(fields, prompt="prompt").format == "prompt_completion"


def test_tags_that_were_set_decide_for_a_format_of_turns():
    fields = {"messages": [USER, ASSISTANT], "instruction": "a", "output": "b"}
    assert layout_of(fields, tags={"role": "role"}).format == "messages"


def test_one_bad_row_does_not_hide_the_format():
    assert layout_of({"conversations": None}, {"conversations": [HUMAN, GPT]}).format == "sharegpt"
    assert layout_of({"conversations": [GPT]}).format == "sharegpt"


def test_a_format_that_reads_more_is_turned_down_aloud_where_its_values_do_not_fit():
    remark = layout_of({"prompt": "a", "completion": "b", "label": 1}).remark
    assert remark == (
        "format prompt_completion, found by auto: the rows have 'prompt', 'completion' (response); "
        "not kto, for in a.jsonl:7: expected true or false in column 'label', found the number 1."
    )


def test_remarks():
    assert layout_of({"conversations": [HUMAN, GPT]}).remark == (
        "format sharegpt, found by auto: the rows have 'conversations' (messages) with from/value turns."
    )
    assert layout_of({"text": "x"}, format="text").remark == "format text, as set: the rows have 'text'."


def test_an_optional_column_is_read_even_where_the_first_rows_lack_it():
    assert "system" in layout_of({"prompt": "a", "response": "b"}).names()


def test_without_rows_the_format_must_be_named():
    assert decide_layout("alpaca", ColumnsConfig(), TagsConfig(), []).required == {
        "prompt": "instruction",
        "response": "output",
    }
    with pytest.raises(DataError, match=r"^data\.format: expected a row .* set data\.format=<name>\.$"):
        decide_layout("auto", ColumnsConfig(), TagsConfig(), [])


# the audit: what was read


@pytest.mark.parametrize(
    ("fields", "format", "parts", "tags"),
    [
        ({"q": "x", "a": "y"}, "prompt_completion", {"prompt", "response", "system", "tools"}, False),
        ({"instruction": "x", "a": "y"}, "alpaca", {"prompt", "response", "input", "system", "history"}, False),
        ({"conversations": [HUMAN, GPT]}, "auto", {"messages", "system", "tools"}, True),
        ({"text": "x"}, "text", {"text"}, False),
        ({"input_ids": [1]}, "auto", {"input_ids", "labels"}, False),
    ],
)
def test_only_the_keys_that_matter_are_read(fields, format, parts, tags):
    columns, config_tags = ColumnsConfig(prompt="q", response="a", label="never read"), TagsConfig()
    if "a" not in fields:
        columns = ColumnsConfig()
    decide_layout(format, columns, config_tags, rows_of({**fields, "q": "x"} if format == "alpaca" else fields))
    assert read_keys(columns) == parts
    assert bool(read_keys(config_tags)) is tags


def test_tags_are_not_read_where_no_row_holds_turns():
    tags = TagsConfig(role="who")
    decide_layout("preference", ColumnsConfig(), tags, rows_of({"prompt": "a", "chosen": "b", "rejected": "c"}))
    assert read_keys(tags) == set()


@pytest.mark.parametrize("speaker", ["user", "human"])
def test_tags_of_a_pair_follow_the_speakers_of_its_turns(speaker):
    names = {"user": "assistant", "human": "gpt"}
    turn, answer = {"who": speaker, "value": "hi"}, {"who": names[speaker], "value": "hello"}
    example = read({"prompt": [turn], "chosen": answer, "rejected": answer}, tags={"role": "who", "content": "value"})
    assert [message.role.value for message in example.messages] == ["user", "assistant"]


# what cannot be decided


@pytest.mark.parametrize("name", FOREIGN_FORMATS)
def test_names_of_other_tools_point_to_ours(name):
    with pytest.raises(ConfigError, match=rf"^data\.format: .*found '{name}' \(here it is called ") as caught:
        layout_of({"text": "x"}, format=name)
    assert any(known in FOREIGN_FORMATS[name] for known in [*NAMES, "auto"])
    assert str(caught.value).endswith("set data.format=<name>.")


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(ConfigError, match=r"did you mean 'sharegpt'\?"):
        layout_of({"text": "x"}, format="share_gpt")


UNDECIDED = {
    "no known columns": (
        [{"foo": "", "bar": ""}],
        {},
        r"^a\.jsonl:7: expected the columns of a known format \(.*alpaca: instruction, output.*\), "
        r"found columns 'foo', 'bar'; set data\.format=<name> .*data\.columns\.prompt=<column>",
    ),
    "no columns": ([{}], {}, r"found no columns"),
    "two formats": (
        [{"messages": [USER, ASSISTANT], "prompt": "a", "response": "b"}],
        {},
        r"found those of messages \('messages'\) and prompt_completion \('prompt', 'response'\); "
        r"set data\.format=messages or data\.format=prompt_completion\.$",
    ),
    "pair or conversation": (
        [{"prompt": "hi", "messages": [USER, ASSISTANT], "chosen": [USER, ASSISTANT], "rejected": [USER, ASSISTANT]}],
        {},
        r"set data\.format=messages or data\.format=preference\.$",
    ),
    "mixed file": (
        [{"instruction": "a", "output": "b"}, {"messages": [USER, ASSISTANT]}],
        {},
        r"messages .* and alpaca .*as no row has all of these, write each kind to a file of its own .*data\.mix\.$",
    ),
    "two ways of one format": (
        [{"prompt": "x", "conversations": [HUMAN], "chosen": GPT, "rejected": GPT}],
        {"format": "preference"},
        r"set data\.columns\.<part>=<column> for the columns that you mean\.$",
    ),
    "two columns for a part": (
        [{"prompt": "a", "response": "b", "completion": "c"}],
        {},
        r"^a\.jsonl:7: expected one column for the response of format prompt_completion, found 'completion' and "
        r"'response'; set data\.columns\.response=completion or data\.columns\.response=response\.$",
    ),
    "missing column": (
        [{"instruction": "x", "outputs": "y"}],
        {"format": "alpaca"},
        r"expected a column 'output' as format alpaca has it, found columns 'instruction', 'outputs'; "
        r"did you mean 'outputs'\?; set data\.columns\.response=<column> or data\.format=auto\.$",
    ),
    "missing column that was set": (
        [{"prompt": "x", "response": "y"}],
        {"format": "prompt_completion", "system": "sys"},
        r"expected a column 'sys' .* set data\.columns\.system=<column>",
    ),
    "sharegpt that is messages": (
        [{"conversations": [USER, ASSISTANT]}],
        {"format": "sharegpt"},
        r"expected turns with 'from' and 'value' in column 'conversations' as format sharegpt has them, found keys "
        r"'role', 'content'; set data\.format=auto, or data\.tags\.role=<key> data\.tags\.content=<key>\.$",
    ),
    "foreign keys": (
        [{"messages": [{"speaker": "user", "says": "hi"}]}],
        {},
        r"found keys 'speaker', 'says'; set .*data\.tags\.role=<key>",
    ),
}


@pytest.mark.parametrize("case", UNDECIDED)
def test_undecided(case):
    fields, options, message = UNDECIDED[case]
    with pytest.raises(DataError, match=message):
        layout_of(*fields, **options)


def test_speakers_need_names_of_their_own():
    with pytest.raises(ConfigError, match=r"^data\.tags: expected a name of its own for each speaker, found me, me\.$"):
        read({"conversations": [HUMAN, GPT]}, tags={"user": "me", "assistant": "me"})
