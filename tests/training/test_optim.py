"""How optimizers are built: classes, parameter groups, rates; that they train, and go on where they stopped."""

from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import REPOSITORY, make_model, make_tokenizer
from peft import BeftConfig, LoraConfig, PromptTuningConfig
from safetensors.torch import load_file
from transformers import PreTrainedModel

from tunelab.audit import refuse_unread_keys
from tunelab.config import OptimConfig, RunConfig
from tunelab.errors import ConfigError
from tunelab.finetune import fine_tune
from tunelab.model.adapter import CausalLM, attach_adapter, trains_b_matrices
from tunelab.preflight import build_adapter_config, plan_training, prepare
from tunelab.run import RunFolder
from tunelab.training.checkpoint import LAST, PREVIOUS, read_checkpoint, write_checkpoint
from tunelab.training.optim import (
    CombinedOptimizer,
    Trained,
    build_optimizer,
    check_optimizer,
    set_learning_rate,
    suggested_learning_rate,
)

CPU = torch.device("cpu")
ADAMW = {"_target_": "torch.optim.AdamW", "betas": [0.9, 0.999]}
DECAYED = {**ADAMW, "weight_decay": 0.1}
MUON = {"_target_": "torch.optim.Muon"}
GROUP = sorted(path.stem for path in (REPOSITORY / "conf" / "optim").glob("*.yaml"))
PAGED = "ignore:Paged optimizers are not supported on CPU"


def build(
    node: dict, lr: float = 0.1, *, model: torch.nn.Module | None = None, scaled: bool = False, **settings: Any
) -> torch.optim.Optimizer:
    return build_optimizer(OptimConfig(optimizer=node, **settings), model or torch.nn.Linear(2, 2), lr, scaled)


def names_by_group(model: torch.nn.Module, optimizer: torch.optim.Optimizer, key: str) -> dict[Any, set[str]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {group[key]: {names[id(p)] for p in group["params"]} for group in optimizer.param_groups}


def lora(**changes: Any) -> CausalLM:
    settings = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **changes}
    return attach_adapter(make_model(len(make_tokenizer())), LoraConfig(**settings), seed=1)


def full() -> PreTrainedModel:
    return make_model(len(make_tokenizer())).requires_grad_(True)


def test_only_trained_parameters_are_optimised():
    model = torch.nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    [group] = build(ADAMW, 0.25, model=model).param_groups
    assert [parameter is model.weight for parameter in group["params"]] == [True]
    assert (group["lr"], list(group["betas"])) == (0.25, [0.9, 0.999])


@pytest.mark.parametrize(
    ("node", "scaled", "fused"),
    [
        (ADAMW, False, True),
        (ADAMW, True, False),  # float16: gradients are unscaled before they are clipped
        ({**ADAMW, "fused": False}, False, False),
        ({"_target_": "torch.optim.SGD"}, False, True),
        ({"_target_": "torch.optim.Adadelta"}, False, None),
    ],
)
def test_fused_where_there_is_such_a_kernel(node: dict, scaled: bool, fused: bool | None):
    optimizer = build(node, scaled=scaled)
    assert optimizer.defaults.get("fused") is fused


def test_fused_and_plain_steps_agree():
    def stepped(fused: bool) -> torch.Tensor:
        torch.manual_seed(0)
        model = torch.nn.Linear(7, 7, dtype=torch.float64)
        parameter = model.weight
        optimizer = build({**ADAMW, "fused": fused}, model=model)
        for _ in range(3):
            (parameter**3).sum().backward()
            optimizer.step()
        return parameter.detach()

    torch.testing.assert_close(stepped(True), stepped(False), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("node", [{}, {"_target_": None}, {"_target_": "torch.optim.lr_scheduler.StepLR"}])
def test_what_is_no_optimizer_is_refused(node: dict):
    with pytest.raises(ConfigError, match=r"^optim\.optimizer\._target_: expected a class of torch\.optim"):
        build(node)


@pytest.mark.parametrize(
    ("hidden_size", "adapter", "expected"), [(4096, True, 2.9e-4), (2000, True, 5e-4), (2000, False, 5e-5)]
)
def test_suggested_learning_rate_is_that_of_the_published_rule(hidden_size: int, adapter: bool, expected: float):
    assert suggested_learning_rate(hidden_size, adapter) == expected


@pytest.mark.parametrize("option", ["foreach", "differentiable"])
def test_what_excludes_a_fused_kernel_can_be_chosen(option: str):
    node = {"_target_": "torch.optim.AdamW", option: True}
    optimizer = build(node)
    assert optimizer.defaults[option] is True
    assert not optimizer.defaults["fused"]


# --- parameter groups ------------------------------------------------------------------------------------------------


def test_matrices_decay_and_vectors_do_not():
    model = full()
    found = names_by_group(model, build(DECAYED, model=model), "weight_decay")
    assert found.keys() == {0.1, 0.0}
    assert found[0.0] == {name for name, p in model.named_parameters() if p.ndim == 1}
    assert {name.split(".")[-2] for name in found[0.0]} == {"input_layernorm", "post_attention_layernorm", "norm"}
    assert "model.embed_tokens.weight" in found[0.1]


def test_a_bias_that_is_kept_as_a_row_does_not_decay():
    model = attach_adapter(make_model(len(make_tokenizer())), BeftConfig(task_type="CAUSAL_LM"), seed=1)
    (rate,) = names_by_group(model, build(DECAYED, model=model), "weight_decay")
    assert rate == 0.0
    assert {p.shape for p in model.parameters() if p.requires_grad} == {(1, 16)}


def test_the_decay_a_class_has_by_itself_counts():
    model = torch.nn.Linear(2, 2)
    found = names_by_group(model, build({"_target_": "torch.optim.AdamW"}, model=model), "weight_decay")
    assert found == {0.01: {"weight"}, 0.0: {"bias"}}


@pytest.mark.parametrize("node", [{**ADAMW, "weight_decay": 0.0}, {"_target_": "torch.optim.SGD"}])
def test_without_decay_there_is_one_group(node: dict):
    assert len(build(node, model=full()).param_groups) == 1


def test_vectors_stay_where_only_decay_would_move_them():
    model = torch.nn.Linear(2, 2)
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = build(DECAYED, model=model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert torch.equal(model.bias, before[1])
    torch.testing.assert_close(model.weight.detach(), before[0] * (1 - 0.1 * 0.1))


def test_lora_plus_multiplies_the_rate_of_b_at_every_step():
    model = lora()
    optimizer = build(ADAMW, 0.01, model=model, lora_plus_ratio=16.0)
    for lr in (0.01, 0.004, 0.0):
        set_learning_rate(optimizer, lr)
        found = names_by_group(model, optimizer, "lr_ratio")
        assert {group["lr"] for group in optimizer.param_groups} == {lr, 16 * lr}
        assert found[16.0] == {n for n, p in model.named_parameters() if p.requires_grad and "lora_B" in n}
        assert found[1.0] == {n for n, p in model.named_parameters() if p.requires_grad and "lora_A" in n}


def test_lora_plus_and_decay_go_together():
    model = lora(use_dora=True)
    optimizer = build(DECAYED, model=model, lora_plus_ratio=4.0)
    kinds = {(group["lr_ratio"], group["weight_decay"]) for group in optimizer.param_groups}
    assert kinds == {(1.0, 0.1), (4.0, 0.1), (1.0, 0.0)}  # A, B, DoRA's magnitudes


def test_lora_plus_moves_b_as_a_run_of_that_rate_would():
    def moved(lr: float, ratio: float | None, part: str) -> list[torch.Tensor]:
        model = lora()
        steps(model, build(ADAMW, lr, model=model, lora_plus_ratio=ratio), lr, range(1))
        return [p.detach() for name, p in model.named_parameters() if part in name]

    pairs = [*zip(moved(0.01, 4.0, "lora_B"), moved(0.04, None, "lora_B"), strict=True)]
    pairs += zip(moved(0.01, 4.0, "lora_A"), moved(0.01, None, "lora_A"), strict=True)
    assert all(torch.equal(first, second) for first, second in pairs)


def test_lora_plus_needs_b_matrices():
    with pytest.raises(ConfigError, match=r"^optim\.lora_plus_ratio: expected LoRA's B matrices .* found none"):
        build(ADAMW, lora_plus_ratio=16.0)


def test_the_rate_has_one_place():
    with pytest.raises(ConfigError, match=r"^optim\.rest\.lr: .*found 0\.5; set optim\.lr=<rate>"):
        build(MUON, rest={**ADAMW, "lr": 0.5})


# --- two optimizers --------------------------------------------------------------------------------------------------


def test_muon_has_the_hidden_matrices_and_adamw_the_rest():
    model = full()
    optimizer = build(MUON, model=model, rest=ADAMW)
    assert isinstance(optimizer, CombinedOptimizer)
    hidden, rest = optimizer.parts
    assert (type(hidden), type(rest)) == (torch.optim.Muon, torch.optim.AdamW)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {names[id(p)] for group in rest.param_groups for p in group["params"]}
    norms = {name for name, p in model.named_parameters() if p.ndim == 1}
    assert found == {"model.embed_tokens.weight", "lm_head.weight", *norms}
    assert sum(len(group["params"]) for group in hidden.param_groups) == 2 * 7


def test_what_an_adapter_trains_of_embeddings_is_no_hidden_matrix():
    """Rows of new tokens, and LoRA's factors of an embedding, are matrices only in their shape."""
    model = lora(target_modules=["q_proj", "embed_tokens"], trainable_token_indices={"lm_head": [3, 4]})
    hidden, rest = build(MUON, model=model, rest=ADAMW).parts
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    kinds = [{names[id(p)].split(".")[-2] for g in part.param_groups for p in g["params"]} for part in (hidden, rest)]
    assert kinds[0] == {"default"}  # q_proj.lora_A.default.weight
    assert kinds[1] == {"lora_embedding_A", "lora_embedding_B", "trainable_tokens_delta"}


def test_an_adapter_of_matrices_alone_needs_no_rest():
    assert type(build(MUON, model=lora(), rest=ADAMW)) is torch.optim.Muon


@pytest.mark.parametrize(
    "keys",
    [
        ["peft=ln_tuning"],
        ["peft=beft"],  # whose biases have the shape of a row
        ["peft=fourierft", "peft.n_frequency=50"],
        ["peft=trainable_tokens", "peft.token_indices=[3,4]"],
    ],
    ids=str,
)
def test_a_method_without_hidden_matrices_leaves_muon_nothing(keys: list[str], tiny_config, tmp_path: Path):
    config = tiny_config(f"output_dir={tmp_path}", "optim=muon", "~peft.r", *keys)
    adapter = build_adapter_config(config)
    with pytest.raises(ConfigError, match=r"^optim\.optimizer: expected hidden matrices .*; set optim=adamw\.$"):
        plan_training(config, prepare(config), adapter)


def test_virtual_tokens_leave_muon_nothing():
    prompts = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    model = attach_adapter(make_model(len(make_tokenizer())), prompts, seed=1)
    with pytest.raises(ConfigError, match=r"^optim\.optimizer: expected hidden matrices .* first prompt_encoder"):
        build(MUON, model=model, rest=ADAMW)


def test_muon_alone_refuses_vectors():
    with pytest.raises(
        ConfigError, match=r"^optim\.optimizer: Muon takes matrices only, found 1 other parameters, first bias; set"
    ):
        build(MUON)


def test_two_optimizers_step_as_each_would_alone():
    def stepped(node: dict, names: set[str], **settings: Any) -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = torch.nn.Linear(4, 4)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in names)
        optimizer = build(node, model=model, **settings)
        for lr in (0.1, 0.05, 0.02):
            set_learning_rate(optimizer, lr)
            sum(p.pow(2).sum() for p in model.parameters()).backward()
            optimizer.step()
            optimizer.zero_grad()
        return [p.detach() for p in model.parameters() if p.requires_grad]

    both = stepped(MUON, {"weight", "bias"}, rest=ADAMW)
    assert torch.equal(both[0], stepped(MUON, {"weight"})[0])
    assert torch.equal(both[1], stepped(ADAMW, {"bias"})[0])


def test_a_closure_runs_once():
    calls: list[int] = []
    assert build(MUON, rest=ADAMW).step(lambda: calls.append(1)) is None
    assert calls == [1]


# --- every optimizer of the group ------------------------------------------------------------------------------------


@cache
def batches() -> torch.Tensor:
    return torch.randint(5, 260, (6, 4, 12), generator=torch.Generator().manual_seed(0))


def steps(model: CausalLM, optimizer: torch.optim.Optimizer, lr: float, span: range) -> list[float]:
    """Train on one small batch after another; returns the losses."""
    losses: list[float] = []
    for step in span:
        ids = batches()[step % 2]
        set_learning_rate(optimizer, lr * (1 - step / 20))
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))
    return losses


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.filterwarnings(PAGED)
@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("name", GROUP)
def test_each_trains_and_goes_on_where_it_stopped(name: str, kind: str, compose_config, tmp_path: Path):
    """The second half from a checkpoint, with a fresh model and optimizer, gives the same bits."""
    if name.startswith("schedule_free"):
        pytest.importorskip("schedulefree", reason="needs schedulefree: pip install 'tunelab[optimizers]'")
    make = {"lora": lora, "full": full}[kind]
    config = compose_config(f"optim={name}").optim
    lr = config.lr_factor * (1e-2 if kind == "lora" else 2e-3)
    model = make()
    optimizer = build_optimizer(config, model, lr, False)
    losses = steps(model, optimizer, lr, range(4))
    write_checkpoint({"optimizer": optimizer.state_dict(), "weights": weights(model)}, tmp_path / "last.ckpt")
    losses += steps(model, optimizer, lr, range(4, 8))
    assert losses[-1] < losses[1]
    saved = read_checkpoint(tmp_path / "last.ckpt")
    again = make()
    again.load_state_dict(saved["weights"], strict=False)
    restored = build_optimizer(config, again, lr, False)
    restored.load_state_dict(saved["optimizer"])
    assert steps(again, restored, lr, range(4, 8)) == losses[4:]
    expected = weights(model)
    assert all(torch.equal(value, expected[key]) for key, value in weights(again).items())


@pytest.mark.parametrize("overrides", [["optim=muon", "peft=none"], ["optim=adamw_8bit", "peft=none"]], ids=str)
def test_a_run_resumes_with_the_same_bits(overrides: list[str], tiny_config, tmp_path: Path):
    """From the checkpoint of its third step, through Lightning."""
    config = tiny_config("~peft.r", *overrides, "optim.lr=2e-3", "optim.optimizer.weight_decay=0.1")
    folder = RunFolder(tmp_path)
    fine_tune(config, folder, [])
    expected = load_file(folder.adapter / "model.safetensors")
    (folder.checkpoints / LAST).unlink()
    assert read_checkpoint(folder.checkpoints / PREVIOUS)["global_step"] == 3
    fine_tune(config, folder, [], resuming=True)
    found = load_file(folder.adapter / "model.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def check(config: RunConfig) -> None:
    adapter = build_adapter_config(config)
    check_optimizer(config.optim, 0.1, 2, Trained(trains_b_matrices(adapter), adapter is None), CPU)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+optim.optimizer.weight_decy=0.1"], r"^optim\.optimizer\.weight_decy: AdamW has no such argument"),
        (
            ["optim.optimizer.betas=[0.9]"],
            r"^optim\.optimizer\.betas: AdamW .*, found \[0\.9\] \(.*; set 'optim\.optimizer\.betas=\[0\.9,0\.999\]'",
        ),
        (
            ["optim=muon", "optim.optimizer.adjust_lr_fn=other"],
            r"^optim\.optimizer\.adjust_lr_fn: Muon refused .*'other'",
        ),
        (
            ["optim=muon", "optim.rest.betas=[2,0.9]"],
            r"^optim\.rest\.betas: AdamW refused .*=\[0\.9,0\.999\]', its own",
        ),
        (
            ["optim=adamw_8bit", "optim.optimizer.betas=[2,0.9]"],
            r"^optim\.optimizer\.betas: AdamW8bit refused .*, its own",
        ),
        (
            ["optim=sgd", "optim.optimizer._target_=torch.optim.Muon", "peft=none", "~peft.r"],
            r"^optim\.optimizer: Muon takes matrices only, .*; set optim\.rest\._target_=torch\.optim\.AdamW",
        ),
        (
            ["peft=none", "~peft.r", "optim.lora_plus_ratio=16"],
            r"^optim\.lora_plus_ratio: expected LoRA's B matrices .* set peft=lora or optim\.lora_plus_ratio=null",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_the_optimizer_refuses_is_said_before_the_weights(overrides: list[str], message: str, tiny_config):
    config = tiny_config(*overrides)
    with pytest.raises(ConfigError, match=message):
        check(config)


@pytest.mark.parametrize(
    ("override", "unused"),
    [
        ("optim.num_cycles=2", True),
        ("optim.decay_shape=linear", True),
        ("optim.min_lr_fraction=0.1", False),
        ("optim.lora_plus_ratio=4", False),
    ],
)
def test_a_key_that_the_schedule_does_not_read_is_refused(override: str, unused: bool, tiny_config):
    config = tiny_config(override)
    check(config)
    with pytest.raises(ConfigError, match="nothing uses it") if unused else nullcontext():
        refuse_unread_keys(config, [override], below="optim.")


def test_the_group_is_what_the_documentation_lists():
    text = (REPOSITORY / "docs" / "optimizers.md").read_text(encoding="utf-8")
    assert [name for name in GROUP if f"`{name}`" not in text] == []
