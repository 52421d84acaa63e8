import json

import pytest
from data.writing import lines, write

from tunelab.config import ColumnsConfig, DataConfig, TagsConfig
from tunelab.data.formats import decide_layout
from tunelab.data.sources import training_sources
from tunelab.data.sources.dataset_info import read_entry
from tunelab.data.sources.hub import HubName
from tunelab.errors import ConfigError, DataError

OPENAI_TAGS = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}


def entry_of(tmp_path, **keys):
    file = write(tmp_path, "dataset_info.json", json.dumps({"other": {"file_name": "x"}, "mine": keys}))
    return read_entry(str(file), "mine")


FORMATS = {
    "alpaca": ({}, "alpaca", {}),
    "query": (
        {"columns": {"prompt": "p", "query": "q", "response": "r", "system": "s", "history": "h"}},
        "alpaca",
        {"prompt": "p", "input": "q", "response": "r", "system": "s", "history": "h"},
    ),
    "no query": (
        {"columns": {"prompt": "input", "response": "target"}},
        "prompt_completion",
        {"prompt": "input", "response": "target"},
    ),
    "documents": ({"columns": {"prompt": "content"}}, "text", {"text": "content"}),
    "sharegpt": (
        {"formatting": "sharegpt", "columns": {"messages": "m", "tools": "t"}},
        "sharegpt",
        {"messages": "m", "tools": "t"},
    ),
    "openai": ({"formatting": "openai", "columns": {"messages": "m"}}, "messages", {"messages": "m"}),
    "pairs": (
        {"ranking": True, "columns": {"prompt": "q", "chosen": "c", "rejected": "r"}},
        "preference",
        {"prompt": "q", "chosen": "c", "rejected": "r"},
    ),
    "sharegpt pairs": (
        {"ranking": True, "formatting": "sharegpt", "columns": {"messages": "m", "chosen": "c", "rejected": "r"}},
        "preference",
        {"messages": "m", "chosen": "c", "rejected": "r"},
    ),
    "kto": (
        {"columns": {"prompt": "p", "response": "c", "kto_tag": "label"}},
        "kto",
        {"prompt": "p", "response": "c", "label": "label"},
    ),
    "sharegpt kto": (
        {"formatting": "sharegpt", "columns": {"messages": "completion", "kto_tag": "k"}},
        "kto",
        {"messages": "completion", "label": "k"},
    ),
    "nulls": (
        {
            "formatting": None,
            "ranking": None,
            "columns": {"prompt": "p", "response": "r", "query": None, "images": None},
        },
        "prompt_completion",
        {"prompt": "p", "response": "r"},
    ),
}


@pytest.mark.parametrize("case", FORMATS)
def test_formats(tmp_path, case):
    keys, format_, columns = FORMATS[case]
    entry = entry_of(tmp_path, file_name="a.json", **keys)
    assert (entry.format, entry.columns, entry.tags) == (format_, ColumnsConfig(**columns), TagsConfig())
    assert (entry.path, entry.hub, entry.max_rows) == (str(tmp_path / "a.json"), None, None)


def test_tags(tmp_path):
    tags = {**OPENAI_TAGS, "system_tag": "s", "function_tag": "f", "observation_tag": "o"}
    entry = entry_of(tmp_path, file_name="a.json", formatting="sharegpt", tags=tags)
    assert entry.tags == TagsConfig(
        role="role", content="content", user="user", assistant="assistant", system="s", tool_call="f", tool="o"
    )


def test_hub_entries(tmp_path):
    entry = entry_of(
        tmp_path,
        hf_hub_url="org/data",
        ms_hub_url="org/elsewhere",
        script_url="x",
        subset="en",
        split="train_sft",
        folder="data",
        revision="v1",
        num_samples=10,
    )
    assert entry.hub == HubName("org/data", "en", "train_sft", "v1", "data")
    assert entry.max_rows == 10


def test_the_folder_of_the_file_and_absolute_names(tmp_path):
    write(tmp_path, "dataset_info.json", json.dumps({"mine": {"file_name": "/data/x.json", "file_sha1": "00"}}))
    assert read_entry(str(tmp_path), "mine").path == "/data/x.json"


ROWS = {
    "instruct": ({"instruction": "i", "input": "", "output": "o"}, {}, "alpaca"),
    "masked input": (
        {"input": "question", "target": "answer"},
        {"columns": {"prompt": "input", "response": "target"}},
        "prompt_completion",
    ),
    "chat": (
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        {"formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": OPENAI_TAGS},
        "sharegpt",
    ),
    "pairs": (
        {
            "conversations": [{"from": "human", "value": "a"}],
            "chosen": {"from": "gpt", "value": "b"},
            "rejected": {"from": "gpt", "value": "c"},
        },
        {
            "ranking": True,
            "formatting": "sharegpt",
            "columns": {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"},
        },
        "preference",
    ),
    "documents": ({"content": "words"}, {"columns": {"prompt": "content"}}, "text"),
}


@pytest.mark.parametrize("case", ROWS)
def test_entries_lead_to_layouts(tmp_path, case):
    row, keys, format_ = ROWS[case]
    write(tmp_path, "sub/rows.jsonl", lines([row]))
    info = write(tmp_path, "dataset_info.json", json.dumps({"mine": {"file_name": "sub/rows.jsonl", **keys}}))
    (source,) = training_sources(DataConfig(info=str(info), name="mine"))
    layout = decide_layout(source.format, source.columns, source.tags, list(source.rows()))
    assert layout.format == format_


BAD_ENTRIES = {
    "nowhere": ({}, "file_name or hf_hub_url, found neither; add one"),
    "ModelScope": (
        {"ms_hub_url": "a/b"},
        r"found ms_hub_url \(ModelScope\); save the rows as a file and set data\.path=",
    ),
    "Modelers": ({"om_hub_url": "a/b"}, "found om_hub_url .*; save the rows"),
    "a script": ({"script_url": "x", "file_name": "a.json"}, "found script_url .*run code.*; save the rows"),
    "a cloud": ({"cloud_file_name": "s3://x"}, "found cloud_file_name .*; save the rows"),
    "pictures": ({"file_name": "a.json", "columns": {"images": "i"}}, "a column for images; take another entry"),
    "videos": ({"hf_hub_url": "a/b", "columns": {"videos": "v"}}, "a column for videos; take another entry"),
    "an unknown key": (
        {"file_name": "a.json", "colums": {}},
        "found 'colums'; did you mean 'columns'.; mend the entry",
    ),
    "an unknown column": (
        {"file_name": "a.json", "columns": {"promt": "p"}},
        "found 'promt'; did you mean 'prompt'.; mend the entry",
    ),
    "a column of another formatting": (
        {"file_name": "a.json", "formatting": "sharegpt", "columns": {"prompt": "p"}},
        "columns to name .*found 'prompt'; mend the entry",
    ),
    "an unknown tag": (
        {"file_name": "a.json", "formatting": "sharegpt", "tags": {"roletag": "r"}},
        "found 'roletag'; did you mean 'role_tag'.; mend",
    ),
    "a column that is no text": ({"file_name": "a.json", "columns": {"prompt": 1}}, "found prompt=1; mend the entry"),
    "an unknown formatting": (
        {"file_name": "a.json", "formatting": "alpacca"},
        "found 'alpacca'; did you mean 'alpaca'",
    ),
    "ranking as text": ({"file_name": "a.json", "ranking": "yes"}, "ranking to be true or false, found 'yes'; mend"),
    "columns as a list": ({"file_name": "a.json", "columns": []}, r"columns to be an object, found \[\]; mend"),
    "samples as text": (
        {"file_name": "a.json", "num_samples": "9"},
        "num_samples to be a number of rows, found '9'; mend",
    ),
    "samples as true": ({"file_name": "a.json", "num_samples": True}, "num_samples to be a number of rows, found True"),
    "no samples": ({"file_name": "a.json", "num_samples": 0}, "at least 1 row, found 0; mend the entry"),
    "a split of a file": (
        {"file_name": "a.json", "split": "test"},
        "split train of a file, found 'test'; name the file",
    ),
}


@pytest.mark.parametrize("case", BAD_ENTRIES)
def test_bad_entries(tmp_path, case):
    keys, message = BAD_ENTRIES[case]
    with pytest.raises(ConfigError, match=rf"^data\.name=mine: expected .*{message}"):
        entry_of(tmp_path, **keys)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "expected JSON in UTF-8, found an error"),
        (b'{"a": "\xe9"}', "expected JSON in UTF-8, found an error"),
        ("[]", "expected an object with an entry for each data set"),
        ("{}", "expected an object with an entry for each data set"),
    ],
)
def test_bad_files(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        read_entry(str(write(tmp_path, "dataset_info.json", content)), "mine")


def test_missing_file_and_entry(tmp_path):
    with pytest.raises(DataError, match=r"data\.info: '.*dataset_info\.json' cannot be read .*; set data\.info="):
        read_entry(str(tmp_path), "mine")
    file = str(write(tmp_path, "dataset_info.json", json.dumps({"alpaca_en": {}, "n": 1})))
    with pytest.raises(
        ConfigError, match=r"data\.name: .*found 'alpaca_eng'; did you mean 'alpaca_en'\?; set data\.name="
    ):
        read_entry(file, "alpaca_eng")
    for name in (None, "n"):
        with pytest.raises(ConfigError, match=rf"data\.name: .*\(alpaca_en, n\), found {name!r}"):
            read_entry(file, name)
