"""Python code that a checkpoint brings runs only where it is asked for by key."""

import io
import json
import sys
from pathlib import Path

import pytest
import torch
from conftest import make_model, make_tokenizer
from transformers import AutoModelForCausalLM

from tunelab.chat.conversing import chat
from tunelab.config import ChatConfig, ExportConfig, ExportKind, ModelConfig
from tunelab.errors import ConfigError, ModelError
from tunelab.export.exporting import export
from tunelab.model.adapter import attach_adapter, build_peft_config
from tunelab.model.loading import check_base_model, load_base_model
from tunelab.model.saving import export_model
from tunelab.model.tokenizer import load_tokenizer
from tunelab.preflight import build_adapter_config, plan_training, prepare
from tunelab.provenance import fingerprints

LORA = {"_target_": "peft.LoraConfig", "r": 4, "target_modules": "all-linear"}
CODE = """
from pathlib import Path

from transformers import LlamaConfig, LlamaForCausalLM

Path({marker!r}).touch()


class OwnConfig(LlamaConfig):
    model_type = "of_its_own"


class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A base model whose architecture transformers does not have; `ran` appears beside it when its code is run."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    path = tmp_path / "own"
    tokenizer = make_tokenizer()
    make_model(len(tokenizer)).save_pretrained(path)
    tokenizer.save_pretrained(path)
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    config["model_type"] = "of_its_own"
    config["auto_map"] = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"}
    (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (path / "own.py").write_text(CODE.format(marker=str(tmp_path / "ran")), encoding="utf-8")
    return path


def test_it_is_refused_by_key_and_not_run(folder: Path, tiny_config):
    said = (
        r"^model\.trust_remote_code: .*own' is written in Python code of its own.*set model\.trust_remote_code=true\.$"
    )
    with pytest.raises(ModelError, match=said):
        check_base_model(ModelConfig(path=str(folder)), 10)
    with pytest.raises(ModelError, match=said):
        prepare(tiny_config(f"model.path={folder}"))
    assert not (folder.parent / "ran").exists()


def test_it_runs_where_it_is_asked_for(folder: Path):
    config = ModelConfig(path=str(folder), trust_remote_code=True)
    load_tokenizer(config)
    assert check_base_model(config, 10).model_type == "of_its_own"
    assert type(load_base_model(config, torch.device("cpu"))).__name__ == "OwnForCausalLM"
    assert (folder.parent / "ran").exists()


def test_a_native_architecture_needs_no_code_of_its_checkpoint(folder: Path):
    """As Phi-3: the files still name code that transformers has had since."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "llama"}), encoding="utf-8")
    assert check_base_model(ModelConfig(path=str(folder)), 10).model_type == "llama"
    assert type(load_base_model(ModelConfig(path=str(folder)), torch.device("cpu"))).__name__ == "LlamaForCausalLM"
    assert not (folder.parent / "ran").exists()


def test_a_known_configuration_with_a_model_of_its_own_is_refused(folder: Path):
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    changed = {**config, "model_type": "t5", "auto_map": {"AutoModelForCausalLM": "own.OwnForCausalLM"}}
    (folder / "config.json").write_text(json.dumps(changed), encoding="utf-8")
    with pytest.raises(ModelError, match=r"^model\.trust_remote_code: "):
        check_base_model(ModelConfig(path=str(folder)), 10)


@pytest.mark.parametrize(("name", "rate"), [("d_model", 1.3e-2), ("width", None)])
def test_a_configuration_without_the_usual_names(name: str, rate: float | None, folder: Path, tiny_config):
    """The rate is suggested by another name of the hidden size, or has to be given."""
    own = [
        "from transformers import PreTrainedConfig",
        "class OwnConfig(PreTrainedConfig):",
        "    model_type='of_its_own'",
    ]
    (folder / "own.py").write_text("\n".join(own), encoding="utf-8")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    kept = {"model_type": "of_its_own", "auto_map": config["auto_map"], name: 32}
    (folder / "config.json").write_text(json.dumps(kept), encoding="utf-8")
    run = tiny_config(f"model.path={folder}", "model.trust_remote_code=true", "optim.lr=null")
    adapter, prepared = build_adapter_config(run), prepare(run)
    if rate is not None:
        assert plan_training(run, prepared, adapter).peak_lr == rate
        return
    with pytest.raises(ConfigError, match=r"^optim\.lr: expected a rate, since .* names no hidden_size .*=<rate>\.$"):
        plan_training(run, prepared, adapter)


def test_provenance_says_so(folder: Path, tiny_config, tmp_path: Path):
    config = tiny_config(f"model.path={folder}", "model.trust_remote_code=true", f"output_dir={tmp_path}")
    record = fingerprints(config, {})["base_model"]
    assert record["trust_remote_code"] is True
    assert "own.py" in record["sha256"]


def test_provenance_of_a_plain_model_is_as_before(model_folder: Path, tiny_config, tmp_path: Path):
    config = tiny_config(f"output_dir={tmp_path}")
    assert fingerprints(config, {})["base_model"].keys() == {"path", "revision", "sha256"}


def test_export_and_chat_run_it_where_it_is_asked_for(folder: Path, tmp_path: Path, monkeypatch, capsys):
    model = ModelConfig(path=str(folder), trust_remote_code=True)
    adapter = tmp_path / "adapter"
    wrapped = attach_adapter(load_base_model(model, torch.device("cpu")), build_peft_config(LORA), seed=0)
    export_model(wrapped, load_tokenizer(model), str(folder), adapter)
    loaded = []
    monkeypatch.setattr(
        "tunelab.subject.load_saved_tokenizer", lambda *given: loaded.append(given) or load_tokenizer(model)
    )
    merged = tmp_path / "merged"
    config = ExportConfig(to=str(merged), adapter=str(adapter), kind=ExportKind.merged, model=model, max_examples=0)
    export(config, None, None, [])
    assert loaded == [(adapter, True)]
    assert (merged / "own.py").is_file()
    again = AutoModelForCausalLM.from_pretrained(merged, trust_remote_code=True)
    assert type(again).__name__ == "OwnForCausalLM"
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\n"))
    chat(ChatConfig(adapter=str(adapter), model=model, max_new_tokens=2), None, None, [])
    assert capsys.readouterr().err.count("error") == 0
