"""Every method of conf/peft trains on the embedded model, exports, loads with PEFT alone, and starts from the seed."""

import json
import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import huggingface_hub.constants
import pytest
import torch
from families import miniature, save_miniature
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from peft import PeftModel, PromptLearningConfig, PromptTuningConfig, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tunelab.config import ModelConfig, Quantization
from tunelab.data.collating import collate
from tunelab.data.records import MicroBatch, TokenizedExample
from tunelab.embedded import locate
from tunelab.errors import ConfigError, ModelError
from tunelab.model.adapter import Start, attach_adapter, base_of, build_peft_config, load_adapter
from tunelab.model.budget import (
    add_regularizer_gradients,
    budget_state,
    plan_budget,
    prune_ranks,
    restore_budget,
    settle_ranks,
)
from tunelab.model.initializing import CHANGE_THE_BASE, as_plain_lora, changes_the_base, check_initialization
from tunelab.model.loading import load_base_model
from tunelab.model.saving import export_model
from tunelab.model.tokenizer import load_tokenizer
from tunelab.model.tuning import UNSUPPORTED_TYPES, read_tuning, refuse_contradictions
from tunelab.preflight import build_adapter_config, plan_training, prepare
from tunelab.training.checkpoint import read_checkpoint, write_checkpoint
from tunelab.training.objective import SftObjective, last_hidden_state

pytestmark = pytest.mark.slow

CONF = Path(__file__).resolve().parents[2] / "conf" / "peft"
METHODS = sorted(path.stem for path in CONF.glob("*.yaml"))
PROMPT_METHODS = ("cartridge", "p_tuning", "prefix_tuning", "prompt_tuning")  # virtual tokens have their own tests
CPU = torch.device("cpu")
NUM_STEPS = 20
NUM_LAYERS = 2  # of the embedded model's four: a method does the same in each

# Types of PEFT's list without a YAML of their own here, and why.
EXCLUDED = {
    **UNSUPPORTED_TYPES,
    "ADAMSS": "it needs scikit-learn, which tunelab does not; PEFT names the package",
}
# What is changed here: keys without which a method has no sense, and fewer layers for those that build a large matrix
# for each of them at each step.
CHANGED = {
    "trainable_tokens": {"token_indices": [2, 3, 4, 5]},
    "adaption_prompt": {"adapter_layers": NUM_LAYERS},
    **{name: {"target_modules": ["q_proj", "v_proj"]} for name in ("boft", "hra", "waveft")},
}


@pytest.fixture(scope="session")
def nodes() -> dict[str, tuple[dict, Quantization]]:
    """What each YAML composes to."""
    with initialize_config_dir(str(CONF.parent), version_base="1.3"):  # the group alone: the whole takes seconds
        composed = {name: compose(f"peft/{name}") for name in METHODS}
    plain = {name: OmegaConf.to_container(node) for name, node in composed.items()}
    for name, keys in CHANGED.items():
        plain[name]["peft"] |= keys
    return {
        name: (node["peft"], Quantization(node.get("model", {}).get("quantization", "none")))
        for name, node in plain.items()
    }


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model without its upper layers, and its tokenizer."""
    folder = tmp_path_factory.mktemp("tiny")
    base = load_base_model(ModelConfig(path="embedded:tiny"), CPU)
    base.model.layers = base.model.layers[:NUM_LAYERS]
    base.config.num_hidden_layers = NUM_LAYERS
    base.save_pretrained(folder)
    tokenizer_of().save_pretrained(folder)
    return folder


def test_every_type_of_peft_has_a_yaml_or_a_reason(nodes):
    configs = {name: build_peft_config(node) for name, (node, _) in nodes.items()}
    configured = {str(config.peft_type.value) for config in configs.values() if config is not None}
    types = {str(kind.value): cls for kind, cls in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    prompts = {name for name, cls in types.items() if issubclass(cls, PromptLearningConfig)}
    assert types.keys() - prompts - configured == EXCLUDED.keys()
    assert set(PROMPT_METHODS) == {name for name, each in configs.items() if each and each.is_prompt_learning}


def test_every_yaml_says_what_it_is():
    for name in METHODS:
        lines = (CONF / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
        first = next(line for line in lines if line.startswith("# ") and "@package" not in line)
        assert any(year in first for year in map(str, range(2019, 2027))) or name in ("none", "last_layers"), name


@cache
def tokenizer_of(path: str = "embedded:tiny"):
    return load_tokenizer(ModelConfig(path=path))


@cache
def examples() -> tuple[TokenizedExample, ...]:
    """The ends of two tickets, cut short."""
    tokenizer = tokenizer_of()
    text = Path(locate("embedded:tickets/train.jsonl")).read_text(encoding="utf-8")
    rows = [json.loads(line)["messages"] for line in text.splitlines()[:2]]
    ids = [tokenizer.apply_chat_template(row, return_dict=True)["input_ids"] for row in rows]
    chosen = [torch.tensor(ids[0][-24:]), torch.tensor(ids[1][-20:])]
    return tuple(TokenizedExample(each, torch.arange(len(each)) >= 1, "") for each in chosen)


def padded(rows: Sequence[TokenizedExample]) -> MicroBatch:
    return collate(rows, padded=True, pad_token_id=0)


def new_model(node: dict, quantization: Quantization, rows: Sequence[TokenizedExample], path: str = "embedded:tiny"):
    config = build_peft_config(node)
    plan_budget(config, NUM_STEPS)
    arguments = ("input_ids", "attention_mask", "labels")
    batches = [{name: getattr(padded([row]), name) for name in arguments} for row in rows]
    base = load_base_model(ModelConfig(path=path, quantization=quantization), CPU)
    return attach_adapter(base, config, 0, Start(read_tuning(node), batches))


def train(model, batch: MicroBatch, lr: float) -> list[float]:
    """The losses of a few steps, by the objective of the runs."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer, losses = torch.optim.AdamW(trained, lr=lr, weight_decay=0.0), []
    for step in range(NUM_STEPS):
        torch.manual_seed(step)
        sums = SftObjective(head_chunk_tokens=512)(model, batch)
        (sums.nll_sum / sums.token_count).backward()
        add_regularizer_gradients(model)
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        prune_ranks(model, step + 1)
        optimizer.zero_grad()
        losses.append(float(sums.nll_sum.detach() / sums.token_count))
    return losses


@torch.no_grad()
def logits(model, batch: MicroBatch) -> torch.Tensor:
    arguments = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    return model.eval()(**arguments).logits[batch.attention_mask.bool()]


# Twice the rank, or pruned ranks left out: the same sum in another order.
def assert_same(found: torch.Tensor, expected: torch.Tensor, exact: bool) -> None:
    if exact:
        assert torch.equal(found, expected)
    else:
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("name", [name for name in METHODS if name not in PROMPT_METHODS])
def test_a_method_trains_exports_and_loads(name: str, nodes, base_folder: Path, tmp_path: Path):
    node, quantization = nodes[name]
    config, path = build_peft_config(node), str(base_folder)
    rows = examples()
    batch = padded(rows)
    model = new_model(node, quantization, rows, path)
    losses = train(model, batch, 3e-3 * read_tuning(node).lr_factor * (0.1 if config is None else 1))
    assert losses[-1] < 0.95 * losses[0]

    # Training calls the decoder, evaluation the whole: both are the adapted model.
    after = logits(model, batch)
    assert torch.equal(logits(base_of(model), batch), after)
    alone = torch.cat([last_hidden_state(model, padded([row]))[0] for row in rows])
    torch.testing.assert_close(
        last_hidden_state(model, batch)[batch.attention_mask.bool()], alone, rtol=1e-3, atol=1e-3
    )

    # A checkpoint holds the trained weights only: everything else comes back from the seed.
    trained = {key: p.detach().clone() for key, p in model.named_parameters() if p.requires_grad}
    again = new_model(node, quantization, rows, path)
    again.load_state_dict(trained, strict=False)
    assert torch.equal(logits(again, batch), after)

    settle_ranks(model)
    plain = as_plain_lora(model)
    assert plain == changes_the_base(config)
    folder = tmp_path / "adapter"
    export_model(model, tokenizer_of(path), path, folder)
    exact = not plain and name != "adalora"
    if config is None:
        assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), batch), after)
        return
    base = ModelConfig(path=path, quantization=quantization)
    assert_same(logits(PeftModel.from_pretrained(load_base_model(base, CPU), str(folder)), batch), after, exact)
    assert_same(logits(load_adapter(load_base_model(base, CPU), folder), batch), after, exact)


# --- what single methods need ----------------------------------------------------------------------------------------


def test_loftq_starts_nearer_to_the_unquantised_weights(nodes):
    rows = examples()
    batch = padded(rows)
    whole = logits(load_base_model(ModelConfig(path="embedded:tiny"), CPU), batch)
    four_bit = logits(load_base_model(ModelConfig(path="embedded:tiny", quantization=Quantization.nf4), CPU), batch)
    started = logits(new_model(*nodes["loftq"], rows), batch)
    assert (started - whole).norm() < 0.9 * (four_bit - whole).norm()


def test_loftq_starts_from_the_version_that_was_loaded(nodes, base_folder: Path, tmp_path: Path, monkeypatch):
    """Two versions in the hub's cache, of which the run names the older one."""
    kept = tmp_path / "models--somebody--something"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs" / "main").write_text("b" * 40)
    for commit in ("a" * 40, "b" * 40):
        shutil.copytree(base_folder, kept / "snapshots" / commit)
    newer = kept / "snapshots" / ("b" * 40) / "model.safetensors"
    save_file({name: 2 * tensor for name, tensor in load_file(newer).items()}, newer, metadata={"format": "pt"})
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    node, quantization = nodes["loftq"]
    expected = new_model(node, quantization, [], str(base_folder)).state_dict()
    base = ModelConfig(path="somebody/something", revision="a" * 40, quantization=quantization)
    start = Start(read_tuning(node), revision=base.revision)
    found = attach_adapter(load_base_model(base, CPU), build_peft_config(node), 0, start).state_dict()
    for name, tensor in expected.items():
        if "lora_" in name:
            assert torch.equal(found[name], tensor)


def test_velora_does_not_depend_on_the_micro_batches(nodes, base_folder: Path):
    rows = examples()
    found = []
    for batches in ([padded(rows)], [padded([row]) for row in rows]):
        model = new_model(*nodes["velora"], [], str(base_folder)).double()
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.data.fill_(0.01)
        for batch in batches:
            SftObjective(head_chunk_tokens=512)(model, batch).nll_sum.backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    for name, whole in found[0].items():
        torch.testing.assert_close(found[1][name], whole, rtol=1e-9, atol=1e-9)


def test_adalora_prunes_to_its_budget_and_regularises(nodes, base_folder: Path):
    model = new_model(*nodes["adalora"], [], str(base_folder))
    factors = {n: p for n, p in model.named_parameters() if p.requires_grad and ("lora_A" in n or "lora_B" in n)}
    penalty = 0.0
    for name, factor in factors.items():
        product = factor.double() @ factor.double().T if "lora_A" in name else factor.double().T @ factor.double()
        penalty += (product - torch.eye(len(product))).square().sum().sqrt() / len(factors)
    (0.5 * penalty).backward()
    expected = {name: p.grad.clone() for name, p in factors.items()}
    model.zero_grad()
    add_regularizer_gradients(model)
    for name, factor in factors.items():
        torch.testing.assert_close(factor.grad, expected[name], rtol=1e-4, atol=1e-6)
    train(model, padded(examples()), 3e-3)
    left = sum(int((p != 0).sum()) for n, p in model.named_parameters() if "lora_E" in n)
    assert left == 8 * 7 * NUM_LAYERS  # target_r for each linear layer


def test_adalora_goes_on_as_if_it_had_not_stopped(nodes, base_folder: Path):
    """Importance sums and ranks are state; the rest is in the weights."""
    batch, arguments = padded(examples()), (*nodes["adalora"], [], str(base_folder))

    def steps(model, first: int, last: int) -> None:
        for step in range(first, last):
            sums = SftObjective(head_chunk_tokens=512)(model, batch)
            sums.nll_sum.backward()
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.requires_grad:
                        parameter -= 1e-3 * parameter.grad
            prune_ranks(model, step + 1)
            model.zero_grad()

    whole = new_model(*arguments)
    steps(whole, 0, 17)
    first = new_model(*arguments)
    steps(first, 0, 9)
    weights = {name: p.detach().clone() for name, p in first.named_parameters() if p.requires_grad}
    state = read_back(budget_state(first))
    second = new_model(*arguments)
    second.load_state_dict(weights, strict=False)
    restore_budget(second, state)
    steps(second, 9, 17)
    assert torch.equal(logits(second, batch), logits(whole, batch))
    assert budget_state(second)["rank_pattern"] == budget_state(whole)["rank_pattern"]


def read_back(state: dict) -> dict:
    """Through a checkpoint file."""
    with TemporaryDirectory() as folder:
        write_checkpoint({"rank_budget": state}, Path(folder) / "x.ckpt")
        return read_checkpoint(Path(folder) / "x.ckpt")["rank_budget"]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"total_step": 100}, "expected at most the 30 steps"),
        ({"tinit": 20, "tfinal": 10}, "remove these keys, or lengthen the run"),
        ({"init_r": 8}, r"peft\.init_r: expected more than peft\.target_r=8, found 8"),
    ],
)
def test_a_budget_that_cannot_be_kept_is_refused(keys: dict, said: str):
    config = build_peft_config(
        {"_target_": "peft.AdaLoraConfig", "target_modules": "all-linear", "target_r": 8, **keys}
    )
    with pytest.raises(ConfigError, match=said):
        plan_budget(config, 30)


def test_the_last_layers_alone_are_trained(nodes):
    model = new_model({"_target_": None, "num_layers": 2}, Quantization.none, [])
    trained = {name.split(".")[2] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"2", "3"}
    assert all(name.startswith("model.layers.") for name, p in model.named_parameters() if p.requires_grad)
    with pytest.raises(ModelError, match=r"^peft\.num_layers: expected at most the 4 decoder layers"):
        new_model({"_target_": None, "num_layers": 5}, Quantization.none, [])


LORA = {"_target_": "peft.LoraConfig", "target_modules": "all-linear"}


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"lora_alpha": -1}, r"peft\.lora_alpha: expected a number above 0, found -1"),
        ({"lora_dropout": 1.0}, r"peft\.lora_dropout: expected a fraction in \[0, 1\), found 1\.0"),
        ({"lr_factor": 0}, r"peft\.lr_factor: expected a number above 0"),
        ({"num_layers": 2}, r"peft\.num_layers: it says which layers full fine-tuning trains"),
        ({"velora_config": {"num_groups": 4}}, r"peft\.velora_config: it cannot be trained here .* init_type=random"),
        ({"_target_": "peft.ShadowConfig"}, "ShadowConfig cannot be trained here"),
        ({"_target_": "peft.AdaLoraConfig", "r": 8}, r"peft\.r: this method prunes peft\.init_r to peft\.target_r"),
    ],
)
def test_wrong_keys_are_refused_before_the_weights(keys: dict, said: str):
    node = {**LORA, **keys}
    with pytest.raises(ConfigError, match=said):
        build_peft_config(
            {key: node[key] for key in node if key != "target_modules" or "Shadow" not in node["_target_"]}
        )


@pytest.mark.parametrize(
    ("init", "num_examples", "quantization", "said"),
    [
        ("eva", 0, "none", "expected at least 1, which this initialisation looks at, found 0"),
        (True, 8, "none", "expected none for this method, found 8"),
        ("pissa", 0, "nf4", "pissa takes its start out of the base weights"),
        ("loftq", 0, "none", "expected nf4, whose error LoftQ starts from"),
    ],
)
def test_a_start_that_cannot_be_made_is_refused(init, num_examples: int, quantization: str, said: str):
    options = {"loftq_config": {"loftq_bits": 4}} if init == "loftq" else {}
    config = build_peft_config({**LORA, "init_lora_weights": init, **options})
    with pytest.raises(ConfigError, match=said):
        check_initialization(config, num_examples, quantization)


@pytest.mark.parametrize("init", CHANGE_THE_BASE)
@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("embed_tokens", r"found model\.embed_tokens \(Embedding\); leave it out"),
        ("lm_head", r"found lm_head, whose weights are the input embeddings too; leave it out"),
    ],
)
def test_a_start_is_not_taken_out_of_embeddings(init: str, module: str, said: str, tiny_config):
    keys = ("model.path=embedded:tiny", f"peft={init}")
    build_adapter_config(tiny_config(*keys))
    with pytest.raises(ConfigError, match=rf"^peft\.target_modules: expected linear layers .*{said}"):
        build_adapter_config(tiny_config(*keys, f"peft.target_modules=[q_proj,{module}]"))


def test_olora_is_refused_on_transposed_weights(tiny_config, tmp_path: Path):
    folder = f"model.path={save_miniature('gpt2', tmp_path)}"
    build_adapter_config(tiny_config(folder, "peft=pissa"))
    with pytest.raises(
        ConfigError, match=r"^peft\.init_lora_weights: .* as transformer\.h\.0\.attn\.c_attn .*peft=pissa\.$"
    ):
        build_adapter_config(tiny_config(folder, "peft=olora"))


@pytest.mark.parametrize(("init", "most"), [("pissa", 16), ("olora", 16), ("corda", 16), ("lora_ga", 8)])
def test_a_start_has_no_more_directions_than_its_layer(init: str, most: int, tiny_config):
    """Keys and values of the base are 16 wide."""
    build_adapter_config(tiny_config(f"peft={init}", f"peft.r={most}"))
    said = (
        rf"^peft\.r: expected at most {most}, .* model\.layers\.0\.self_attn\.k_proj, found 17; set peft\.r={most}\.$"
    )
    with pytest.raises(ConfigError, match=said):
        build_adapter_config(tiny_config(f"peft={init}", "peft.r=17"))


@pytest.mark.parametrize(
    "keys",
    [["peft=ln_tuning", "~peft.r"], ["peft=adaption_prompt", "~peft.r"], ["+peft.modules_to_save=[lm_head]"]],
    ids=str,
)
def test_float32_modules_do_not_compute_among_half_types(keys: list[str], tiny_config, tmp_path: Path):
    def plan(*more: str) -> None:
        config = tiny_config(f"output_dir={tmp_path}", *more)
        plan_training(config, prepare(config), build_adapter_config(config))

    half, single = "model.dtype=bfloat16", "trainer.precision=fp32"
    plan(half, single)
    plan(half, "trainer.precision=bf16", *keys)
    plan("model.dtype=float32", single, *keys)
    plan(half, single, "model.quantization=nf4", *keys)  # which makes the others float32
    with pytest.raises(
        ConfigError, match=r"^model\.dtype: expected float32, .* found bfloat16; set model\.dtype=float32 or"
    ):
        plan(half, single, *keys)


# --- going on from an adapter ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "adapter"
    model = new_model({**LORA, "r": 4, "init_lora_weights": False}, Quantization.none, [])
    export_model(model, tokenizer_of(), locate("embedded:tiny"), folder)
    return folder


def test_an_adapter_is_trained_on(saved: Path):
    batch = padded(examples())
    expected = logits(load_adapter(load_base_model(ModelConfig(path="embedded:tiny"), CPU), saved), batch)
    for path in (saved, saved.parent):  # a PEFT folder, a run folder
        model = new_model({**LORA, "from_adapter": str(path)}, Quantization.none, [])
        assert model.training
        assert model.active_peft_config.r == 4  # the adapter's own
        assert torch.equal(logits(model, batch), expected)
    losses = train(model.train(), batch, 3e-3)
    assert losses[-1] < 0.95 * losses[0]


def test_what_contradicts_the_adapter_is_refused(saved: Path):
    node = {**LORA, "r": 8, "from_adapter": str(saved)}
    config = build_peft_config(node)
    refuse_contradictions(node, config, ["peft.from_adapter=x", "seed=1"])
    with pytest.raises(ConfigError, match=r"^peft\.r: the adapter of peft\.from_adapter has 4, which stays, found 8"):
        refuse_contradictions(node, config, ["peft.r=8"])
    with pytest.raises(ConfigError, match="a LoraConfig, found VeraConfig; leave peft=… out"):
        refuse_contradictions({"_target_": "peft.VeraConfig"}, config, ["peft=vera"])


def test_half_an_adapter_is_refused(saved: Path, tmp_path: Path):
    with pytest.raises(ModelError, match=r"^peft\.from_adapter: expected a PEFT folder"):
        build_peft_config({**LORA, "from_adapter": str(tmp_path)})
    shutil.copy(saved / "adapter_config.json", tmp_path)
    with pytest.raises(ModelError, match="is incomplete or damaged"):
        build_peft_config({**LORA, "from_adapter": str(tmp_path)})
    content = (saved / "adapter_model.safetensors").read_bytes()
    (tmp_path / "adapter_model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match="is incomplete or damaged"):
        build_peft_config({**LORA, "from_adapter": str(tmp_path)})


def test_virtual_tokens_are_not_trained_on(tmp_path: Path):
    model = get_peft_model(miniature("llama"), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4))
    model.save_pretrained(str(tmp_path))
    with pytest.raises(ModelError, match=r"^peft\.from_adapter: .* holds virtual tokens"):
        build_peft_config({**LORA, "from_adapter": str(tmp_path)})


def test_a_start_taken_out_of_transposed_weights_comes_back():
    """GPT-2 keeps its weights (in, out)."""
    base = miniature("gpt2").eval()
    ids, before = torch.arange(3, 20)[None], base.transformer.h[0].attn.c_attn.weight.detach().clone()
    config = build_peft_config({**LORA, "r": 4, "init_lora_weights": "pissa", "target_modules": ["c_attn", "c_proj"]})
    model = attach_adapter(base, config, seed=0).eval()
    layer = model.get_base_model().transformer.h[0].attn.c_attn
    with torch.no_grad():
        layer.lora_B["default"].weight.add_(0.1)
        assert (layer.get_base_layer().weight - before).abs().max() > 1e-3
        expected = model(ids).logits
        assert as_plain_lora(model)
        torch.testing.assert_close(layer.get_base_layer().weight, before, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(model(ids).logits, expected, rtol=1e-3, atol=1e-3)
