"""Whether a base model can be had, and what is said where it cannot."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import httpx
import huggingface_hub
import pytest
import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

from tunelab.config import ModelConfig
from tunelab.errors import ModelError
from tunelab.model import locating
from tunelab.model.generation import base_generation_config
from tunelab.model.loading import check_base_model, load_base_model
from tunelab.model.locating import resolve_model
from tunelab.model.tokenizer import load_tokenizer


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A hub that answers as told, and an empty cache."""
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(locating, "try_to_load_from_cache", lambda *args, **kwargs: None)
    asked: list[tuple[str, str | None]] = []

    def answers(error: BaseException | None, files: Sequence[str] = ()) -> list[tuple[str, str | None]]:
        def model_info(self, name, revision=None, timeout=None):
            assert timeout <= 10
            asked.append((name, revision))
            if error:
                raise error
            return SimpleNamespace(siblings=[SimpleNamespace(rfilename=file) for file in files])

        monkeypatch.setattr(HfApi, "model_info", model_info)
        return asked

    return answers


def refusal(kind: type[HfHubHTTPError], message: str) -> HfHubHTTPError:
    return kind(message, response=httpx.Response(403, request=httpx.Request("GET", "https://hub")))


def test_a_folder_is_found_without_asking(hub, model_folder: Path):
    asked = hub(AssertionError("asked the hub"))
    assert resolve_model(str(model_folder)) == str(model_folder)
    assert asked == []


def test_the_embedded_model_is_a_folder(hub):
    asked = hub(AssertionError("asked the hub"))
    folder = Path(resolve_model("embedded:tiny"))
    assert (folder / "model.safetensors").is_file()
    assert asked == []


def test_a_folder_without_a_model(tmp_path: Path):
    with pytest.raises(ModelError, match=r"expected a model folder with config\.json"):
        resolve_model(str(tmp_path))


def test_a_folder_that_does_not_exist_gets_a_suggestion(tmp_path: Path):
    (tmp_path / "mistral").mkdir()
    with pytest.raises(ModelError, match=r"no folder '.*mistrall'; did you mean 'mistral'\?; set model\.path="):
        resolve_model(str(tmp_path / "mistrall"))


@pytest.mark.parametrize("path", ["embedded:huge", "./nowhere", "~/nowhere-at-all", "a/b/c", "owner/"])
def test_what_cannot_be_a_hub_name_is_never_asked_for(path: str, hub):
    asked = hub(None)
    with pytest.raises(ModelError, match=r"^model\.path: there is no folder"):
        resolve_model(path)
    assert asked == []


def test_a_file_is_no_model_folder(tmp_path: Path):
    (tmp_path / "model.gguf").touch()
    with pytest.raises(ModelError, match=r"^model\.path: expected a folder with config\.json, found a file"):
        resolve_model(str(tmp_path / "model.gguf"))


def test_a_cached_model_is_not_asked_for(hub, monkeypatch: pytest.MonkeyPatch):
    asked = hub(AssertionError("asked the hub"))
    monkeypatch.setattr(locating, "try_to_load_from_cache", lambda *args, **kwargs: "/cache/config.json")
    assert resolve_model("owner/model") == "owner/model"
    assert asked == []


def test_a_reachable_model_is_asked_for_once(hub):
    asked = hub(None)
    assert resolve_model("owner/model", "v2") == "owner/model"
    assert asked == [("owner/model", "v2")]


def test_a_hub_model_without_safetensors_is_refused_before_it_is_downloaded(hub):
    hub(None, ["config.json", "pytorch_model.bin"])
    with pytest.raises(ModelError, match=r"^model\.path: expected \*\.safetensors at 'owner/model', found none"):
        resolve_model("owner/model")
    hub(None, ["config.json", "model-00001-of-00002.safetensors"])
    assert resolve_model("owner/model") == "owner/model"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (refusal(GatedRepoError, "gated"), "is gated; accept its terms on the hub and set the variable HF_TOKEN"),
        (refusal(RepositoryNotFoundError, "404"), "the hub knows no model 'owner/model'"),
        (refusal(HfHubHTTPError, "500 internal\nmore"), "the hub refused 'owner/model' (500 internal)"),
        (httpx.ConnectError("no route"), "the hub cannot be reached (ConnectError)"),
        (TimeoutError("too slow"), "the hub cannot be reached (TimeoutError)"),
    ],
)
def test_each_refusal_has_its_sentence(error: BaseException, said: str, hub):
    hub(error)
    with pytest.raises(ModelError) as caught:
        resolve_model("owner/model")
    assert said in str(caught.value)
    assert "set model.path=<folder> to use a copy on this machine" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_offline_is_obeyed(hub, monkeypatch: pytest.MonkeyPatch):
    asked = hub(None)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match="at revision 'v2' is not in the local cache, and HF_HUB_OFFLINE is set"):
        resolve_model("owner/model", "v2")
    assert asked == []


@pytest.mark.parametrize("path", ["embedded:tiny", "folder"])
def test_a_folder_has_no_revision(path: str, model_folder: Path):
    with pytest.raises(ModelError, match=r"^model\.revision: expected none for a folder.*found 'abc'"):
        resolve_model(str(model_folder) if path == "folder" else path, "abc")


def test_what_is_no_name_at_all_is_one_sentence():
    with pytest.raises(ModelError, match=r"^model\.path: 'a b' is neither a folder nor a hub name"):
        resolve_model("a b")


def test_a_cached_model_without_network_asks_the_hub_once(model_folder, tmp_path, monkeypatch):
    """Beside the files that are there, transformers asks for several that need not be, each with retries."""
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    kept = tmp_path / "models--owner--model"
    shutil.copytree(model_folder, kept / "snapshots" / "abc")
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text("abc")
    asked: list[str] = []

    def no_route(*arguments, **_):
        asked.extend(each for each in arguments if each == "owner/model")
        raise OSError("no route")

    monkeypatch.setattr(HfApi, "model_info", no_route)
    for connect in ("socket.getaddrinfo", "socket.create_connection"):
        monkeypatch.setattr(connect, no_route)
    locating._hub_answers.cache_clear()
    config = ModelConfig(path="owner/model")
    tokenizer = load_tokenizer(config)
    check_base_model(config, len(tokenizer))
    base_generation_config(config)
    load_base_model(config, torch.device("cpu"))
    assert asked == ["owner/model"]
    locating._hub_answers.cache_clear()
