import json

import pytest

from tunelab.data.sources import read_rows
from tunelab.errors import DataError


def write(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def read(tmp_path, name, content):
    return [(row.origin, row.fields) for row in read_rows(write(tmp_path, name, content))]


def test_jsonl(tmp_path):
    rows = read(tmp_path, "a.jsonl", '{"a": 1}\n\n{"a": "x\\u2028y"}\r\n{"a": "x\u2028y"}')
    assert rows == [
        ("a.jsonl:1", {"a": 1}),
        ("a.jsonl:3", {"a": "x\u2028y"}),
        ("a.jsonl:4", {"a": "x\u2028y"}),
    ]


def test_json(tmp_path):
    assert read(tmp_path, "a.json", '[{"a": 1}, {"b": 2}]') == [
        ("a.json[0]", {"a": 1}),
        ("a.json[1]", {"b": 2}),
    ]


def test_csv_counts_lines_not_records(tmp_path):
    rows = read(tmp_path, "a.csv", 'q,r\n"two\nlines",x\n\ny,""\n')
    assert rows == [("a.csv:2", {"q": "two\nlines", "r": "x"}), ("a.csv:5", {"q": "y", "r": ""})]


def test_csv_field_longer_than_pythons_limit(tmp_path):
    ((_, fields),) = read(tmp_path, "a.csv", "q\n" + "x" * 200_000)
    assert len(fields["q"]) == 200_000


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.json"])
def test_byte_order_mark_is_no_part_of_the_data(tmp_path, name):
    content = {"a.jsonl": '{"é": "1"}', "a.csv": "é\n1", "a.json": '[{"é": "1"}]'}[name]
    ((_, fields),) = read(tmp_path, name, b"\xef\xbb\xbf" + content.encode())
    assert fields == {"é": "1"}


def test_embedded_data():
    rows = read_rows("embedded:tickets/test.jsonl")
    assert len(rows) == 300
    assert rows[0].origin == "test.jsonl:1"


BAD = {
    "broken line": (
        "a.jsonl",
        '{"a": 1}\n{"a": \n',
        r"a\.jsonl:2: expected JSON, found an error at column \d+: ",
    ),
    "list row": ("a.jsonl", "[1]", r"a\.jsonl:1: expected an object with named fields, found a list\."),
    "null row": ("a.json", "[null]", r"a\.json\[0\]: expected an object with named fields, found null\."),
    "number row": ("a.json", "[1]", r"found a number\."),
    "boolean row": ("a.json", "[true]", r"found true or false\."),
    "string row": ("a.json", '["x"]', r"found a string\."),
    "object": (
        "a.json",
        '{"data": []}',
        r"a\.json: expected a list of objects, found an object; use \[\{…\}",
    ),
    "jsonl in json": (
        "a.json",
        '{"a": 1}\n{"a": 2}',
        r"line 2 column 1: Extra data; one object a line belongs in",
    ),
    "no rows": ("a.json", "[]", r"a\.json: expected at least one row, found an empty file; set data\.path="),
    "empty": ("a.jsonl", "", r"expected at least one row"),
    "empty json": ("a.json", " \n", r"expected at least one row"),
    "blank lines": ("a.jsonl", "\n \n", r"expected at least one row"),
    "header alone": ("a.csv", "a,b\n", r"expected at least one row"),
    "latin-1": (
        "a.jsonl",
        b'{"a": 1}\n{"a": "\xe9t\xe9"}',
        r"a\.jsonl:2: expected UTF-8, found .*; save the file",
    ),
    "suffix": ("a.txt", "x", r"data\.path: expected a file ending in one of \.json, \.jsonl, \.csv, found '"),
    "short record": ("a.csv", "a,b\n1,2\n3\n", r"a\.csv:3: expected 2 fields as in the header, found 1\."),
    "repeated column": (
        "a.csv",
        "a,a\n1,2\n",
        r"a\.csv:1: expected distinct column names, found 'a' twice\.",
    ),
    "open quote": (
        "a.csv",
        'a\nx\n"y\n',
        r"a\.csv:3: expected CSV, found an error: unexpected end of data\.",
    ),
    "deep": ("a.jsonl", "[" * 200_000, r"a\.jsonl:1: expected JSON of moderate depth"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files(tmp_path, case):
    name, content, message = BAD[case]
    with pytest.raises(DataError, match=message):
        read_rows(write(tmp_path, name, content))


def test_missing_file_names_the_nearest(tmp_path):
    write(tmp_path, "train.jsonl", "{}")
    with pytest.raises(DataError, match=r"data\.test_path: no file '.*trian\.jsonl' .*did you mean 'train\.jsonl'\?"):
        read_rows(str(tmp_path / "trian.jsonl"), "data.test_path")
    with pytest.raises(DataError, match=r"there is no folder '.*nowhere'; set data\.path=<file>\."):
        read_rows(str(tmp_path / "nowhere" / "a.jsonl"))


def test_folder(tmp_path):
    with pytest.raises(DataError, match=r"data\.path: expected a file, found the folder"):
        read_rows(str(tmp_path))


def test_large_integers_and_escapes_survive(tmp_path):
    record = {"a": 2**70, "b": 'quote " and \\ and \x00'}
    assert read(tmp_path, "a.jsonl", json.dumps(record))[0][1] == record
