"""Every kind of bad file gives one sentence: which file, which line or row, what was found, and what to do."""

import gzip
import json
import os
import re

import datasets
import pyarrow as pa
import pytest
from data.writing import compressed, lines, write, write_arrow, write_parquet

from tunelab.config import DataConfig
from tunelab.data.records import BadRow, Row
from tunelab.data.sources import json_records, streams, training_sources
from tunelab.errors import DataError

GOOD = b'{"a": 1}\n'
ROWS = lines([{"a": index, "b": "text"} for index in range(2000)]).encode()
MEND = "; mend the line"

# case → (name, bytes, where, what was found, the remedy): one row is bad, and the good rows around it are read
BAD_ROWS = {
    "broken JSON": (
        "a.jsonl",
        GOOD + b'{"a": \n' + GOOD,
        "a.jsonl:2",
        r"an error at column 6 \(Expecting value\)",
        MEND,
    ),
    "two objects on a line": ("a.jsonl", GOOD + b'{"a": 1} {"a": 2}\n', "a.jsonl:2", "column 9 .Extra data", MEND),
    "cut-off line": ("a.jsonl", GOOD + b'{"a": "tex', "a.jsonl:2", "column 7 .Unterminated string", MEND),
    "single quotes": ("a.jsonl", GOOD + b"{'a': 1}", "a.jsonl:2", "column 2 .Expecting property name", MEND),
    "trailing comma": (
        "a.jsonl",
        GOOD + b'{"a": 1,}',
        "a.jsonl:2",
        "column 8 .Illegal trailing comma|Expecting prop",
        MEND,
    ),
    "bare control character": ("a.jsonl", GOOD + b'{"a": "x\ty"}', "a.jsonl:2", "Invalid control character", MEND),
    "bad escape": ("a.jsonl", GOOD + b'{"a": "\\x41"}', "a.jsonl:2", r"Invalid \\escape", MEND),
    "plain text": ("a.jsonl", GOOD + b"hello\n", "a.jsonl:2", r"column 1 \(Expecting value\)", MEND),
    "a list": ("a.jsonl", GOOD + b"[1, 2]\n", "a.jsonl:2", "a list", "write {…}"),
    "a string": ("a.jsonl", b'"text"\n' + GOOD, "a.jsonl:1", "a string", "write {…}"),
    "a number": ("a.jsonl", b"17\n" + GOOD, "a.jsonl:1", "a number", "write {…}"),
    "true": ("a.jsonl", b"true\n" + GOOD, "a.jsonl:1", "true or false", "write {…}"),
    "null": ("a.jsonl", b"null\n" + GOOD, "a.jsonl:1", "null", "write {…}"),
    "a key twice": ("a.jsonl", b'{"a": 1, "b": 2, "a": 3}\n' + GOOD, "a.jsonl:1", "'a' twice", "keep one of them"),
    "a key twice, deep": ("a.jsonl", b'{"m": [{"r": 1, "r": 1}]}\n' + GOOD, "a.jsonl:1", "'r' twice", "keep one"),
    "NaN": ("a.jsonl", GOOD + b'{"a": NaN}\n', "a.jsonl:2", "NaN, which JSON does not have", "write null or a string"),
    "Infinity": ("a.jsonl", GOOD + b'{"a": [-Infinity]}\n', "a.jsonl:2", "-Infinity, which", "write null or a string"),
    "a number of 5000 digits": ("a.jsonl", GOOD + b"1" * 5000, "a.jsonl:2", "out of range", r"\."),
    "brackets": ("a.jsonl", GOOD + b'{"a":' * 200_000, "a.jsonl:2", "too many nested brackets", MEND),
    "Latin-1": ("a.jsonl", GOOD + b'{"a": "\xe9t\xe9"}', "a.jsonl:2", "byte 0xe9", "; save the file as UTF-8"),
    "UTF-8 cut within a character": ("a.jsonl", GOOD + b'{"a": "\xc3"}', "a.jsonl:2", "byte 0xc3", "; save the file"),
    "an encoded surrogate": ("a.jsonl", GOOD + b'{"a": "\xed\xa0\xbd"}', "a.jsonl:2", "byte 0xed", "; save the file"),
    "NUL bytes": ("a.jsonl", GOOD + b"\0" * 50 + b"\n" + GOOD, "a.jsonl:2", "NUL bytes", "; copy it again"),
    "in gzip": ("a.jsonl.gz", GOOD + b"{\n" + GOOD, "a.jsonl.gz:2", "an error at column 2", MEND),
    "in zstd": ("a.jsonl.zst", GOOD + b"{\n" + GOOD, "a.jsonl.zst:2", "an error at column 2", MEND),
    "an element that is a number": ("a.json", b'[{"a": 1}, 2]', r"a.json\[1\]", "a number", "write {…}"),
    "an element with a key twice": ("a.json", b'[{"a": 1}, {"a": 1, "a": 2}]', r"a.json\[1\]", "'a' twice", "keep one"),
    "an element with Latin-1": ("a.json", b'[{"a": 1}, {"a": "\xe9"}]', r"a.json\[1\]", "byte 0xe9", "; save the file"),
    "too few fields": (
        "a.csv",
        b"a,b\n1,2\n3\n",
        "a.csv:3",
        "expected 2 fields .*found 1",
        "quote fields that hold commas",
    ),
    "too many fields": (
        "a.csv",
        b"a,b\n1,2,3\n1,2",
        "a.csv:2",
        "expected 2 fields .*found 3",
        "quote fields that hold",
    ),
    "text after a quote": ("a.csv", b'a,b\n"1"x,2\n1,2', "a.csv:2", r"an error \(.*expected after", "quote the field"),
    "NUL in CSV": ("a.csv", b"a,b\n1,\0\n1,2", "a.csv:2", "NUL characters", "copy it again"),
    "Latin-1 in CSV": ("a.csv", b'a,b\n1,2\n"x\n\xe9",2\n1,2', "a.csv:3", "byte 0xe9", "save the file as UTF-8"),
    "too few fields in TSV": (
        "a.tsv",
        b"a\tb\n1\t2\n3\n",
        "a.tsv:3",
        "expected 2 fields",
        "quote fields that hold tabs",
    ),
    "Latin-1 in text": ("d/a.txt", b"caf\xe9", "a.txt", "byte 0xe9", "save the file as UTF-8"),
    "NUL in text": ("d/a.txt", b"text\0", "a.txt", "NUL characters", "copy it again"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_bad_row_is_named_and_reading_goes_on(tmp_path, case):
    name, content, where, found, remedy = BAD_ROWS[case]
    path = write(tmp_path, name, content)
    if name.endswith(".txt"):
        write(tmp_path, "d/good.txt", "good")
        path = path.parent
    rows = read_all(str(path))
    (bad,) = [row for row in rows if isinstance(row, BadRow)]
    assert re.search(rf"^{where}: .*({found}).*{remedy}", bad.reason), bad.reason
    assert bad.reason.startswith(f"{bad.origin}: expected ")
    assert bad.reason.endswith(".")
    assert "\n" not in bad.reason
    assert any(isinstance(row, Row) for row in rows)


def cut(name, content, share=0.5):
    whole = compressed(name, content)
    return whole[: int(len(whole) * share)]


BAD_FILES = {
    # nothing in it
    "empty .jsonl": ("a.jsonl", b"", r"^a\.jsonl: .*an empty file; set data\.path=<file with rows>"),
    "empty .json": ("a.json", b"", r"^a\.json: .*an empty file; set data\.path="),
    "empty .csv": ("a.csv", b"", r"^a\.csv: .*an empty file; set"),
    "empty .txt": ("a.txt", b"", r"^a\.txt: .*an empty file; set"),
    "empty .parquet": ("a.parquet", b"", r"^a\.parquet: .*an empty file; set"),
    "empty .arrow": ("a.arrow", b"", r"^a\.arrow: .*an empty file; set"),
    "empty .gz": ("a.jsonl.gz", gzip.compress(b""), r"^a\.jsonl\.gz: .*an empty file; set"),
    "a byte-order mark alone": ("a.jsonl", b"\xef\xbb\xbf", r"^a\.jsonl: .*an empty file; set"),
    "blank lines": ("a.jsonl", b"\n \n\t\r\n", r"^a\.jsonl: .*an empty file; set"),
    "blank lines in .json": ("a.json", b" \n\n", r"^a\.json: .*an empty file; set"),
    "blank lines in .csv": ("a.csv", b"\n\r\n", r"^a\.csv: .*an empty file; set"),
    "blank text": ("a.txt", b"\n \n", r"^a\.txt: .*an empty file; set"),
    "a list of nothing": ("a.json", b"[ ]", r"^data\.path: expected at least one row in '.*a\.json', found none; set"),
    "a header alone": ("a.csv", b"a,b\n", r"^data\.path: expected at least one row in '.*a\.csv', found none; set"),
    "bad rows alone": ("a.jsonl", b"{]\n1\n", r"at least one row .* bad rows only, the first: a\.jsonl:1: .*; set"),
    # cut off or damaged
    "gzip cut off": (
        "a.jsonl.gz",
        cut("a.gz", ROWS),
        r"^a\.jsonl\.gz: .*cut off or damaged .*; mend or copy it again, or",
    ),
    "gzip cut by its last bytes": ("a.jsonl.gz", cut("a.gz", ROWS, 0.999), r"^a\.jsonl\.gz: .*cut off .*copy it again"),
    "gzip damaged": (
        "a.jsonl.gz",
        compressed("a.gz", ROWS)[:-6] + b"xxxxxx",
        r"^a\.jsonl\.gz: .*cut off or damaged .*copy it again",
    ),
    "gzip with bytes after it": (
        "a.csv.gz",
        compressed("a.gz", b"a\n1\n") + b"more",
        r"^a\.csv\.gz: .*damaged .*copy it",
    ),
    "no gzip": ("a.jsonl.gz", GOOD, r"^a\.jsonl\.gz: .*damaged \(Not a gzipped file.*; mend or copy"),
    "zstd cut off": ("a.jsonl.zst", cut("a.zst", ROWS), r"^a\.jsonl\.zst: .*cut off or damaged \(Truncated.*copy it"),
    "no zstd": ("a.jsonl.zst", GOOD, r"^a\.jsonl\.zst: .*damaged .*; mend or copy it again"),
    "no Parquet": (
        "a.parquet",
        b"hello" * 9,
        r"^a\.parquet: expected a Parquet file, found .*; write or copy it again",
    ),
    "Parquet without its end": ("a.parquet", b"PAR1" + b"x" * 90, r"^a\.parquet: .*; (write|mend) or copy it again"),
    "no Arrow": ("a.arrow", b"hello" * 9, r"^a\.arrow: .*; (write|mend) or copy it again"),
    "Arrow without its end": ("a.arrow", b"ARROW1\0\0" + b"x" * 90, r"^a\.arrow: .*; (write|mend) or copy it again"),
    # broken JSON, where the next element cannot be found
    "list not closed": (
        "a.json",
        b'[{"a": 1}',
        r"^a\.json\[1\]: .*on line 1 .*the file is cut off\); mend the file, or",
    ),
    "list cut after a comma": ("a.json", b'[{"a": 1},\n', r"^a\.json\[1\]: .*line 2 .*the file ends .*; mend the file"),
    "element cut off": ("a.json", b'[{"a": 1},\n{"a": "te', r"^a\.json\[1\]: .*line 2 \(Unterminated string.*; mend"),
    "element broken": ("a.json", b'[{"a": 1},\n{"a" 2}]', r"^a\.json\[1\]: .*line 2 .Expecting ':' delimiter.*; mend"),
    "comma missing": ("a.json", b'[{"a": 1}\n{"a": 2}]', r"^a\.json\[1\]: .*line 2 .',' or '\]' missing.*; mend"),
    "comma too many": ("a.json", b'[{"a": 1},]', r"^a\.json\[1\]: .*line 1 .Expecting value.*; mend the file"),
    "text after the list": ("a.json", b'[{"a": 1}]\n[', r"^a\.json: .*line 2 .text after the list.*; mend the file"),
    "nested too deep": ("a.json", b"[" * 200_000, r"^a\.json\[0\]: .*too many nested brackets.*; mend the file"),
    "NUL bytes in a list": ("a.json", b'[{"a": 1}, \0\0\0\0', r"^a\.json\[1\]: .*NUL bytes\); mend the file"),
    # another kind than the name says
    "JSON lines in .json": ("a.json", GOOD * 2, r"^a\.json: .*is JSON lines; let the name end in \.jsonl\."),
    "an object in .json": (
        "a.json",
        b'{"data": [1,\n 2]}',
        r"^a\.json: expected a list .*an object; put the list of rows",
    ),
    "CSV in .json": ("a.json", b"a,b\n1,2", r"^a\.json: .*text that begins 'a,b'; save the rows as"),
    "JSON in .jsonl": (
        "a.jsonl",
        b'[\n{"a": 1},\n{"a": 2}\n]',
        r"^a\.jsonl:1: .*a list .*; let the name end in \.json\.",
    ),
    "JSON on one line": ("a.jsonl", b'[{"a": 1}, {"a": 2}]', r"^a\.jsonl:1: .*a list .*; let the name end in \.json\."),
    "JSON from the bracket on": (
        "a.jsonl",
        b'[{"a": 1},\n{"a": 2}]',
        r"^a\.jsonl:1: .*a list .*let the name end in \.json",
    ),
    "pretty objects in .jsonl": (
        "a.jsonl",
        b'{\n "a": 1\n}\n',
        r"^a\.jsonl:1: .*an object .*; write each object on one",
    ),
    "gzip in .jsonl": ("a.jsonl", gzip.compress(GOOD), r"^a\.jsonl: .*compressed by gzip; let .* end in \.gz\."),
    "zstd in .csv": ("a.csv", compressed("a.zst", GOOD), r"^a\.csv: .*compressed by zstd; let .* end in \.zst\."),
    "ZIP in .json": ("a.json", b"PK\x03\x04....", r"^a\.json: .*a ZIP archive; unpack it\."),
    "UTF-16": ("a.jsonl", '{"a": 1}'.encode("utf-16"), r"^a\.jsonl: .*UTF-16; save the file as UTF-8\."),
    "UTF-16 in CSV": ("a.csv", "a,b".encode("utf-16"), r"^a\.csv: .*UTF-16; save the file as UTF-8\."),
    "Parquet in .csv": ("a.csv", b"PAR1....", r"^a\.csv: .*a Parquet file; let the file's name end in \.parquet\."),
    "Arrow in .parquet": ("a.parquet", b"ARROW1..", r"^a\.parquet: .*an Arrow file; let .* end in \.arrow\."),
    "Git LFS": (
        "a.jsonl",
        b"version https://git-lfs.github.com/spec/v1\n",
        r"^a\.jsonl: .*Git LFS pointer.*git lfs pull",
    ),
    "Git LFS for .parquet": (
        "a.parquet",
        b"version https://git-lfs.github.com/spec/v1\n",
        r"LFS pointer.*git lfs pull",
    ),
    "a web page": ("a.jsonl", b"<!DOCTYPE html><html>", r"^a\.jsonl: .*a web page; download the file itself\."),
    # headers
    "a column twice": ("a.csv", b"a,b,a\n1,2,3\n", r"^a\.csv:1: .*'a' more than once; rename one of them\."),
    "no names": ("a.csv", b",,\n1,2,3\n", r"^a\.csv:1: .*a header .*found none; write one as the first line\."),
    "a header in Latin-1": ("a.csv", b"pr\xe9nom\nx\n", r"^a\.csv:1: .*in UTF-8, found none; write one"),
    "a broken header": ("a.csv", b'"a"x,b\n1,2\n', r"^a\.csv:1: .*an error .*; mend the first line\."),
    "semicolons": (
        "a.csv",
        b"a;b\n1;2\n",
        r"^a\.csv:1: .*separated by commas, found .*'a;b'.*; separate them by commas",
    ),
    "tabs in .csv": ("a.csv", b"a\tb\n1\t2\n", r"^a\.csv:1: .*tabs in it; let the name end in \.tsv\."),
    "commas in .tsv": ("a.tsv", b"a,b\n1,2\n", r"^a\.tsv:1: .*commas in it; let the name end in \.csv\."),
    "a quote not closed": ("a.csv", b'a\nx\n"y\nz\n', r"^a\.csv:3: .*a quote that opens .*never closed; close it"),
    # names
    "no known ending": (
        "a.md",
        b"x",
        r"^data\.path: expected a file ending in one of .*found '.*a\.md'; rename or convert",
    ),
    "no ending": ("data", b"x", r"^data\.path: expected a file ending in .*; rename or convert"),
    "compressed Parquet": ("a.parquet.gz", b"x", r"^data\.path: expected a file ending in .*; rename or convert"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_one_sentence(tmp_path, case):
    name, content, message = BAD_FILES[case]
    path = tmp_path / name
    path.write_bytes(content)
    refused(str(path), message)


def read_all(path):
    (source,) = training_sources(DataConfig(path=path))
    return list(source.rows())


def refused(path, message):
    with pytest.raises(DataError, match=message) as caught:
        read_all(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")


def folder_of(**files):
    def make(tmp_path):
        for name, content in files.items():
            write(tmp_path, f"d/{name.replace('__', '/').replace('_', '.')}", content)
        return tmp_path / "d"

    return make


def made(function):
    def make(tmp_path):
        (tmp_path / "d").mkdir()
        return function(tmp_path / "d") or tmp_path / "d"

    return make


def saved(change, splits=()):
    def make(folder):
        data = datasets.Dataset.from_list([{"a": 1}])
        (datasets.DatasetDict(dict.fromkeys(splits, data)) if splits else data).save_to_disk(folder)
        change(folder)

    return made(make)


def two_names(folder):
    table = pa.table([[1], [2]], names=["a", "a"])
    return write_arrow(folder / "a.arrow", table, pa.ipc.new_file, 10)


BAD_PATHS = {
    "missing": (made(lambda d: d / "a.jsonl"), r"no file '.*a\.jsonl' \(looked for .*\); set data\.path=<file>"),
    "misspelt": (
        made(lambda d: write(d, "train.jsonl", GOOD) and d / "trian.jsonl"),
        r"no file '.*'.*; did you mean 'train\.jsonl'\?; set data\.path=",
    ),
    "no folder": (made(lambda d: d / "x" / "a.jsonl"), r"there is no folder '.*x'; set data\.path="),
    "an address": (
        made(lambda d: "https://example.org/a.jsonl"),
        r"found the address .*; download it and set data\.path",
    ),
    "a pipe": (
        made(lambda d: os.mkfifo(d / "a.jsonl") or d / "a.jsonl"),
        r"a regular file, .*cannot be read twice; save",
    ),
    "a link to nothing": (
        made(lambda d: (d / "a.jsonl").symlink_to(d / "b") or d / "a.jsonl"),
        r"no file .*; set data",
    ),
    "links in a circle": (
        made(lambda d: (d / "a.jsonl").symlink_to(d / "a.jsonl") or d / "a.jsonl"),
        r"; set data\.path=",
    ),
    "an empty folder": (made(lambda d: d), r"expected data files in '.*d', found none; set data\.path="),
    "a folder without data": (folder_of(README_md="x"), r"found none \(README\.md is none\); set data\.path="),
    "a folder of two kinds": (
        folder_of(a_jsonl=GOOD, x__b_csv="a\n1\n"),
        r"files of one kind in .*, found jsonl \(a\.jsonl\), csv \(x/b\.csv\); set data\.path to a glob",
    ),
    "a folder of several splits": (
        folder_of(train_jsonl=GOOD, test_jsonl=GOOD),
        r"the files of one split in .*, found test\.jsonl, train\.jsonl; set data\.path, data\.validation_path and",
    ),
    "a file of a folder is empty": (folder_of(a_jsonl=GOOD, x__b_jsonl=b""), r"^x/b\.jsonl: .*an empty file; set"),
    "a glob of nothing": (made(lambda d: d / "*.jsonl"), r"expected data files in '.*\*\.jsonl', found none; set"),
    "a glob of other files": (made(lambda d: write(d, "a.md", "x") and d / "*"), r"found '.*a\.md'; narrow '.*\*'\."),
    "two columns of one name": (
        made(two_names),
        r"^a\.arrow: .*distinct column names, found 'a' more than once; rename",
    ),
    "a table of nothing": (
        made(lambda d: write_parquet(d / "a.parquet", {"a": pa.array([], pa.string())})),
        r"^data\.path: expected at least one row .*found none; set",
    ),
    "saved, a file lost": (
        saved(lambda d: (d / "data-00000-of-00001.arrow").unlink()),
        r"the files that .*state\.json names, found 'data-00000-of-00001\.arrow' missing; save it again",
    ),
    "saved, state broken": (
        saved(lambda d: (d / "state.json").write_text("[")),
        r"expected .*state\.json as .*; save the",
    ),
    "saved, state of nothing": (saved(lambda d: (d / "state.json").write_text("{}")), r"found no files; save it again"),
    "saved, cut off": (
        saved(lambda d: os.truncate(d / "data-00000-of-00001.arrow", 300)),
        r"^data-00000-of-00001\.arrow: .*; (write|mend) or copy it again",
    ),
    "saved without train": (
        saved(lambda d: None, splits=("a", "b")),
        r"expected a split 'train' in the saved data sets .*, found a, b; set data\.path=.*d/<split>",
    ),
}


@pytest.mark.parametrize("case", BAD_PATHS)
def test_a_bad_path_is_one_sentence(tmp_path, case):
    make, message = BAD_PATHS[case]
    refused(str(make(tmp_path)), message)


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv.gz", "a.parquet", "a.arrow", "a.txt"])
def test_an_unreadable_file(tmp_path, monkeypatch, name):
    path = write(tmp_path, name, GOOD)

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    monkeypatch.setattr("gzip.open", refuse)
    refused(str(path), rf"^{name}: .*cannot be read \(Permission denied\); mend or copy it again, or set data\.path=")


@pytest.mark.parametrize(
    ("name", "content", "origin"),
    [
        ("a.jsonl", lines([{"a": "x" * 2000}]), "a.jsonl:1"),
        ("a.json", json.dumps([{"a": 1}, {"a": "x" * 5000}]), r"a\.json\[1\]"),
        ("a.csv", "a\nx\n" + "x" * 2000, "a.csv:3"),
        ("a.csv", 'a\n"' + "x\n" * 2000 + '"', "a.csv:2"),
        ("a.txt", "x" * 2000, "a.txt"),
    ],
)
def test_a_record_too_long_for_memory(tmp_path, monkeypatch, name, content, origin):
    for module in (streams, json_records):
        monkeypatch.setattr(module, "MAX_RECORD_BYTES", 1000)
    monkeypatch.setattr("tunelab.data.sources.delimited.MAX_RECORD_BYTES", 1000)
    monkeypatch.setattr(json_records, "_CHUNK_BYTES", 100)
    refused(
        str(write(tmp_path, name, content)), rf"^{origin}: .*at most 1,000 bytes, found a longer one; put line ends"
    )
