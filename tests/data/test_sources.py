import hashlib
import json
from pathlib import Path

import datasets
import pytest
from data.writing import lines, write

from tunelab.config import ColumnsConfig, DataConfig, MixedSourceConfig, TagsConfig, forget_reads, read_keys
from tunelab.data.records import BadRow, Row
from tunelab.data.sources import Source, evaluation_source, training_sources
from tunelab.errors import ConfigError, DataError

ROWS = [{"a": index} for index in range(5)]


def only(config):
    (source,) = training_sources(config)
    return source


def values(source):
    return [row.fields["a"] for row in source.rows() if isinstance(row, Row)]


def sha256(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def test_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "d/train.jsonl", lines(ROWS))
    columns, tags = ColumnsConfig(prompt="a"), TagsConfig(user="me")
    source = only(DataConfig(path="d/train.jsonl", format="alpaca", columns=columns, tags=tags))
    assert (source.name, source.key, source.format, source.weight) == ("d/train.jsonl", "data.path", "alpaca", 1.0)
    assert source.columns is columns
    assert source.tags is tags
    assert source.fingerprints() == {"d/train.jsonl": sha256("d/train.jsonl")}
    assert [row.origin for row in source.rows()] == [f"train.jsonl:{line}" for line in range(1, 6)]
    assert list(source.rows()) == list(source.rows())
    assert source.note == ""


def test_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path, "train.jsonl", lines(ROWS))
    assert values(only(DataConfig(path="~/train.jsonl"))) == [0, 1, 2, 3, 4]


def test_embedded_data():
    source = only(DataConfig(path="embedded:tickets/test.jsonl"))
    rows = list(source.rows())
    assert (len(rows), rows[0].origin) == (300, "test.jsonl:1")
    assert list(source.fingerprints()) == ["embedded:tickets/test.jsonl"]


def test_a_folder_is_read_sorted_and_as_a_whole(tmp_path):
    for name, row in (("b.jsonl", 2), ("a/x.ndjson", 0), ("a/y.jsonl.gz", 1), (".hidden/c.jsonl", 9), ("c.jsonl", 3)):
        write(tmp_path, name, lines([{"a": row}]))
    write(tmp_path, "README.md", "not data")
    source = only(DataConfig(path=str(tmp_path)))
    assert values(source) == [0, 1, 2, 3]
    assert [row.origin for row in source.rows()] == ["a/x.ndjson:1", "a/y.jsonl.gz:1", "b.jsonl:1", "c.jsonl:1"]
    assert source.fingerprints() == {
        f"{tmp_path}:{name}": sha256(tmp_path / name) for name in ("a/x.ndjson", "a/y.jsonl.gz", "b.jsonl", "c.jsonl")
    }
    assert source.note == "4 files: a/x.ndjson, a/y.jsonl.gz, b.jsonl, c.jsonl; 1 others left out"


def test_text_files_of_a_folder_are_documents(tmp_path):
    write(tmp_path, "a.txt", "one")
    write(tmp_path, "b.txt.zst", "two")
    source = only(DataConfig(path=str(tmp_path)))
    assert list(source.rows()) == [Row({"text": "one"}, "a.txt"), Row({"text": "two"}, "b.txt.zst")]
    assert source.note.endswith("each text file is one row")
    assert only(DataConfig(path=str(tmp_path / "a.txt"))).note == "a text file is one row"


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [("d/*.jsonl", [0]), ("d/**/*.jsonl", [1, 0]), ("d/[bx]*/*.jsonl", [1]), ("./d/*.json*", [0])],
)
def test_globs(tmp_path, monkeypatch, pattern, expected):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "d/k.jsonl", lines([{"a": 0}]))
    write(tmp_path, "d/b/k.jsonl", lines([{"a": 1}]))
    for base in ("", f"{tmp_path}/"):
        assert values(only(DataConfig(path=base + pattern))) == expected


def test_a_name_with_brackets_that_exists_is_no_glob(tmp_path):
    path = write(tmp_path, "a[1].jsonl", lines(ROWS))
    assert values(only(DataConfig(path=str(path)))) == [0, 1, 2, 3, 4]


def test_saved_data_sets(tmp_path):
    data = datasets.Dataset.from_list([{"a": index} for index in range(20)])
    data.save_to_disk(tmp_path / "one", num_shards=3)
    source = only(DataConfig(path=str(tmp_path / "one")))
    assert values(source) == list(range(20))
    assert [row.origin for row in source.rows()][7] == "data-00001-of-00003.arrow[0]"
    assert len(source.fingerprints()) == 3
    splits = {"train": data, "validation": data.select([3]), "extra": data.select([4])}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "many")
    many = str(tmp_path / "many")
    config = DataConfig(path=many, validation_path=many, test_path=f"{many}/extra")
    assert values(only(config)) == list(range(20))
    assert only(config).note == "split 'train' of the data sets saved there (train, validation, extra)"
    validation, test = (evaluation_source(config, f"data.{split}_path") for split in ("validation", "test"))
    assert (values(validation), values(test)) == ([3], [4])
    assert next(iter(validation.rows())).origin == "validation/data-00000-of-00001.arrow[0]"


def test_selected_rows_of_a_saved_data_set_stay_selected(tmp_path):
    data = datasets.Dataset.from_list([{"a": index} for index in range(20)]).select([7, 3])
    data.save_to_disk(tmp_path / "one")
    assert values(only(DataConfig(path=str(tmp_path / "one")))) == [7, 3]


def test_a_mix(tmp_path):
    first, second = (str(write(tmp_path, name, lines(ROWS))) for name in ("a.jsonl", "b.jsonl"))
    shared = ColumnsConfig(prompt="p", response="r")
    mix = [
        MixedSourceConfig(path=first, weight=2.0, max_rows=3),
        MixedSourceConfig(path=second, format="text", columns=ColumnsConfig(prompt="own")),
    ]
    one, two = training_sources(DataConfig(mix=mix, format="alpaca", columns=shared))
    assert (one.weight, one.format, one.key, values(one)) == (2.0, "alpaca", "data.mix[0].path", [0, 1, 2])
    assert (two.weight, two.format, two.key, values(two)) == (1.0, "text", "data.mix[1].path", [0, 1, 2, 3, 4])
    assert one.columns is shared
    assert two.columns == ColumnsConfig(prompt="own", response="r")


def test_max_rows_counts_rows_that_can_be_used(tmp_path):
    path = write(tmp_path, "a.jsonl", '{"a": 0}\n[]\n{"a": 1}\n{"a": 2}\n')
    config = DataConfig(mix=[MixedSourceConfig(path=str(path), max_rows=2)])
    assert [type(row) for row in only(config).rows()] == [Row, BadRow, Row]


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({}, "none of them"),
        ({"path": ""}, "none of them"),
        ({"path": "a", "info": "b"}, r"data\.path and data\.info"),
        ({"path": "a", "mix": [MixedSourceConfig(path="b")]}, r"data\.path and data\.mix"),
    ],
)
def test_exactly_one_of_path_mix_and_info(given, found):
    with pytest.raises(ConfigError, match=rf"expected one of data\.path, .*, found {found}; set data\.path=<file"):
        training_sources(DataConfig(**given))


def test_evaluation_sources_inherit_the_format(tmp_path):
    path = str(write(tmp_path, "a.jsonl", lines(ROWS)))
    config = DataConfig(path=path, validation_path=path, format="text", columns=ColumnsConfig(text="a"))
    source = evaluation_source(config, "data.validation_path")
    assert isinstance(source, Source)
    assert (source.key, source.format, source.columns.text) == ("data.validation_path", "text", "a")
    assert evaluation_source(config, "data.test_path") is None


def test_evaluation_sources_inherit_the_format_of_the_entry(tmp_path):
    path = str(write(tmp_path, "a.jsonl", lines(ROWS)))
    entry = {"file_name": "a.jsonl", "columns": {"prompt": "a"}, "num_samples": 2}
    info = write(tmp_path, "dataset_info.json", json.dumps({"mine": entry}))
    config = DataConfig(info=str(info), name="mine", test_path=path)
    train, test = only(config), evaluation_source(config, "data.test_path")
    assert (train.name, train.key, values(train)) == ("mine", "data.name", [0, 1])
    assert (test.format, test.columns, values(test)) == ("text", train.columns, [0, 1, 2, 3, 4])


def test_errors_name_the_key(tmp_path):
    path = str(write(tmp_path, "train.jsonl", lines(ROWS)))
    config = DataConfig(path=path, test_path=str(tmp_path / "trian.jsonl"))
    with pytest.raises(
        DataError, match=r"^data\.test_path: no file .*did you mean 'train\.jsonl'\?; set data\.test_path="
    ):
        evaluation_source(config, "data.test_path")
    config = DataConfig(path=path, validation_path=str(write(tmp_path, "empty.jsonl", "")))
    with pytest.raises(DataError, match=r"^empty\.jsonl: .*set data\.validation_path=<file with rows>"):
        list(evaluation_source(config, "data.validation_path").rows())


def test_keys_of_the_hub_are_read_for_hub_names_only(tmp_path):
    path = str(write(tmp_path, "a.jsonl", lines(ROWS)))
    config = DataConfig(path=path, revision="main", validation_path=path)
    forget_reads(config)
    training_sources(config)
    evaluation_source(config, "data.validation_path")
    assert not read_keys(config) & {"revision", "subset", "hub_split", "name"}
    assert {"path", "format", "columns", "tags"} <= read_keys(config)
