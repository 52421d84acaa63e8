"""Weight files are checked by their headers, before anything is loaded."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import make_model, make_tokenizer
from safetensors.torch import save_file

from tunelab.config import ModelConfig
from tunelab.errors import ModelError
from tunelab.model.loading import check_base_model
from tunelab.model.weights import INDEX, check_weight_files


@pytest.fixture(scope="module")
def sharded_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sharded")
    make_model(len(make_tokenizer())).save_pretrained(folder, max_shard_size="40KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    return folder


@pytest.fixture
def sharded(sharded_once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sharded_once, tmp_path / "copy"))


def refused(folder: Path) -> str:
    """The sentence of the check that a run makes before it reads data."""
    with pytest.raises(ModelError) as caught:
        check_base_model(ModelConfig(path=str(folder)), 10)
    return str(caught.value)


def test_whole_folders_pass(sharded: Path, model_folder: Path):
    check_weight_files(sharded)
    check_weight_files(model_folder)


def test_a_missing_shard_is_named(sharded: Path):
    shards = sorted(sharded.glob("*.safetensors"))
    shards[1].unlink()
    assert f"names {len(shards)} weight files, of which 1 are missing, first {shards[1].name}; get" in refused(sharded)


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_a_file_cut_short_is_named(kept: int, sharded: Path):
    shard = sorted(sharded.glob("*.safetensors"))[1]
    content = shard.read_bytes()[:kept]
    shard.write_bytes(content)
    said = refused(sharded)
    assert f"{shard.name}' of {len(content):,} bytes is damaged or cut short (" in said
    assert said.endswith("; get it again.")


def test_shards_of_another_version_are_noticed(sharded: Path):
    index = json.loads((sharded / INDEX).read_text(encoding="utf-8"))
    first = sorted(sharded.glob("*.safetensors"))[0]
    index["weight_map"]["model.layers.7.extra.weight"] = first.name
    (sharded / INDEX).write_text(json.dumps(index), encoding="utf-8")
    assert f"expected the weight 'model.layers.7.extra.weight' in '{first}'" in refused(sharded)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"weight_map": 3}', "{}"])
def test_an_index_that_cannot_be_read(text: str, sharded: Path):
    (sharded / INDEX).write_text(text, encoding="utf-8")
    assert "expected a JSON object with weight_map in" in refused(sharded)


def test_files_under_other_names_are_not_guessed_at(sharded: Path):
    (sharded / INDEX).unlink()
    assert "by name model.safetensors or those that model.safetensors.index.json names, found model-0" in refused(
        sharded
    )


def test_a_single_file_goes_before_an_index(sharded: Path):
    save_file({}, sharded / "model.safetensors")
    (sharded / INDEX).write_text("{", encoding="utf-8")
    check_weight_files(sharded)
