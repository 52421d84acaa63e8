"""What an adapter is put on: experts in one tensor, towers beside the text model, layers of quantising packages."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from families import miniature, save_miniature
from peft import PeftModel
from transformers import LlamaConfig, LlamaForCausalLM

from tunelab.config import ModelConfig
from tunelab.errors import ConfigError, ModelError
from tunelab.model.adapter import Start, attach_adapter, base_of, build_peft_config, count_parameters, load_adapter
from tunelab.model.covering import Coverage, coverage, fitted, linear_paths, outside_text, untied_end
from tunelab.model.initializing import check_started_layers
from tunelab.model.loading import load_base_model
from tunelab.model.matching import check_adapter
from tunelab.model.saving import export_model
from tunelab.model.targets import check_modules
from tunelab.model.tokenizer import load_tokenizer
from tunelab.model.tuning import Tuning

CPU = torch.device("cpu")
LORA = {"_target_": "peft.LoraConfig", "r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
ATTENTION = dict.fromkeys(("k_proj", "o_proj", "q_proj", "v_proj"), 2)
STACKS = dict.fromkeys(("experts.down_proj", "experts.gate_up_proj"), 2)
IDS = torch.arange(5, 25)[None]


def adapted(model, **options):
    """With an adapter that already does something."""
    wrapped = attach_adapter(model, build_peft_config({**LORA, **options}), seed=0)
    generator = torch.Generator().manual_seed(2)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1, generator=generator)
    return wrapped


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe", "olmoe"])
def test_all_linear_takes_the_experts_and_the_router_where_peft_knows_them(name: str):
    found = coverage(adapted(miniature(name)), everything=True)
    assert found == Coverage({**STACKS, "gate.weight": 2, **ATTENTION}, {}, ())


def test_what_all_linear_leaves_is_told_with_the_key_that_adds_it():
    found = coverage(adapted(miniature("gpt_oss")), everything=True)
    assert found == Coverage(ATTENTION, STACKS, ("down_proj", "gate_up_proj"))
    assert str(found) == (
        "the adapter is on 2 × k_proj, 2 × o_proj, 2 × q_proj, 2 × v_proj; left as they are: 2 × experts.down_proj, "
        "2 × experts.gate_up_proj (peft=lora takes the experts with 'peft.target_parameters=[down_proj,gate_up_proj]')"
    )
    more = coverage(adapted(miniature("gpt_oss"), target_parameters=list(found.experts)), everything=True)
    assert more == Coverage({**STACKS, **ATTENTION}, {}, ())
    assert more.to_dict() == {"adapted": {**STACKS, **ATTENTION}, "left": {}}
    assert coverage(adapted(miniature("llama"), target_modules=["q_proj"]), everything=False).left == {}
    assert coverage(miniature("llama"), everything=True) is None


@pytest.mark.parametrize("name", ["mixtral", "gpt_oss"])  # (experts, out, in), and transposed
def test_each_expert_has_a_product_of_its_own(name: str):
    model = adapted(miniature(name), target_parameters=["gate_up_proj", "down_proj"]).double().eval()
    base_of(model).set_experts_implementation("eager")
    with torch.no_grad():
        found = model(IDS).logits
        layers: list[Any] = [m for m in model.modules() if type(m).__name__ == "ParamWrapper" and m.num_experts > 1]
        assert len(layers) == 4
        for layer in layers:
            first, second = layer.lora_A["default"].weight, layer.lora_B["default"].weight
            stack, count, rank = layer.get_param(), layer.num_experts, len(first) // layer.num_experts
            for expert in range(count):
                change = (
                    second[:, expert::count] @ first[rank * expert : rank * (expert + 1)] * layer.scaling["default"]
                )
                stack[expert] += change.T if name == "gpt_oss" else change
            second.zero_()
        torch.testing.assert_close(model(IDS).logits, found, rtol=0, atol=1e-6)


def test_the_files_of_an_adapter_of_experts_are_checked_without_weights(tmp_path: Path):
    base = ModelConfig(path=str(save_miniature("mixtral", tmp_path / "base")))
    model = adapted(load_base_model(base, CPU))
    export_model(model, load_tokenizer(base), base.path, tmp_path / "adapter")
    check_adapter(tmp_path / "adapter", base)
    other = ModelConfig(path=str(save_miniature("mixtral", tmp_path / "other", num_local_experts=4)))
    with pytest.raises(ModelError, match=r"^adapter: .* does not fit this base model: expected a weight of shape"):
        check_adapter(tmp_path / "adapter", other, other_base=True)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"use_dora": True},
            r"^peft\.use_dora: .* one tensor a layer, found True; set 'peft\.target_modules=\[k_",
        ),
        (
            {"lora_dropout": 0.1},
            r"^peft\.lora_dropout: expected 0\.0 on experts .*, found 0\.1; set .* peft=lora\.$",
        ),
        ({"init_lora_weights": "mica"}, r"^peft\.init_lora_weights: expected True on experts .*, found 'mica'; set"),
        ({"target_modules": ["q_proj", "w1"]}, r"found 'w1'\. The experts .*\[down_proj,gate_up_proj\]'\.$"),
        ({"target_parameters": ["up_proj"]}, r"^peft\.target_parameters: .*down_proj, gate_up_proj\), found 'up_proj'"),
        ({"rank_pattern": {"gate_up": 2}}, r"^peft\.rank_pattern: .*found 'gate_up'; did you mean 'gate_up_proj'\?"),
    ],
)
def test_what_does_not_go_on_experts_is_refused_before_the_weights(options: dict, said: str, tmp_path: Path):
    base = ModelConfig(path=str(save_miniature("mixtral", tmp_path)))
    config = build_peft_config({**LORA, **options})
    with pytest.raises(ModelError, match=said):
        check_modules(config, None, base)
    others = {"target_modules": ["q_proj"], "target_parameters": None, "rank_pattern": {}}
    check_modules(build_peft_config({**LORA, **options, **others}), None, base)


def test_a_start_out_of_the_weights_of_experts_is_refused(tmp_path: Path):
    base = ModelConfig(path=str(save_miniature("mixtral", tmp_path)))
    config = build_peft_config({**LORA, "init_lora_weights": "pissa"})
    with pytest.raises(
        ConfigError, match=r"found model\.layers\.0\.mlp\.gate \(.*\(others: k_proj, o_proj, q_proj, v_p"
    ):
        check_started_layers(config, base)


@pytest.mark.parametrize(
    ("name", "node", "said"),
    [
        (
            "phi3",
            {"_target_": "peft.LNTuningConfig"},
            r"^peft: LNTuningConfig .* 'phi3' .*there are input_layernorm, no",
        ),
        (
            "gpt2",
            {"_target_": "peft.BeftConfig"},
            r"^peft: BeftConfig .* 'gpt2' .*there are c_attn, c_fc, c_proj\)",
        ),
        ("mixtral", {"_target_": "peft.IA3Config"}, r"^peft\.target_modules: .*, found 'w2' among PEFT's usual ones"),
        ("qwen3", {"_target_": "peft.AdaptionPromptConfig"}, r"^peft: AdaptionPromptConfig .* 'qwen3' \(Unsupported"),
    ],
)
def test_without_usual_modules_those_there_are_are_named(name: str, node: dict, said: str, tmp_path: Path):
    base = ModelConfig(path=str(save_miniature(name, tmp_path)))
    with pytest.raises(ModelError, match=said):
        check_modules(build_peft_config(node), None, base)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"target_modules": ["q_proj", "lm_head"]}, "on the head alone"),
        ({"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}, "on the embeddings alone"),
        ({"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True}, None),
        ({"target_modules": ["q_proj"]}, None),
    ],
)
def test_one_end_of_two_that_are_one_is_said(options: dict, said: str | None):
    tied = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=40, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
            tie_word_embeddings=True, pad_token_id=0,
        )
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*tie_word_embeddings")
        found = untied_end(attach_adapter(tied, build_peft_config({**LORA, **options}), seed=0))
    assert (said is None and found is None) or (said is not None and said in str(found))
    assert untied_end(tied) is None


def test_all_linear_leaves_what_mamba_reads_past_an_adapter():
    found = coverage(adapted(miniature("mamba")), everything=True)
    assert found == Coverage({"dt_proj": 2, "in_proj": 2, "x_proj": 2}, {"mixer.out_proj": 2}, ())


def test_a_whole_trained_module_is_not_left():
    assert coverage(adapted(miniature("qwen3"), modules_to_save=["lm_head"]), everything=True).left == {}


# --- a model of several modalities ---------------------------------------------------------------------------------


def test_a_vision_tower_has_no_part_in_text(tmp_path: Path):
    model = miniature("gemma3_vision")
    assert outside_text(model) == ("model.vision_tower", "model.multi_modal_projector")
    assert outside_text(miniature("gemma3")) == outside_text(miniature("gpt2")) == ()
    wrapped = adapted(model)
    names = [name for name, p in wrapped.named_parameters() if p.requires_grad]
    assert len(names) == 2 * 2 * 7
    assert all(".language_model." in name for name in names)
    wrapped(IDS).logits.sum().backward()
    assert all(p.grad is not None for p in wrapped.parameters() if p.requires_grad)
    assert coverage(wrapped, everything=True).left == {}


@pytest.mark.parametrize("excluded", [None, ["layers.0.self_attn.q_proj"], r".*layers\.0\.self_attn\.q_proj"])
def test_names_and_patterns_mean_the_text_model_alone(excluded):
    config = build_peft_config({**LORA, "target_modules": ["q_proj"], "exclude_modules": excluded})
    wrapped = attach_adapter(miniature("gemma3_vision"), config, seed=0)
    layers = range(2) if excluded is None else [1]
    assert wrapped.targeted_module_names == [f"model.language_model.layers.{n}.self_attn.q_proj" for n in layers]


def test_its_adapter_comes_back_in_plain_peft(tmp_path: Path):
    base = ModelConfig(path=str(save_miniature("gemma3_vision", tmp_path / "base")))
    with pytest.raises(ModelError, match=r"^peft\.target_modules: .*found 'fc1'\.$"):
        check_modules(build_peft_config({**LORA, "target_modules": ["q_proj", "fc1"]}), None, base)
    for name, targets in {"all": "all-linear", "some": ["q_proj", "v_proj"]}.items():
        model = adapted(load_base_model(base, CPU), target_modules=targets).eval()
        export_model(model, load_tokenizer(base), base.path, tmp_path / name)
        check_adapter(tmp_path / name, base)
        with torch.no_grad():
            expected = model(IDS).logits
            plain = PeftModel.from_pretrained(load_base_model(base, CPU).eval(), str(tmp_path / name))
            ours = load_adapter(load_base_model(base, CPU).eval(), tmp_path / name)
            assert torch.equal(plain(IDS).logits, expected)
            assert torch.equal(ours(IDS).logits, expected)


def test_full_fine_tuning_leaves_the_tower(tmp_path: Path):
    model = attach_adapter(miniature("gemma3_vision"), None, 0)
    frozen = {name.split(".")[1] for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"vision_tower", "multi_modal_projector"}
    attach_adapter(model, None, 0, Start(Tuning(num_layers=1)))
    assert {name.split(".")[3] for name, p in model.named_parameters() if p.requires_grad} == {"1"}


# --- layers of a quantising package -----------------------------------------------------------------------------------


class PackedLinear(torch.nn.Module):
    """Stands for the layers that GPTQ and AWQ are read into: no torch.nn.Linear, and no parameter."""

    def __init__(self, layer: torch.nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.register_buffer("qweight", torch.zeros(layer.in_features // 8, layer.out_features, dtype=torch.int32))


def packed():
    model = miniature("llama", tie_word_embeddings=False)
    for path in linear_paths(model):
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, PackedLinear(model.get_submodule(path)))
    return model


def test_all_linear_means_packed_layers_too():
    plain, model = miniature("llama", tie_word_embeddings=False), packed()
    config = build_peft_config(LORA)
    assert fitted(config, plain).target_modules == "all-linear"
    assert fitted(config, model).target_modules == set(linear_paths(model)) == set(linear_paths(plain))
    assert len(linear_paths(model)) == 2 * 7
    assert config.target_modules == "all-linear"


def test_packed_weights_count_as_what_they_stand_for():
    assert count_parameters(packed()).total == count_parameters(miniature("llama", tie_word_embeddings=False)).total


def test_a_package_that_peft_does_not_know_is_one_sentence():
    with pytest.raises(ModelError, match=r"^peft: the adapter does not fit this model \(Target module PackedLinear"):
        attach_adapter(packed(), build_peft_config(LORA), seed=0)
