"""`tunelab export`: what it writes is read by PEFT and transformers alone, and its figures are those of plain loops."""

import errno
import json
import math
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from conftest import REPOSITORY
from exported_runs import IDS, LORA, plainly, write_adapter, write_run
from huggingface_hub import ModelCard
from model.families import save_miniature
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from tunelab.compose import load_config, to_config
from tunelab.config import (
    Combination,
    DataConfig,
    DType,
    EvaluateConfig,
    ExportConfig,
    ExportKind,
    ModelConfig,
    Quantization,
    forget_reads,
)
from tunelab.data.preparing import prepare_data
from tunelab.data.prompting import Prompter
from tunelab.data.records import Message, Role
from tunelab.data.rendering import decide_template
from tunelab.errors import CheckpointError, ConfigError, ModelError
from tunelab.evaluate import evaluate
from tunelab.export import exporting, merge
from tunelab.export.exporting import export
from tunelab.export.serving import Served, ollama_template, serving_commands
from tunelab.model.adapter import load_adapter
from tunelab.model.continuing import check_continued, continued_config
from tunelab.model.loading import load_base_model
from tunelab.model.tokenizer import load_tokenizer
from tunelab.run import open_run_folder


@pytest.fixture(scope="module")
def run_folder(tiny_config, tmp_path_factory) -> Path:
    return write_run(tiny_config("peft.r=4"), tmp_path_factory.mktemp("run"))


@pytest.fixture
def exported(tmp_path: Path):
    def make(run: Path | None = None, to: Path | None = None, typed: list[str] | None = None, **keys) -> Path:
        target = to or tmp_path / "out"
        config = ExportConfig(to=str(target), run=str(run) if run else None, **keys)
        forget_reads(config)
        folder = open_run_folder(str(run)) if run else None
        export(config, load_config(run / "config.yaml") if run else None, folder, typed or [])
        return target

    return make


def facts_of(folder: Path) -> dict:
    return json.loads((folder / "export.json").read_text())


def with_adapter(model_folder: Path, adapter: Path, **keys) -> dict:
    return {"model": ModelConfig(path=str(model_folder)), "adapter": str(adapter), **keys}


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits.float()


def test_an_adapter_goes_out_as_it_is_with_card_and_end_tokens(exported, run_folder, model_folder, tmp_path):
    folder = exported(run_folder)
    assert torch.equal(logits(plainly(model_folder, folder)), logits(plainly(model_folder, run_folder / "adapter")))
    message = [{"role": "user", "content": "what is it?"}]
    ours, theirs = (AutoTokenizer.from_pretrained(place) for place in (folder, model_folder))
    assert ours.apply_chat_template(message, tokenize=False) == theirs.apply_chat_template(message, tokenize=False)
    assert GenerationConfig.from_pretrained(folder).eos_token_id == [1]
    card = ModelCard((folder / "README.md").read_text())
    assert card.data.library_name == "peft"
    assert card.data.base_model is None  # a folder is no name on the hub
    assert "| test/loss (nats/token) | 3.0000 | 1.2500 |" in card.text
    assert 'model.generation_config = GenerationConfig.from_pretrained("<this folder>")' in card.text
    assert "SHA-256 `cd`" in card.text
    assert "python train.py name=run" in card.text
    again = exported(run_folder, to=tmp_path / "other" / "out")
    for name in ("README.md", "export.json", "generation_config.json"):
        assert (again / name).read_bytes() == (folder / name).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "out"]


def test_a_folder_of_runs_is_refused_with_the_newest_of_them(tmp_path):
    for name, time in (("a", 2), ("b", 1)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").touch()
        os.utime(tmp_path / name / "config.yaml", (time, time))
    with pytest.raises(ConfigError, match=f"set the newest in it, '{tmp_path / 'a'}', or another"):
        open_run_folder(str(tmp_path))


def test_what_other_programs_leave_beside_an_adapter_stays_there(exported, run_folder, model_folder, tmp_path):
    found = tmp_path / "checkpoint-5"
    shutil.copytree(run_folder / "adapter", found)
    (found / "optimizer.pt").write_bytes(b"x")
    settings = json.loads((found / "adapter_config.json").read_text()) | {
        "base_model_name_or_path": "~/elsewhere/base0"
    }
    (found / "adapter_config.json").write_text(json.dumps(settings))
    folder = exported(**with_adapter(model_folder, found, other_base=True))
    assert not (folder / "optimizer.pt").exists()
    named = json.loads((folder / "adapter_config.json").read_text())
    assert named == settings | {"base_model_name_or_path": str(model_folder), "revision": None}


def test_a_base_that_moved_is_said_with_what_helps(exported, run_folder, tmp_path):
    moved = tmp_path / "run"
    shutil.copytree(run_folder, moved)
    text = (moved / "config.yaml").read_text()
    [line] = [each for each in text.splitlines() if each.startswith("  path: ") and "base" in each]
    (moved / "config.yaml").write_text(text.replace(line, "  path: ./bases/gone"))
    with pytest.raises(ModelError, match=r"^run: expected its base model in the folder '\./bases/gone', found none"):
        exported(moved)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.3)])
def test_a_merged_model_is_the_base_with_its_adapter(exported, run_folder, model_folder, dtype, tolerance):
    folder = exported(run_folder, kind=ExportKind.merged, dtype=DType(dtype), max_examples=3)
    merged = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    assert str(merged.dtype) == f"torch.{dtype}"
    expected = logits(plainly(model_folder, run_folder / "adapter"))
    assert ((logits(merged) - expected).abs().max() / expected.std()).item() < tolerance
    found = facts_of(folder)["comparison"]
    reference = divergence(plainly(model_folder, run_folder / "adapter"), merged, run_folder)
    assert [found[key] for key in ("num_supervised_tokens", "kl_mean_nats", "kl_max_nats")] == pytest.approx(
        [reference["count"], reference["mean"], reference["max"]], rel=0.05, abs=1e-9
    )
    assert found["perplexity_after"] == pytest.approx(reference["perplexity"], rel=1e-2)
    assert "KL divergence" in (folder / "README.md").read_text()
    assert GenerationConfig.from_pretrained(folder).eos_token_id == [1]


def test_a_model_of_experts_is_merged(exported, tmp_path):
    """Its files have each expert by itself, the model in memory those of a layer in one tensor."""
    base = save_miniature("mixtral", tmp_path / "base")
    adapter = write_adapter(base, tmp_path / "adapter", {**LORA, "target_modules": ["q_proj", "v_proj"]})
    folder = exported(**with_adapter(base, adapter, kind=ExportKind.merged, max_examples=0))
    assert load_file(folder / "model.safetensors").keys() == load_file(base / "model.safetensors").keys()
    merged = AutoModelForCausalLM.from_pretrained(folder).eval()
    expected = logits(plainly(base, adapter))
    assert ((logits(merged) - expected).abs().max() / expected.std()).item() < 1e-4


def divergence(before, after, run: Path) -> dict[str, float]:
    """The same figures from whole logits and plain loops."""
    config = load_config(run / "config.yaml")
    data = prepare_data(config.data, load_tokenizer(config.model), run / "cache")
    terms, nll = [], 0.0
    for example in data.validation[:3]:
        ids, mask = example.tokenized.input_ids, example.tokenized.loss_mask
        with torch.no_grad():
            p, q = (model(ids[None]).logits[0].double().log_softmax(-1) for model in (before, after))
        for place in range(1, len(ids)):
            if mask[place]:
                terms.append(float((p[place - 1].exp() * (p[place - 1] - q[place - 1])).sum()))
                nll -= float(q[place - 1, ids[place]])
    perplexity = torch.tensor(nll / len(terms), dtype=torch.float64).exp().item()
    return {"count": len(terms), "mean": sum(terms) / len(terms), "max": max(terms), "perplexity": perplexity}


def test_what_was_trained_on_nf4_is_merged_onto_the_unquantised_base(exported, tiny_config, model_folder, tmp_path):
    run = write_run(tiny_config("model.quantization=nf4", "peft.r=4"), tmp_path / "run")
    folder = exported(run, kind=ExportKind.merged, max_examples=2)
    base, merged = load_file(model_folder / "model.safetensors"), load_file(folder / "model.safetensors")
    adapter = load_file(run / "adapter" / "adapter_model.safetensors")
    name = "model.layers.0.self_attn.q_proj"
    factors = [adapter[f"base_model.model.{name}.lora_{side}.weight"].double() for side in "BA"]
    expected = base[f"{name}.weight"].double() + 2 * factors[0] @ factors[1]
    torch.testing.assert_close(merged[f"{name}.weight"].double(), expected, rtol=1e-6, atol=1e-6)
    found = facts_of(folder)["comparison"]
    assert found["trained_as"] == "nf4 base, fp32"
    assert found["kl_mean_nats"] > 1e-4  # the error of nf4, which the merged model does not have


LOFTQ = {**LORA, "init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4}}


@pytest.fixture(scope="module")
def loftq_run(tiny_config, tmp_path_factory) -> Path:
    keys = ("model.quantization=nf4", "peft.r=4", "peft.init_lora_weights=loftq", "peft.loftq_config={loftq_bits: 4}")
    return write_run(tiny_config(*keys), tmp_path_factory.mktemp("loftq"), LOFTQ)


def test_what_makes_up_for_the_error_of_nf4_is_merged_onto_what_nf4_stands_for(exported, loftq_run, model_folder):
    folder = exported(loftq_run, kind=ExportKind.merged, max_examples=3)
    base, merged = load_file(model_folder / "model.safetensors"), load_file(folder / "model.safetensors")
    adapter = load_file(loftq_run / "adapter" / "adapter_model.safetensors")
    name = "model.layers.0.self_attn.q_proj"
    stored = dequantize_4bit(*quantize_4bit(base[f"{name}.weight"], quant_type="nf4", compress_statistics=True))
    factors = [adapter[f"base_model.model.{name}.lora_{side}.weight"].double() for side in "BA"]
    torch.testing.assert_close(
        merged[f"{name}.weight"].double(), stored.double() + 2 * factors[0] @ factors[1], rtol=1e-5, atol=1e-5
    )
    facts = facts_of(folder)
    assert facts["comparison"]["kl_max_nats"] < 1e-6  # the model as it was trained
    assert "nf4" in facts["merged_onto"]
    assert facts["trained_on"] == {"quantization": "nf4", "double_quantization": True, "start": "loftq"}


def test_it_goes_on_those_quantised_weights_only(exported, loftq_run, model_folder, tmp_path, capsys):
    folder = exported(loftq_run)
    assert "plain LoRA adapters only" in capsys.readouterr().out  # which others would put on the unquantised base
    card = (folder / "README.md").read_text()
    assert "trained on the base quantised to nf4, its constants too, from a start that makes up" in card
    assert 'BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)' in card
    wanted = r"set model\.quantization=nf4 model\.double_quantization=true\.$"
    with pytest.raises(ModelError, match=wanted):
        exported(**with_adapter(model_folder, folder, to=tmp_path / "no"))
    model = ModelConfig(path=str(model_folder), quantization=Quantization.nf4, double_quantization=False)
    with pytest.raises(ModelError, match=wanted):
        exported(model=model, adapter=str(folder), to=tmp_path / "no")
    model = ModelConfig(path=str(model_folder), quantization=Quantization.nf4)
    again = exported(model=model, adapter=str(folder), to=tmp_path / "again")
    assert facts_of(again)["trained_on"] == facts_of(folder)["trained_on"]
    plain = write_adapter(model_folder, tmp_path / "plain")
    with pytest.raises(ModelError, match="found one that makes up for the error of quantised weights"):
        exported(model=model, adapters=[str(folder), str(plain)], to=tmp_path / "no")


def test_it_is_trained_on_those_quantised_weights_only(exported, loftq_run, model_folder):
    folder = exported(loftq_run)
    config = continued_config(folder)
    with pytest.raises(ModelError, match=r"set model\.quantization=nf4 model\.double_quantization=true\.$"):
        check_continued(folder, config, ModelConfig(path=str(model_folder)))
    check_continued(folder, config, ModelConfig(path=str(model_folder), quantization=Quantization.nf4))


@pytest.mark.parametrize(
    ("quantization", "said"),
    [
        ("none", ", trained on the unquantised base. "),
        ("int8", ", trained on the base quantised to int8. "),
        (None, "; whether its base was quantised in training is not recorded. "),
    ],
)
def test_the_card_says_what_the_adapter_was_trained_on(
    exported, tiny_config, model_folder, tmp_path, quantization, said
):
    keys = [] if quantization is None else [f"model.quantization={quantization}"]
    run = write_run(tiny_config(*keys), tmp_path / "run")
    bare = with_adapter(model_folder, run / "adapter")
    folder = exported(**bare) if quantization is None else exported(run)
    assert said in (folder / "README.md").read_text()
    again = exported(**with_adapter(model_folder, folder, to=tmp_path / "again"))
    assert said in (again / "README.md").read_text()


def test_a_base_that_is_stored_quantised_is_not_merged_into(exported, run_folder, model_folder, tmp_path, monkeypatch):
    for loader in ("load_unquantized", "load_dequantized"):
        monkeypatch.setattr(merge, loader, None)
    stored = shutil.copytree(model_folder, tmp_path / "stored" / model_folder.name)
    config = json.loads((stored / "config.json").read_text())
    for method in ("gptq", "awq", "bitsandbytes"):
        (stored / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": method}}))
        with pytest.raises(
            ModelError, match=rf"not quantised for kind=merged, found .* stored by {method}; set kind=ada"
        ):
            exported(**with_adapter(stored, run_folder / "adapter", kind=ExportKind.merged))
    assert not (tmp_path / "out").exists()


def test_a_fully_tuned_model_goes_out_as_it_is(exported, tiny_config, tmp_path):
    run = write_run(tiny_config("peft._target_=null"), tmp_path / "run", node={})
    with pytest.raises(ConfigError, match="set kind=merged, which exports it as it is"):
        exported(run)
    folder = exported(run, kind=ExportKind.merged, max_examples=2)
    ours, theirs = (load_file(place / "model.safetensors") for place in (folder, run / "adapter"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert facts_of(folder)["comparison"]["kl_max_nats"] == 0
    assert "every weight trained" in (folder / "README.md").read_text()


def test_a_partly_tuned_model_says_so(exported, tiny_config, tmp_path):
    run = write_run(tiny_config("peft=last_layers", "peft.num_layers=1"), tmp_path / "run", node={"num_layers": 1})
    folder = exported(run, kind=ExportKind.merged, max_examples=0)
    assert "the last decoder layer trained" in (folder / "README.md").read_text()


# --- several adapters -------------------------------------------------------------------------------------------------


def changes(model_folder: Path, adapter: Path) -> dict[str, torch.Tensor]:
    """What an adapter adds to each weight, (out, in) in float64, by the definition of LoRA."""
    weights = load_file(adapter / "adapter_model.safetensors")
    config = json.loads((adapter / "adapter_config.json").read_text())
    scaling = config["lora_alpha"] / (config["r"] ** 0.5 if config["use_rslora"] else config["r"])
    names = [name.removesuffix(".lora_A.weight") for name in weights if name.endswith("lora_A.weight")]
    parts = {name: [weights[f"{name}.lora_{side}.weight"].double() for side in "BA"] for name in names}
    return {name: scaling * b @ a for name, (b, a) in parts.items()}


@pytest.fixture(scope="module")
def pair(model_folder, tmp_path_factory) -> tuple[Path, Path]:
    """Two adapters of different rank and scaling."""
    folder = tmp_path_factory.mktemp("pair")
    first = write_adapter(model_folder, folder / "first", {**LORA, "use_rslora": True}, seed=1)
    return first, write_adapter(model_folder, folder / "second", {**LORA, "r": 2}, seed=2)


def test_cat_is_the_exact_weighted_sum(exported, model_folder, pair):
    model = ModelConfig(path=str(model_folder))
    folder = exported(model=model, adapters=[str(each) for each in pair], weights=[0.25, -1.5])
    found, first, second = (changes(model_folder, place) for place in (folder, *pair))
    assert facts_of(folder)["mixture"]["combination"] == "cat"
    for name in first:
        torch.testing.assert_close(found[name], 0.25 * first[name] - 1.5 * second[name], rtol=1e-6, atol=1e-7)
    assert [path.name for path in folder.iterdir() if path.is_dir()] == []


def test_linear_sums_the_factors(exported, model_folder, pair, tmp_path):
    third = write_adapter(model_folder, tmp_path / "third", seed=3)
    keys = {"model": ModelConfig(path=str(model_folder)), "combination": Combination.linear}
    folder = exported(adapters=[str(pair[0]), str(third)], weights=[0.3, 0.7], **keys)
    weights = [load_file(place / "adapter_model.safetensors") for place in (pair[0], third)]
    scales = [(0.3 * 4) ** 0.5, (0.7 * 2) ** 0.5]  # alpha 8 over the root of rank 4, and over rank 4
    for name, found in changes(model_folder, folder).items():
        b, a = (
            sum(s * w[f"{name}.lora_{side}.weight"].double() for s, w in zip(scales, weights, strict=True))
            for side in "BA"
        )
        torch.testing.assert_close(found, b @ a, rtol=1e-5, atol=1e-6)
    with pytest.raises(ConfigError, match=r"one rank for linear, found ranks 4, 2; set combination=cat"):
        exported(adapters=[str(pair[0]), str(pair[1])], to=tmp_path / "no", **keys)


def test_ranks_that_do_not_fit_the_layers_are_refused(exported, model_folder, pair, tmp_path):
    """PEFT would write weights of other ranks than the configuration says, which no tool could load."""
    model = ModelConfig(path=str(model_folder))
    wide = write_adapter(model_folder, tmp_path / "wide", {**LORA, "r": 17})
    with pytest.raises(
        ConfigError, match=r"^combination: expected ranks of at most 16 for svd, .* found 17; set combin"
    ):
        exported(model=model, adapters=[str(pair[0]), str(wide)], combination=Combination.svd)
    uneven = [
        write_adapter(model_folder, tmp_path / str(seed), {**LORA, "rank_pattern": {"q_proj": 2}}, seed)
        for seed in (1, 2)
    ]
    adapters = list(map(str, uneven))
    with pytest.raises(
        ConfigError, match=r"^combination: expected one rank in all layers for linear, found a rank_pattern"
    ):
        exported(model=model, adapters=adapters, combination=Combination.linear)
    for combination in (Combination.cat, Combination.svd):
        folder = exported(model=model, adapters=adapters, combination=combination, to=tmp_path / combination.value)
        load_adapter(load_base_model(model, torch.device("cpu")), folder)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([{"layers_to_transform": [0]}, {"layers_to_transform": [1]}], r"layers_to_transform .* found \[0\] and \[1\]"),
        ([{}, {"exclude_modules": ["layers.1.self_attn.v_proj"]}], r"exclude_modules .* found None and \['layers.1"),
    ],
)
def test_layers_that_combining_would_lose_are_refused(exported, model_folder, tmp_path, options, said):
    node = {**LORA, "target_modules": ["q_proj", "v_proj"]}
    places = [write_adapter(model_folder, tmp_path / str(i), {**node, **keys}, i) for i, keys in enumerate(options)]
    model = ModelConfig(path=str(model_folder))
    with pytest.raises(ConfigError, match=rf"^adapters: expected one {said}.*; leave one of them out\.$"):
        exported(model=model, adapters=list(map(str, places)))
    same = [places[1], write_adapter(model_folder, tmp_path / "third", {**node, **options[1]}, 3)]
    folder = exported(model=model, adapters=list(map(str, same)), weights=[0.25, -1.5])
    found, first, second = (changes(model_folder, place) for place in (folder, *same))
    assert found.keys() == first.keys()
    for name in first:
        torch.testing.assert_close(found[name], 0.25 * first[name] - 1.5 * second[name], rtol=1e-6, atol=1e-7)


def test_what_cannot_be_combined_is_refused(exported, model_folder, pair, tmp_path):
    dora = write_adapter(model_folder, tmp_path / "dora", {**LORA, "use_dora": True})
    model = ModelConfig(path=str(model_folder))
    with pytest.raises(ModelError, match="expected plain LoRA adapters, found one with use_dora"):
        exported(model=model, adapters=[str(pair[0]), str(dora)])
    layers = write_adapter(model_folder, tmp_path / "layers")
    settings = json.loads((layers / "adapter_config.json").read_text())
    replicated = json.dumps({**settings, "layer_replication": [[0, 2]]})
    (layers / "adapter_config.json").write_text(replicated)
    with pytest.raises(ModelError, match=r"found one with layer_replication, .*; leave it out\."):
        exported(model=model, adapters=[str(layers), str(layers)])
    weights = load_file(dora / "adapter_model.safetensors")
    some = {name: weights[name] for name in sorted(weights) if "layers.0" in name and "magnitude" not in name}
    half = write_adapter(model_folder, tmp_path / "half")
    save_file(some, half / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=r"half' is incomplete: .* of its weights are missing"):
        exported(model=model, adapters=[str(pair[0]), str(half)])
    with pytest.raises(ConfigError, match=r"set density=0\.5"):
        ExportConfig(to="x", adapters=["a", "b"], combination=Combination.ties)
    with pytest.raises(ConfigError, match="weights: expected one for each of 2 adapters, found 1"):
        ExportConfig(to="x", adapters=["a", "b"], weights=[1.0])
    for weights in ([math.inf, 1.0], [math.nan, 1.0], [0.0, 0.0]):
        with pytest.raises(ConfigError, match="weights: expected finite numbers, not all of them 0, found"):
            ExportConfig(to="x", adapters=["a", "b"], weights=weights)
    assert not (tmp_path / "out").exists()


# --- what must not happen ---------------------------------------------------------------------------------------------


def test_a_merge_that_went_wrong_is_no_export(exported, run_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(merge, "merge_adapter", lambda model: model.unload())
    with pytest.raises(CheckpointError, match=r"the merge computed in float32 to be those of base and adapter"):
        exported(run_folder, kind=ExportKind.merged, max_examples=0)
    assert list(tmp_path.iterdir()) == []


def test_the_name_appears_last_and_a_full_disk_leaves_nothing(exported, run_folder, tmp_path, monkeypatch):
    def full(*_):
        assert not (tmp_path / "out").exists()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(exporting, "modelfile", full)
    with pytest.raises(ConfigError, match=r"to: '.*out' cannot be written \(No space left on device\)"):
        exported(run_folder)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "out").mkdir()
    with pytest.raises(ConfigError, match="expected a new folder"):
        exported(run_folder)


def test_a_data_group_composes_with_export():
    from hydra import compose, initialize_config_dir
    from hydra.core.config_store import ConfigStore

    ConfigStore.instance().store(name="export_schema", node=ExportConfig)
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        composed = to_config(compose("export", overrides=["data=tickets", "adapter=a", "to=b"]), ExportConfig)
    assert composed.data.path == "embedded:tickets/train.jsonl"


@pytest.fixture(scope="module")
def other_base(model_folder, tmp_path_factory) -> Path:
    """A wider base with the same tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("wide") / model_folder.name
    config = LlamaConfig.from_pretrained(model_folder)
    config.hidden_size, config.head_dim = 64, 16
    LlamaForCausalLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(model_folder).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", list(ExportKind))
def test_an_adapter_for_another_base_is_refused_before_weights(
    exported, run_folder, other_base, model_folder, tmp_path, kind, monkeypatch
):
    monkeypatch.setattr(merge, "load_unquantized", None)
    adapter = run_folder / "adapter"
    with pytest.raises(ModelError, match=r"does not fit this base model: expected a weight of shape \(64, 4\), found"):
        exported(**with_adapter(other_base, adapter, kind=kind))
    moved = tmp_path / "moved"
    load_base_model(ModelConfig(path=str(model_folder)), torch.device("cpu")).save_pretrained(moved)
    AutoTokenizer.from_pretrained(model_folder).save_pretrained(moved)
    with pytest.raises(ModelError, match=r"expected an adapter for model\.path=.*moved, found one for"):
        exported(**with_adapter(moved, adapter, kind=ExportKind.adapter))
    exported(**with_adapter(moved, adapter, kind=ExportKind.adapter, other_base=True))


def test_measuring_refuses_an_adapter_for_another_base_too(run_folder, other_base, data_file, tmp_path):
    data = DataConfig(path=str(data_file))
    keys = with_adapter(other_base, run_folder / "adapter", data=data, output_dir=str(tmp_path))
    with pytest.raises(ModelError, match="does not fit this base model"):
        evaluate(EvaluateConfig(**keys), None, None, [])


def test_another_vocabulary_is_refused(exported, run_folder, model_folder, tmp_path):
    moved = tmp_path / model_folder.name
    load_base_model(ModelConfig(path=str(model_folder)), torch.device("cpu")).save_pretrained(moved)
    text = (model_folder / "tokenizer.json").read_text()
    AutoTokenizer.from_pretrained(model_folder).save_pretrained(moved)
    (moved / "tokenizer.json").write_text(text.replace("<|system|>", "<|sys|>"))
    with pytest.raises(ModelError, match=r"is not that of the base model: expected '<\|sys\|>' with the id 2, found"):
        exported(**with_adapter(moved, run_folder / "adapter"))


def test_an_adapter_that_is_not_finite_is_no_export(exported, run_folder, model_folder, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(run_folder / "adapter", broken)
    weights = load_file(broken / "adapter_model.safetensors")
    weights[min(weights)] *= math.nan
    save_file(weights, broken / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=r"^adapter: expected finite weights in .*broken', found 1 that are not"):
        exported(**with_adapter(model_folder, broken, other_base=True))
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]


def test_half_an_adapter_is_refused(exported, run_folder, model_folder, tmp_path):
    half = tmp_path / "half"
    half.mkdir()
    (half / "adapter_config.json").write_bytes((run_folder / "adapter" / "adapter_config.json").read_bytes())
    with pytest.raises(ModelError, match=r"expected adapter_model\.safetensors"):
        exported(**with_adapter(model_folder, half))
    content = (run_folder / "adapter" / "adapter_model.safetensors").read_bytes()
    (half / "adapter_model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match="cannot be read"):
        exported(**with_adapter(model_folder, half))
    weights = load_file(run_folder / "adapter" / "adapter_model.safetensors")
    save_file(dict(list(weights.items())[::2]), half / "adapter_model.safetensors")
    with pytest.raises(
        ModelError, match=r"is incomplete: \d+ of its weights are missing, first base_model.*; export it"
    ):
        exported(**with_adapter(model_folder, half))


def test_virtual_tokens_cannot_be_merged(exported, model_folder, tmp_path):
    from peft import PromptTuningConfig, get_peft_model

    base = AutoModelForCausalLM.from_pretrained(model_folder)
    wrapped = get_peft_model(base, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    wrapped.save_pretrained(tmp_path / "prompt")
    with pytest.raises(ModelError, match="whose virtual tokens cannot be merged; set kind=adapter"):
        exported(**with_adapter(model_folder, tmp_path / "prompt", kind=ExportKind.merged))


def test_a_key_of_merging_is_refused_without_it(exported, run_folder):
    with pytest.raises(ConfigError, match="max_examples: set, but nothing uses it"):
        exported(run_folder, max_examples=3, typed=["max_examples=3"])


# --- other programs ---------------------------------------------------------------------------------------------------


def test_the_template_in_the_language_of_ollama(model_folder):
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    assert ollama_template(decide_template("chat", tokenizer), tokenizer) == (
        "{{ if .System }}<|system|>{{ .System }}<|end|>{{ end }}{{ range .Messages }}"
        '{{ if eq .Role "user" }}<|user|>{{ .Content }}<|end|><|assistant|>'
        '{{ else if eq .Role "assistant" }}{{ .Content }}<|end|>{{ end }}{{ end }}'
    )
    tokenizer.chat_template = (  # a default system message, and line breaks
        "{% if messages[0].role != 'system' %}<s>system\nBe good.</s>\n{% endif %}{% for m in messages %}"
        "<s>{{ m.role }}\n{{ m.content }}</s>\n{% endfor %}{% if add_generation_prompt %}<s>assistant\n{% endif %}"
    )
    assert ollama_template(decide_template("chat", tokenizer), tokenizer) == (
        "{{ if .System }}<s>system\n{{ .System }}</s>\n{{ else }}<s>system\nBe good.</s>\n{{ end }}"
        '{{ range .Messages }}{{ if eq .Role "user" }}<s>user\n{{ .Content }}</s>\n<s>assistant\n'
        '{{ else if eq .Role "assistant" }}{{ .Content }}</s>\n{{ end }}{{ end }}'
    )
    tokenizer.chat_template = (  # turns are numbered: no translation
        "{% for m in messages %}<{{ loop.index }}>{{ m.content }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<{{ messages | length + 1 }}>{% endif %}"
    )
    assert ollama_template(decide_template("chat", tokenizer), tokenizer) is None


@pytest.mark.parametrize("template", ["alpaca", "plain"])
@pytest.mark.parametrize("system", [None, "be brief"])
def test_plain_templates_in_the_language_of_ollama(model_folder, template, system):
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    chosen = decide_template(template, tokenizer)
    text = ollama_template(chosen, tokenizer)
    assert text is not None
    turns = [("user", "one"), ("assistant", "two"), ("user", "three")]
    messages = [Message(Role.SYSTEM, system)] if system else []
    messages += [Message(Role(role), content) for role, content in turns]
    ids = Prompter(chosen, tokenizer).prompt_ids(messages)
    assert played(text, system, turns) == tokenizer.decode(ids, clean_up_tokenization_spaces=False)


def played(text: str, system: str | None, turns: list[tuple[str, str]]) -> str:
    """What Go makes of a template of our shape."""
    head, _, loop = text.partition("{{ range .Messages }}")
    told, _, otherwise = head.removeprefix("{{ if .System }}").removesuffix("{{ end }}").partition("{{ else }}")
    asked, _, answered = loop.removesuffix("{{ end }}{{ end }}").partition('{{ else if eq .Role "assistant" }}')
    pieces = {"user": asked.removeprefix('{{ if eq .Role "user" }}'), "assistant": answered}
    start = otherwise if system is None else told.replace("{{ .System }}", system)
    return start + "".join(pieces[role].replace("{{ .Content }}", content) for role, content in turns)


def test_the_commands_of_other_programs():
    adapter = Served(Path("out"), "owner/base", is_adapter=True, rank=12, has_chat_template=True)
    shown = serving_commands(adapter)
    assert "vllm serve owner/base --enable-lora --max-lora-rank 16 --lora-modules out=out" in shown
    assert "--chat-template out/chat_template.jinja" in shown
    assert "convert_lora_to_gguf.py out --base out/base --outfile out.gguf" in shown
    special = Served(Path("out"), "owner/base", is_adapter=True, rank=None, has_chat_template=True)
    assert "kind=merged" in serving_commands(special)
    dated = replace(adapter, revision="refs/pr/1")
    assert "vllm serve owner/base --revision refs/pr/1 --enable-lora" in serving_commands(dated)
    assert "hf download owner/base --revision refs/pr/1 --local-dir" in serving_commands(dated)
    assert "vllm serve out\n" in serving_commands(Served(Path("out"), "owner/base", False, None, True))


def test_a_method_that_only_peft_reads_is_said_to_be_so(exported, model_folder, tmp_path, capsys):
    ia3 = {
        "_target_": "peft.IA3Config",
        "target_modules": ["k_proj", "down_proj"],
        "feedforward_modules": ["down_proj"],
    }
    folder = exported(**with_adapter(model_folder, write_adapter(model_folder, tmp_path / "ia3", ia3)))
    assert "plain LoRA adapters only" in capsys.readouterr().out
    assert "ia3" in (folder / "README.md").read_text()
