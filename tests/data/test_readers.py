import codecs
import csv
import io
import json
import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data.writing import lines, write, write_arrow, write_parquet
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tunelab.data.records import BadRow, Row
from tunelab.data.sources import json_records, streams
from tunelab.data.sources.readers import READERS, kind_of
from tunelab.data.sources.streams import DataFile
from tunelab.errors import DataError

TEXT_ENDINGS = ["json", "jsonl", "ndjson", "csv", "tsv"]
ROWS = [{"question": "Wie spät?", "answer": "elf"}, {"question": 'a "b",\tc', "answer": "zwei\nZeilen"}]


def read(path):
    return list(READERS[kind_of(path.name)](DataFile(path, path.name)))


def fields(path):
    return [row.fields for row in read(path)]


def serialise(rows, ending):
    if ending == "json":
        return json.dumps(rows, ensure_ascii=False)
    if ending in ("jsonl", "ndjson"):
        return lines(rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), delimiter="," if ending == "csv" else "\t")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


@pytest.mark.parametrize("compression", ["", ".gz", ".zst"])
@pytest.mark.parametrize("ending", TEXT_ENDINGS)
@pytest.mark.parametrize("bom", [b"", codecs.BOM_UTF8])
def test_every_text_kind_reads_the_same_rows(tmp_path, ending, compression, bom):
    path = write(tmp_path, f"a.{ending}{compression}", bom + serialise(ROWS, ending).encode())
    assert fields(path) == ROWS


@pytest.mark.parametrize("name", ["A.JSONL", "a.b.json.GZ", "a.txt.zst", "a.feather", "a.parquet", "a.tsv"])
def test_kinds(name):
    assert kind_of(name) in READERS


@pytest.mark.parametrize("name", ["a", "json", "a.gz", "a.parquet.gz", "a.jsonl.bz2", "a.md", ".jsonl/x"])
def test_no_kind(name):
    assert kind_of(name) is None


def test_jsonl_origins_count_lines_and_odd_line_ends_are_text(tmp_path):
    path = write(tmp_path, "a.jsonl", '{"a": 1}\n\n  \n{"a": "x\\u2028y"}\r\n \t{"a": "x\u2028\x85y"} ')
    assert read(path) == [
        Row({"a": 1}, "a.jsonl:1"),
        Row({"a": "x\u2028y"}, "a.jsonl:4"),
        Row({"a": "x\u2028\x85y"}, "a.jsonl:5"),
    ]


def test_large_integers_and_escapes_survive(tmp_path):
    record = {"a": 2**70, "b": 'quote " and \\ and \x00', "c": [1.5, None, True]}
    assert fields(write(tmp_path, "a.jsonl", json.dumps(record))) == [record]


def test_csv_origins_count_lines_not_records(tmp_path):
    path = write(tmp_path, "a.csv", '\nq,r\r\n"two\nlines",x\r\n\r\ny,""\r\n')
    assert read(path) == [Row({"q": "two\nlines", "r": "x"}, "a.csv:3"), Row({"q": "y", "r": ""}, "a.csv:6")]


def test_csv_field_longer_than_pythons_limit(tmp_path):
    assert fields(write(tmp_path, "a.csv", "q\n" + "x" * 200_000)) == [{"q": "x" * 200_000}]


def test_text_file_is_one_row(tmp_path):
    assert read(write(tmp_path, "a.txt", "one\r\n\ntwo\n")) == [Row({"text": "one\r\n\ntwo\n"}, "a.txt")]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.dictionaries(st.text(), VALUES, max_size=3), min_size=1, max_size=5),
    chunk=st.integers(1, 40),
    indent=st.sampled_from([None, 0, 2]),
    ascii_only=st.booleans(),
)
def test_json_does_not_depend_on_where_chunks_end(tmp_path, monkeypatch, rows, chunk, indent, ascii_only):
    monkeypatch.setattr(json_records, "_CHUNK_BYTES", chunk)
    text = json.dumps(rows, indent=indent, ensure_ascii=ascii_only)
    path = write(tmp_path, "a.json", text)
    assert fields(path) == json.loads(text)
    assert [row.origin for row in read(path)] == [f"a.json[{index}]" for index in range(len(rows))]


@pytest.mark.parametrize("chunk", [1, 7, 2**20])
def test_json_goes_on_after_a_bad_element(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(json_records, "_CHUNK_BYTES", chunk)
    good = b'{"a": {"b": [1, 2]}}'
    bad = [
        b"-1234567890.5e+10",
        b'"text"',
        b"[[]]",
        b"null",
        b'{"a": 1, "a": 2}',
        b'{"a": -Infinity}',
        b'{"a": "\xe9"}',
    ]
    path = write(tmp_path, "a.json", b"[" + b" ,\n".join(part for item in bad for part in (item, good)) + b"]")
    rows = read(path)
    assert [type(row) for row in rows] == [BadRow, Row] * len(bad)
    assert all(row.origin == f"a.json[{index}]" for index, row in enumerate(rows))
    assert all(row.fields == json.loads(good) for row in rows if isinstance(row, Row))
    for reason, row in zip(
        ["a number", "a string", "a list", "null", "'a' twice", "-Infinity", "byte 0xe9"], rows[::2], strict=True
    ):
        assert reason in row.reason
        assert row.reason.startswith(f"{row.origin}: expected ")


def test_numbers_too_long_for_python_are_a_bad_row(tmp_path):
    number = "1" * 5000
    rows = read(write(tmp_path, "a.json", f'[{{"a": {number}}}, {{"a": 1}}]'))
    assert [type(row) for row in rows] == [BadRow, Row]
    (row,) = read(write(tmp_path, "a.jsonl", f'{{"a": {number}}}'))
    assert isinstance(row, BadRow)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.text(), st.text()), min_size=1, max_size=4))
def test_csv_reads_back_what_pythons_csv_writes(tmp_path, pairs):
    rows = [{"a": a, "b": b} for a, b in pairs]
    path = write(tmp_path, "a.csv", serialise(rows, "csv"))
    for row, expected in zip(read(path), rows, strict=True):
        if any("\0" in text for text in expected.values()):
            assert isinstance(row, BadRow)
        else:
            assert row.fields == expected


def test_parquet_rows_are_plain_values(tmp_path):
    path = write_parquet(
        tmp_path / "a.parquet",
        {
            "text": ["x", None],
            "turns": [[{"role": "user", "when": datetime(2026, 1, 2, tzinfo=UTC)}], []],
            "price": [Decimal("1.50"), Decimal("2.00")],
            "bytes": [b"caf\xc3\xa9", b"\xff\x00"],
            "map": pa.array([[("k", 1)], []], pa.map_(pa.string(), pa.int64())),
            "kind": pa.array(["a", "b"]).dictionary_encode(),
        },
    )
    first, second = read(path)
    assert (first.origin, second.origin) == ("a.parquet[0]", "a.parquet[1]")
    json.dumps([first.fields, second.fields])
    assert first.fields["turns"] == [{"role": "user", "when": "2026-01-02 00:00:00+00:00"}]
    assert (first.fields["price"], first.fields["bytes"], second.fields["bytes"]) == ("1.50", "café", "ff00")
    assert (first.fields["map"], first.fields["kind"], second.fields["text"]) == ({"k": 1}, "a", None)


@pytest.mark.parametrize("num_rows", [255, 256, 257, 1000])
def test_tables_count_over_batches_and_row_groups(tmp_path, num_rows):
    table = pa.table({"a": list(range(num_rows))})
    parquet = write_parquet(tmp_path / "a.parquet", {"a": list(range(num_rows))}, row_group_size=300)
    write_arrow(tmp_path / "a.arrow", table, pa.ipc.new_file, 400)
    write_arrow(tmp_path / "b.arrow", table, pa.ipc.new_stream, 400)
    for path in (parquet, tmp_path / "a.arrow", tmp_path / "b.arrow"):
        assert read(path) == [Row({"a": index}, f"{path.name}[{index}]") for index in range(num_rows)]


def test_bad_text_in_a_table_is_one_bad_row(tmp_path):
    texts = pa.array([b"x", b"\xff", b"y"])
    table = pa.table({"a": pa.Array.from_buffers(pa.string(), 3, texts.buffers())})
    write_arrow(tmp_path / "a.arrow", table, pa.ipc.new_file, 10)
    assert [type(row) for row in read(tmp_path / "a.arrow")] == [Row, BadRow, Row]


def test_json_columns_of_datasets_are_decoded(tmp_path):
    values = [{"x": 1}, [1, 2], "s", None]
    made = datasets.Dataset.from_dict({"a": values}, features=datasets.Features({"a": datasets.Json()}))
    made.to_parquet(tmp_path / "a.parquet")
    assert [row["a"] for row in fields(tmp_path / "a.parquet")] == values


MEASURE = """
import resource, sys
from pathlib import Path
from tunelab.data.sources.readers import READERS, kind_of
from tunelab.data.sources.streams import DataFile
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
def read(path):
    return sum(1 for _ in READERS[kind_of(path.name)](DataFile(path, path.name)))
folder, *names = sys.argv[1:]
for name in names:
    read(Path(folder, "small", name))
before = peak()
for name in names:
    print(read(Path(folder, "large", name)), peak() - before)
"""


@pytest.mark.slow
def test_a_file_is_never_in_memory_as_a_whole(tmp_path):
    names = ["a.jsonl", "a.json", "a.csv", "a.jsonl.gz", "a.jsonl.zst", "a.parquet", "a.arrow"]
    for folder, num_rows in (("small", 300), ("large", 2500)):
        rows = [{"a": f"{index:08} " + "many words " * 1000} for index in range(num_rows)]  # 11 KB each
        for name in names[:-2]:
            write(tmp_path, f"{folder}/{name}", serialise(rows, name.split(".")[1]))
        table = pa.Table.from_pylist(rows)
        pq.write_table(table, tmp_path / folder / "a.parquet", use_dictionary=False, row_group_size=100)
        write_arrow(tmp_path / folder / "a.arrow", table, pa.ipc.new_stream, 100)
    command = [sys.executable, "-c", MEASURE, tmp_path, *names]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    for name, line in zip(names, done.stdout.splitlines(), strict=True):
        num_rows, growth_mb = map(int, line.split())
        mapped = 28 if name == "a.arrow" else 0  # pages of a mapped file count, though the system may take them back
        assert num_rows == 2500
        assert growth_mb < 10 + mapped, name


def test_a_record_longer_than_the_limit_is_an_error_not_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(streams, "MAX_RECORD_BYTES", 1000)
    path = write(tmp_path, "a.jsonl", lines([{"a": "x" * 900}, {"a": "x" * 1000}]))
    reader = READERS["jsonl"](DataFile(path, path.name))
    assert isinstance(next(reader), Row)
    with pytest.raises(DataError, match=r"a\.jsonl:2: expected a line of at most 1,000 bytes, .* split it"):
        next(reader)
