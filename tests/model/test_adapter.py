"""Adapters: what is trained, from which start, and which modules there are."""

from pathlib import Path

import pytest
import torch
from families import miniature
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM

from tunelab.config import ModelConfig
from tunelab.errors import ConfigError, ModelError
from tunelab.model.adapter import (
    ParameterCount,
    Start,
    attach_adapter,
    base_of,
    build_peft_config,
    count_parameters,
    load_adapter,
    skip_input_casts,
)
from tunelab.model.loading import load_base_model
from tunelab.model.targets import check_modules
from tunelab.model.tuning import Tuning

CPU = torch.device("cpu")
LORA = {"_target_": "peft.LoraConfig", "r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
IDS = torch.tensor([[5, 9, 30, 77, 12]])


@pytest.fixture
def base(model_folder: Path):
    return load_base_model(ModelConfig(path=str(model_folder)), CPU)


def adapter_weights(model) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def test_parameters_counted_by_hand(base):
    total = sum(p.numel() for p in base.parameters())
    model = attach_adapter(base, build_peft_config(LORA), seed=0)
    # hidden 32, mlp 64, key and value 16 wide; each linear layer gets r * (in + out); 2 layers; no head
    by_hand = 2 * 4 * ((32 + 32) * 2 + (32 + 16) * 2 + (32 + 64) * 3)
    assert count_parameters(model) == ParameterCount(trainable=by_hand, total=total + by_hand)
    assert str(ParameterCount(1000, 50_000)) == "1,000 trainable of 50,000 parameters (2.00%)"


def test_full_fine_tuning_trains_everything(base):
    total = sum(p.numel() for p in base.parameters())
    model = attach_adapter(base.half(), build_peft_config({"_target_": None}), seed=0)
    assert count_parameters(model) == ParameterCount(total, total)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert base_of(model) is model


def test_the_seed_decides_where_training_starts(model_folder: Path):
    def start(seed: int) -> dict[str, torch.Tensor]:
        model = load_base_model(ModelConfig(path=str(model_folder)), CPU)
        torch.rand(seed + 3)  # whatever was drawn before does not matter
        return adapter_weights(attach_adapter(model, build_peft_config(LORA), seed))

    first, again, other = start(0), start(0), start(1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_a_fresh_adapter_changes_nothing(base):
    with torch.no_grad():
        before = base.eval()(IDS).logits
        model = attach_adapter(base, build_peft_config(LORA), seed=0).eval()
        assert torch.equal(model(IDS).logits, before)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.1)
        assert not torch.allclose(model(IDS).logits, before)
        with model.disable_adapter():
            assert torch.equal(model(IDS).logits, before)


def test_adapters_are_float32_on_a_half_base(model_folder: Path):
    from tunelab.config import DType

    base = load_base_model(ModelConfig(path=str(model_folder), dtype=DType.bfloat16), CPU)
    model = attach_adapter(base, build_peft_config(LORA), seed=0)
    assert {w.dtype for w in adapter_weights(model).values()} == {torch.float32}
    assert base_of(model).get_input_embeddings().weight.dtype == torch.bfloat16


def test_the_model_is_left_in_train_mode(base):
    assert attach_adapter(base.eval(), build_peft_config(LORA), seed=0).training


def test_an_unknown_module_lists_those_there_are(base):
    config = build_peft_config({**LORA, "target_modules": ["qq_proj"]})
    with pytest.raises(ModelError) as caught:
        attach_adapter(base, config, seed=0)
    assert "qq_proj" in str(caught.value)
    assert "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"target_modules": ["q_proj", "qq_proj"]},
            r"^peft\.target_modules: .*are down_proj, .*, v_proj\), found 'qq_proj'; did you mean '._proj'\?",
        ),
        (
            {"target_modules": "q_proj"},
            r"^peft\.target_modules: .* found the name 'q_proj'; set 'peft\.target_modules=\[q_proj\]'\.$",
        ),
        ({"target_modules": "*"}, r"^peft\.target_modules: expected modules of this model .*, found '\*'\.$"),
        ({"target_modules": "layers.*none"}, r"^peft\.target_modules: .*found 'layers\.\*none'\.$"),
        ({"modules_to_save": ["lm_heads"]}, r"^peft\.modules_to_save: .*'lm_heads'; did you mean 'lm_head'\?"),
        (
            {"target_modules": ["q_proj"], "layers_to_transform": [0, 2]},
            r"^peft\.layers_to_transform: expected numbers of decoder layers, from 0 to 1, found 2;",
        ),
        (
            {"trainable_token_indices": [3, 10**6]},
            r"^peft\.trainable_token_indices: expected ids of tokens from 0 to \d+, found 1000000; set",
        ),
        (
            {"target_modules": []},
            r"^peft\.target_modules: expected modules .* none named; .*\(there are down_proj",
        ),
        (
            {"exclude_modules": ".*"},
            r"^peft\.exclude_modules: expected modules that are left .* excluded by '\.\*'; exclude fewer, or leave",
        ),
    ],
)
def test_modules_are_found_before_the_weights(options: dict, said: str, model_folder: Path):
    base = ModelConfig(path=str(model_folder))
    for sound in ("all-linear", r".*\.q_proj", ["layers.0.mlp.up_proj", "q_proj"]):
        check_modules(build_peft_config({**LORA, "target_modules": sound}), None, base)
    check_modules(None, None, base)
    check_modules(None, 2, base)
    with pytest.raises(ModelError, match=r"^peft\.num_layers: expected at most the 2 decoder layers"):
        check_modules(None, 3, base)
    with pytest.raises(ModelError, match=said):
        check_modules(build_peft_config({**LORA, **options}), None, base)


def test_sizes_that_do_not_fit_are_found_before_the_weights(model_folder: Path):
    base, node = ModelConfig(path=str(model_folder)), {"_target_": "peft.BOFTConfig", "target_modules": ["q_proj"]}
    check_modules(build_peft_config({**node, "boft_block_size": 8}), None, base)
    with pytest.raises(ModelError, match=r"^peft\.boft_block_size: .*, found 7 \(in_features \(32\) must .*; set peft"):
        check_modules(build_peft_config({**node, "boft_block_size": 7}), None, base)


def test_no_target_means_no_adapter():
    assert build_peft_config({}) is None
    assert isinstance(build_peft_config(LORA), LoraConfig)


def test_skipping_input_casts_changes_no_bit_under_autocast(model_folder: Path):
    def loss_and_gradients(skip: bool) -> list[torch.Tensor]:
        base = load_base_model(ModelConfig(path=str(model_folder)), CPU)
        model = attach_adapter(base, build_peft_config(LORA), seed=0)
        torch.manual_seed(5)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        if skip:
            skip_input_casts(model)
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            logits = model(IDS).logits
        logits.float().logsumexp(-1).sum().backward()
        return [logits.detach(), *(p.grad for p in model.parameters() if p.requires_grad)]

    plain, skipped = loss_and_gradients(False), loss_and_gradients(True)
    assert plain[0].dtype == torch.bfloat16
    assert all(torch.equal(a, b) for a, b in zip(plain, skipped, strict=True))
    assert any(bool(gradient.abs().sum() > 0) for gradient in plain[1:])


def test_an_adapter_is_loaded_from_its_folder(base, model_folder: Path, tmp_path: Path):
    model = attach_adapter(base, build_peft_config(LORA), seed=3)
    assert isinstance(model, PeftModel)
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = model.eval()(IDS).logits
        again = load_adapter(AutoModelForCausalLM.from_pretrained(model_folder), tmp_path)
        assert torch.equal(again.eval()(IDS).logits, expected)


@pytest.mark.parametrize(
    ("name", "node"),
    [
        ("llama", {**LORA, "modules_to_save": ["lm_head", "norm"]}),
        ("gpt2", {**LORA, "bias": "all"}),
        ("llama", {"_target_": "peft.AdaptionPromptConfig", "adapter_len": 3, "adapter_layers": 2}),
    ],
    ids=["whole modules", "biases", "adaption prompts"],
)
def test_nothing_is_rounded_to_the_type_of_the_base(name: str, node: dict, tmp_path: Path):
    model = attach_adapter(miniature(name).bfloat16(), build_peft_config(node), seed=0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter)
    expected = adapter_weights(model)
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    found = dict(load_adapter(miniature(name).bfloat16(), tmp_path).named_parameters())
    for key, weight in expected.items():
        torch.testing.assert_close(found[key], weight, rtol=0, atol=0)
    assert {found[key].dtype for key in found.keys() - expected.keys()} == {torch.bfloat16}


def test_a_folder_without_adapter_is_refused(base, tmp_path: Path):
    with pytest.raises(ModelError, match=r"expected a PEFT folder with adapter_config\.json"):
        load_adapter(base, tmp_path)


def test_an_adapter_of_another_base_is_refused(base, tmp_path: Path):
    from transformers import LlamaConfig, LlamaForCausalLM

    model = attach_adapter(base, build_peft_config(LORA), seed=3)
    assert isinstance(model, PeftModel)
    model.save_pretrained(tmp_path)
    sizes = {"hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 2}
    other = LlamaForCausalLM(LlamaConfig(vocab_size=300, **sizes))
    with pytest.raises(ModelError, match="does not fit this base model"):
        load_adapter(other, tmp_path)


@pytest.mark.parametrize(
    "options",
    [{"target_modules": "*"}, {"target_modules": [1, 2]}, {"target_modules": ".*(", "r": 2}],
    ids=["pattern", "numbers", "bracket"],
)
def test_what_peft_cannot_match_is_one_sentence(base, options):
    with pytest.raises((ModelError, ConfigError), match=r"^peft: "):
        attach_adapter(base, build_peft_config({**LORA, **options}), seed=0)


def test_single_tokens_are_checked_and_their_embeddings_found(model_folder: Path):
    base, node = ModelConfig(path=str(model_folder)), {"_target_": "peft.TrainableTokensConfig"}
    check_modules(build_peft_config({**node, "token_indices": [3, 4]}), None, base)
    with pytest.raises(ModelError, match=r"^peft\.token_indices: expected ids of tokens from 0 to \d+, found -1; set"):
        check_modules(build_peft_config({**node, "token_indices": [3, -1]}), None, base)


def test_modules_to_save_must_exist(base):
    config = build_peft_config({**LORA, "modules_to_save": ["lm_heads"]})
    with pytest.raises(ModelError, match=r"^peft\.modules_to_save: .*'lm_heads'; did you mean 'lm_head'\?"):
        attach_adapter(base, config, seed=0)


def test_another_task_is_refused():
    with pytest.raises(ConfigError, match=r"^peft\.task_type: expected 'CAUSAL_LM', found 'SEQ_CLS'"):
        build_peft_config({**LORA, "task_type": "SEQ_CLS"})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"use_dora": "no"}, r"peft\.use_dora: expected true or false, found 'no'"),
        ({"bias": "lora"}, r"peft\.bias: expected 'none' or 'all' or 'lora_only', found 'lora'"),
        ({"init_lora_weights": "pisa"}, r"peft\.init_lora_weights: expected true or false or .*, found 'pisa'"),
        ({"modules_to_save": "lm_head"}, r"peft\.modules_to_save: expected a list, found 'lm_head'"),
        ({"rank_pattern": [4]}, r"peft\.rank_pattern: expected a mapping, found \[4\]"),
        ({"inference_mode": True}, r"peft\.inference_mode: expected false"),
        (
            {"target_modules": "all-linear", "layers_to_transform": [1]},
            r"peft\.target_modules: expected a list of names",
        ),
    ],
)
def test_an_argument_of_another_type_is_refused(options: dict, said: str):
    with pytest.raises(ConfigError, match=f"^{said}"):
        build_peft_config({**LORA, **options})


@pytest.mark.parametrize("start", ["gaussian", "pissa_niter_4", "PiSSA", "lora_ga", False])
def test_every_start_that_peft_has_passes(start):
    assert build_peft_config({**LORA, "init_lora_weights": start}).init_lora_weights == start


@pytest.mark.parametrize("damage", ["rename", "remove"])
def test_an_adapter_that_lacks_weights_is_refused(base, tmp_path: Path, damage):
    from safetensors.torch import load_file, save_file

    attach_adapter(base, build_peft_config(LORA), seed=0).save_pretrained(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    weights = load_file(file)
    first = min(weights)
    weight = weights.pop(first)
    save_file(weights | ({f"other.{first}": weight} if damage == "rename" else {}), file)
    with pytest.raises(ModelError, match=r"^adapter: .*1 of its weights are missing, first base_model"):
        load_adapter(load_base_model(ModelConfig(path=base.config._name_or_path), CPU), tmp_path)


@pytest.mark.parametrize("option", ["rank_pattern", "alpha_pattern"])
def test_a_pattern_that_no_module_has_is_refused(base, option: str):
    config = build_peft_config({"_target_": "peft.LoraConfig", "target_modules": "all-linear", option: {"nope": 4}})
    with pytest.raises(ModelError, match=rf"^peft\.{option}: .*, v_proj\), found 'nope'\.$"):
        attach_adapter(base, config, 0)


@pytest.mark.parametrize("rank", [0, "abc", 1.5, True])
def test_a_rank_is_checked_before_the_weights(rank):
    with pytest.raises(ConfigError, match=r"^peft\.r: expected an integer of at least 1"):
        build_peft_config({"_target_": "peft.LoraConfig", "target_modules": "all-linear", "r": rank})


def test_an_adapter_that_is_not_finite_is_refused(base, model_folder: Path, tmp_path: Path):
    adapted = attach_adapter(base, build_peft_config(LORA), 0)
    weight = next(parameter for parameter in adapted.parameters() if parameter.requires_grad)
    weight.data.fill_(float("nan"))
    adapted.save_pretrained(str(tmp_path), save_embedding_layers=False)
    fresh = load_base_model(ModelConfig(path=str(model_folder)), torch.device("cpu"))
    with pytest.raises(ModelError, match="1 of its weights are not finite, first"):
        load_adapter(fresh, tmp_path)


def test_the_last_layers_of_a_mixture_of_experts_are_decoder_layers():
    """Its lists of experts are as long as, or longer than, its list of layers."""
    from transformers import MixtralConfig, MixtralForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 8, "num_attention_heads": 2, "num_key_value_heads": 2}
    experts = {"num_local_experts": 6, "num_experts_per_tok": 2, "num_hidden_layers": 3}
    model = MixtralForCausalLM(MixtralConfig(vocab_size=64, **sizes, **experts))
    for layer in model.model.layers:  # as architectures whose experts are modules keep them
        layer.mlp.listed = torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(6))
        layer.mlp.as_many = torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(3))
    attach_adapter(model, None, 0, Start(Tuning(num_layers=2)))
    trained = {name.split(".")[2] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"1", "2"}
    assert all(p.requires_grad for layer in model.model.layers[1:] for p in layer.parameters())
