"""Pad and end tokens are stated, never guessed."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from tunelab.config import ModelConfig
from tunelab.errors import ModelError
from tunelab.model.tokenizer import end_token_ids, load_tokenizer


@pytest.fixture
def folder(model_folder: Path, tmp_path: Path):
    """A copy of the base model's folder with other tokenizer settings."""

    def changed(**settings: str | None) -> ModelConfig:
        copy = tmp_path / "copy"
        shutil.copytree(model_folder, copy)
        path = copy / "tokenizer_config.json"
        content = {**json.loads(path.read_text(encoding="utf-8")), **settings}
        path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}), encoding="utf-8")
        return ModelConfig(path=str(copy))

    return changed


def test_its_own_pad_token_is_kept(folder):
    tokenizer = load_tokenizer(folder())
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<|pad|>", "<|end|>")
    assert tokenizer.chat_template


def test_eos_pads_where_there_is_no_pad_token(folder):
    tokenizer = load_tokenizer(folder(pad_token=None))
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 1


def test_a_tokenizer_without_end_token_is_refused(folder):
    with pytest.raises(ModelError, match=r"names no eos_token; add it to tokenizer_config\.json"):
        load_tokenizer(folder(eos_token=None))


def test_a_model_without_tokenizer_is_refused(folder):
    config = folder()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (Path(config.path) / name).unlink()
    with pytest.raises(ModelError, match=r"^model\.path: .*tokenizer"):
        load_tokenizer(config)


@pytest.mark.parametrize(
    ("generation", "expected"),
    [
        (SimpleNamespace(eos_token_id=None), [1]),
        (SimpleNamespace(eos_token_id=7), [1, 7]),
        (SimpleNamespace(eos_token_id=[9, 1, 5]), [1, 5, 9]),
        (None, [1]),
    ],
)
def test_end_tokens_are_those_of_tokenizer_and_model(generation, expected: list[int], folder):
    assert end_token_ids(load_tokenizer(folder()), generation) == expected


def test_a_config_of_wrong_types_is_refused(folder):
    config = folder()
    (Path(config.path) / "config.json").write_text('{"model_type": "llama", "hidden_size": "many"}')
    with pytest.raises(ModelError, match=r"^model\.path: "):
        load_tokenizer(config)
