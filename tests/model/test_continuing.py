"""Training on an adapter that was trained before: on the same base, with its own tokens and settings."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import REPOSITORY, make_model, make_tokenizer
from families import save_miniature
from peft import VeraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from tunelab.compose import dump_config
from tunelab.config import ModelConfig, forget_reads
from tunelab.errors import ConfigError, ModelError
from tunelab.finetune import fine_tune
from tunelab.model.adapter_folder import adapter_sha256, added_tokens, read_adapter_config, trained_token_ids
from tunelab.model.matching import check_adapter
from tunelab.preflight import build_adapter_config, continued_adapter, plan_training, prepare
from tunelab.run import RunFolder

TOKENS = ["please", "<tool>"]
NEW = f"model.new_tokens={json.dumps(TOKENS)}"


@pytest.fixture(scope="module")
def spare_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model whose embeddings have rows that its tokenizer does not use."""
    folder, tokenizer = tmp_path_factory.mktemp("base"), make_tokenizer()
    make_model(len(tokenizer) + 8).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def run(tiny_config, spare_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., RunFolder]:
    def train(*overrides: str, folder: Path | None = None, resuming: bool = False) -> RunFolder:
        config = tiny_config(f"model.path={spare_base}", "trainer.max_steps=2", "trainer.val_every_steps=1", *overrides)
        place = RunFolder(folder or tmp_path_factory.mktemp("run"))
        place.write_text("config.yaml", dump_config(config))
        forget_reads(config)
        _ = config.output_dir, config.resume
        fine_tune(config, place, [] if resuming else overrides, resuming)
        return place

    return train


@pytest.fixture(scope="module")
def first(run) -> RunFolder:
    """A run that has trained an adapter of rank 2 and two new tokens."""
    return run(NEW, "peft.r=2")


def check(config: Any, overrides: tuple[str, ...]) -> list[str]:
    return continued_adapter(config, build_adapter_config(config), overrides)


def test_new_tokens_are_trained_on(first: RunFolder, run):
    second = run(NEW, f"peft.from_adapter={first.path}", "logger=csv")
    config = read_adapter_config(second.adapter)
    size = len(make_tokenizer())
    assert trained_token_ids(config) == [size, size + 1]
    assert [added_tokens(second.adapter)[number] for number in (size, size + 1)] == TOKENS
    before, after = (load_file(each.adapter / "adapter_model.safetensors") for each in (first, second))
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert {"lora_A", "lora_B", "trainable_tokens_delta"} <= {part for name in moved for part in name.split(".")}
    # its own settings are those that are shown, not those of the group's file
    assert config.r == 2
    card = (second.adapter / "README.md").read_text(encoding="utf-8")
    assert "LoRA, rank 2, alpha 32" in card
    shown = (second.path / "csv" / "hparams.yaml").read_text(encoding="utf-8")
    assert "peft.r: 2\n" in shown
    assert "adapter peft.LoraConfig" in (second.path / "run.log").read_text(encoding="utf-8")
    provenance = second.read_json("provenance.json")
    assert provenance["continued_adapter"] == {"path": str(first.adapter), "sha256": adapter_sha256(first.adapter)}


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        ([], r"^model\.new_tokens: expected \[\"please\", \"<tool>\"\], which .* found \[\]; set 'model\.new_tokens="),
        (["<tool>", "please"], r"found \[\"<tool>\", \"please\"\]; set 'model\.new_tokens=\[\"please\", \"<tool>\"\]'"),
        ([*TOKENS, "<more>"], r"set 'model\.new_tokens=\[\"please\", \"<tool>\"\]'\.$"),
    ],
)
def test_other_tokens_than_the_trained_ones_are_refused(first: RunFolder, spare_base, tiny_config, tokens, said: str):
    """Without this, a base with spare rows would train the rows of tokens that its tokenizer lacks."""
    typed = (f"model.new_tokens={json.dumps(tokens)}", f"peft.from_adapter={first.path}")
    with pytest.raises(ModelError, match=said):
        check(tiny_config(f"model.path={spare_base}", "peft.r=2", *typed), typed)


def test_tokens_that_the_adapter_lacks_are_refused(tiny_config, run, spare_base: Path):
    plain = run()
    with pytest.raises(ModelError, match=r"expected none, which .* set 'model\.new_tokens=\[\]'"):
        check(tiny_config(f"model.path={spare_base}", NEW, f"peft.from_adapter={plain.path}"), ())
    assert check(tiny_config(f"model.path={spare_base}", f"peft.from_adapter={plain.path}"), ())[1:] == []


def test_an_adapter_that_changed_is_not_resumed_on(run, tmp_path: Path):
    start = run().adapter
    mine = Path(shutil.copytree(start, tmp_path / "start"))
    overrides = [f"peft.from_adapter={mine}", "peft.lora_dropout=0.1"]
    with pytest.raises(ConfigError, match=r"^peft\.lora_dropout: the adapter of peft\.from_adapter has 0\.0"):
        run(*overrides)
    (tmp_path / "run").mkdir()
    folder = run(overrides[0], folder=tmp_path / "run")
    weights = load_file(mine / "adapter_model.safetensors")
    save_file({name: 2 * tensor for name, tensor in weights.items()}, mine / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=r"^peft\.from_adapter: .*'adapter_model\.safetensors' changed; put it back"):
        run(overrides[0], folder=folder.path, resuming=True)


def test_another_base_is_refused_before_the_weights(run, tiny_config, tmp_path: Path):
    adapter = run().adapter
    tokenizer = make_tokenizer()
    wider = make_model(len(tokenizer)).config
    wider.hidden_size = 64
    type(make_model(len(tokenizer)))(wider).save_pretrained(tmp_path / "wide")
    tokenizer.save_pretrained(tmp_path / "wide")
    with pytest.raises(ModelError, match=r"^peft\.from_adapter: .* does not fit this base model: expected a weight of"):
        check(tiny_config(f"model.path={tmp_path / 'wide'}", f"peft.from_adapter={adapter}"), ())
    other = save_miniature("gpt2", tmp_path / "gpt2")
    with pytest.raises(ModelError, match=r"^peft\.from_adapter: .* expected a module '.*' in GPT2LMHeadModel, found"):
        check_adapter(adapter, ModelConfig(path=str(other)), other_base=True, key="peft.from_adapter")
    shutil.copytree(adapter, tmp_path / "adapter")
    file = tmp_path / "adapter" / "tokenizer.json"
    file.write_text(file.read_text(encoding="utf-8").replace('"<|user|>"', '"<|person|>"'), encoding="utf-8")
    with pytest.raises(ModelError, match=r"^peft\.from_adapter: the tokenizer in .* is not that of the base model"):
        check(tiny_config(f"peft.from_adapter={tmp_path / 'adapter'}"), ())


def test_a_configuration_that_says_nothing_is_damaged(run, tiny_config, tmp_path: Path):
    folder = Path(shutil.copytree(run().adapter, tmp_path / "adapter"))
    (folder / "adapter_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ModelError, match=r"^peft\.from_adapter: .*damaged: .*\(it names no peft_type\); export it"):
        check(tiny_config(f"peft.from_adapter={folder}"), ())


def test_the_method_and_its_rate_are_those_of_the_choice(tiny_config, model_folder: Path, tmp_path: Path):
    model = make_model(len(make_tokenizer()))
    get_peft_model(model, VeraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM")).save_pretrained(tmp_path)
    typed = [f"peft.from_adapter={tmp_path}", "optim.lr=null"]
    with pytest.raises(ConfigError, match=r"^peft: .* a VeraConfig, found LoraConfig; set peft=vera\.$"):
        check(tiny_config(*typed), tuple(typed))
    config = tiny_config("peft=vera", *typed)
    adapter = build_adapter_config(config)
    assert continued_adapter(config, adapter, ["peft=vera", *typed])
    prepared = prepare(config)
    rate = plan_training(config, prepared, adapter).peak_lr
    lora = plan_training(tiny_config("optim.lr=null"), prepared, build_adapter_config(tiny_config())).peak_lr
    factor = yaml.safe_load((REPOSITORY / "conf" / "peft" / "vera.yaml").read_text())["lr_factor"]
    assert rate == pytest.approx(factor * lora)
