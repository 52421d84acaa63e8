import json

import datasets
import huggingface_hub
import pytest
from data.writing import lines, write
from datasets import exceptions
from huggingface_hub import errors

from tunelab.config import DataConfig, forget_reads, read_keys
from tunelab.data.sources import evaluation_source, training_sources
from tunelab.errors import DataError

COMMIT = "0123456789abcdef"


class Info:
    sha = COMMIT


class Hub:
    """Stands for the hub: says what it was asked for, and gives what a test wants."""

    def __init__(self, monkeypatch):
        self.answer, self.loaded, self.asked, self.offline = Info(), None, [], []
        monkeypatch.setattr(
            huggingface_hub.HfApi, "dataset_info", lambda api, name, **options: self.info(name, options)
        )
        monkeypatch.setattr(datasets, "load_dataset", self.load)
        for owner in (datasets.config, huggingface_hub.constants):  # whatever HF_HUB_OFFLINE says outside
            monkeypatch.setattr(owner, "HF_HUB_OFFLINE", False)

    def info(self, name, options):
        assert options["timeout"] <= 10
        return self.give(self.answer)

    def load(self, *names, **options):
        self.asked.append((names, options))
        self.offline.append((datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE))
        return self.give(self.loaded)

    def give(self, wanted):
        if isinstance(wanted, Exception):
            raise wanted
        return wanted


@pytest.fixture
def hub(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    hub = Hub(monkeypatch)
    datasets.Dataset.from_list([{"a": index, "turns": [{"n": None}]} for index in range(600)]).save_to_disk("cached")
    hub.loaded = datasets.load_from_disk("cached")
    return hub


def http_error(kind, status):
    import httpx2

    response = httpx2.Response(status, request=httpx2.Request("GET", "https://hub.invalid/api"))
    return kind("no", response=response)


def test_rows_of_a_hub_data_set(hub):
    (source,) = training_sources(DataConfig(path="org/data", subset="main", revision="v1"))
    assert hub.asked == [(("org/data", "main"), {"split": "train", "revision": COMMIT, "data_dir": None})]
    rows = list(source.rows())
    assert rows == list(source.rows())
    assert [row.fields["a"] for row in rows] == list(range(600))
    assert (rows[599].origin, rows[599].fields["turns"]) == ("org/data/main:train[599]", [{"n": None}])
    assert source.fingerprints() == {"org/data/main:train": COMMIT}
    assert source.note == f"commit {COMMIT} on the hub"
    assert hub.offline == [(False, False)]


def test_selected_rows_stay_selected(hub):
    hub.loaded = hub.loaded.select([7, 3])
    (source,) = training_sources(DataConfig(path="org/data"))
    assert [row.fields["a"] for row in source.rows()] == [7, 3]


@pytest.mark.parametrize(
    ("key", "path", "split"),
    [
        ("path", "org/data", "train_sft"),
        ("path", "org/data:all", "all"),
        ("validation_path", "org/data", "validation"),
        ("test_path", "org/data", "test"),
        ("test_path", "org/data:test_sft", "test_sft"),
    ],
)
def test_splits(hub, key, path, split):
    config = DataConfig(**{"path": "org/data", "hub_split": "train_sft", key: path})
    if key == "path":
        training_sources(config)
    else:
        evaluation_source(config, f"data.{key}")
    assert hub.asked[-1][1]["split"] == split


def test_hub_keys_are_read(hub):
    config = DataConfig(path="org/data")
    forget_reads(config)
    training_sources(config)
    assert {"revision", "subset", "hub_split"} <= read_keys(config)


def test_a_local_path_comes_first(hub, tmp_path):
    write(tmp_path, "org/data/a.jsonl", lines([{"a": 1}]))
    (source,) = training_sources(DataConfig(path="org/data"))
    assert [row.origin for row in source.rows()] == ["a.jsonl:1"]
    with pytest.raises(DataError, match=r"no file 'org/data\.jsonl'"):
        training_sources(DataConfig(path="org/data.jsonl"))
    assert hub.asked == []


def test_an_entry_of_dataset_info(hub, tmp_path):
    entry = {"hf_hub_url": "data", "subset": "en", "split": "all", "folder": "f", "num_samples": 2}
    info = write(tmp_path, "dataset_info.json", json.dumps({"mine": entry}))
    (source,) = training_sources(DataConfig(info=str(info), name="mine", revision="v2"))
    assert hub.asked == [(("data", "en"), {"split": "all", "revision": COMMIT, "data_dir": "f"})]
    assert len(list(source.rows())) == 2


def test_without_network_the_cache_is_read(hub):
    hub.answer = errors.OfflineModeIsEnabled("offline")
    before = datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE
    (source,) = training_sources(DataConfig(path="org/data", revision="v1"))
    assert hub.offline == [(True, True)]
    assert before == (datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE)
    assert hub.asked[0][1]["revision"] == "v1"
    assert source.note == "from the local cache: the hub was not reached"
    ((name, sha256),) = source.fingerprints().items()
    assert name == "org/data:train:data-00000-of-00001.arrow"
    assert len(sha256) == 64


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (http_error(errors.RevisionNotFoundError, 404), r"^data\.revision: .*'v9', which .*; set data\.revision="),
        (http_error(errors.GatedRepoError, 403), r"^data\.path: .*consent to its terms; accept them .*hf auth login"),
        (
            http_error(errors.RepositoryNotFoundError, 401),
            r"^data\.path: found no local file .*'org/data'.*; set data\.path",
        ),
        (errors.HFValidationError("bad name"), r"^data\.path: .*no data set of this name; set data\.path"),
    ],
)
def test_what_the_hub_refuses(hub, answer, message):
    hub.answer = answer
    with pytest.raises(DataError, match=message):
        training_sources(DataConfig(path="org/data", revision="v9"))
    assert hub.asked == []


@pytest.mark.parametrize(
    ("answer", "failure", "message"),
    [
        (
            ConnectionError("no route"),
            ConnectionError("Couldn't reach"),
            r"\(no route\); .*no copy in the cache: set data\.",
        ),
        (http_error(errors.HfHubHTTPError, 503), FileNotFoundError("nothing"), r"no answer from the hub and no copy"),
        (Info(), ValueError("BuilderConfig 'x' not found. Available: ['en']"), r"\['en'\]\); set data\.subset to one"),
        (Info(), ValueError("Unknown split \"x\". Should be one of ['a']"), r"\['a'\]\); set data\.hub_split to one"),
        (
            Info(),
            RuntimeError("Dataset scripts are no longer supported, but found x.py"),
            r"scripts .*; download its files",
        ),
        (Info(), exceptions.DatasetGenerationError("An error occurred"), r"An error occurred\); download its files"),
        (Info(), exceptions.DataFilesNotFoundError("No files\nhere"), r"\(No files\); download its files"),
        (Info(), OSError(28, "No space left on device"), r"No space left on device\); download its files"),
    ],
)
def test_what_cannot_be_loaded(hub, answer, failure, message):
    hub.answer, hub.loaded = answer, failure
    with pytest.raises(DataError, match=message) as caught:
        training_sources(DataConfig(path="org/data"))
    assert str(caught.value).startswith(
        "data.path: expected a local file or a data set of the hub, found 'org/data:train'"
    )
    assert "\n" not in str(caught.value)


def test_a_missing_test_split_names_its_key(hub):
    hub.loaded = ValueError("Unknown split \"test\". Should be one of ['train']")
    config = DataConfig(path="org/data", test_path="org/data")
    with pytest.raises(DataError, match=r"^data\.test_path: .*; set data\.test_path=<org/name>:<one of them>\.$"):
        evaluation_source(config, "data.test_path")
