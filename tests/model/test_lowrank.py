"""The in-place low-rank product is PEFT's, value and gradients; and PEFT's own code wherever it is more than that."""

import copy
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from tunelab.model import lowrank
from tunelab.model.lowrank import add_low_rank_in_place


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """One entry for each in-place product."""
    calls: list[None] = []
    inner = lowrank._AddLowRank.apply

    def counted(*arguments):
        calls.append(None)
        return inner(*arguments)

    monkeypatch.setattr(lowrank._AddLowRank, "apply", counted)
    return calls


def network(**options) -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 4, bias=False)).double()
    settings = {"r": 3, "lora_alpha": 5, "target_modules": ["0", "2"], "init_lora_weights": False, **options}
    return get_peft_model(layers, LoraConfig(**settings)).double().train()


def result(model: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The output, and the gradients of the input and of all trained weights."""
    x = x.clone().requires_grad_()
    torch.manual_seed(1)
    output = model(x)
    output.square().sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    return output.detach(), {"x": x.grad, **gradients}


def assert_same(model: nn.Module, x: torch.Tensor, expected: tuple[torch.Tensor, dict[str, torch.Tensor]]) -> None:
    model.zero_grad()
    output, gradients = result(model, x)
    torch.testing.assert_close(output, expected[0], rtol=1e-12, atol=1e-12)
    assert gradients.keys() == expected[1].keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[1][name], rtol=1e-12, atol=1e-12, msg=name)


@pytest.mark.parametrize("shape", [(7, 6), (2, 5, 6), (1, 1, 6)])
@pytest.mark.parametrize("use_dora", [False, True], ids=["lora", "dora"])
def test_values_and_gradients_are_those_of_peft(shape, use_dora, products):
    model, x = network(use_dora=use_dora), torch.randn(shape, dtype=torch.float64)
    for name, parameter in model.named_parameters():
        if "magnitude" in name:
            parameter.data *= torch.linspace(0.5, 2.0, len(parameter), dtype=torch.float64)
    expected = result(model, x)
    assert not products
    assert add_low_rank_in_place(model) == 2
    assert_same(model, x, expected)
    assert len(products) == 2


def test_gradients_by_finite_differences():
    torch.manual_seed(0)
    frozen, x, first, second = (torch.randn(s, dtype=torch.float64) for s in ((5, 4), (5, 6), (3, 6), (4, 3)))
    inputs = [tensor.requires_grad_() for tensor in (x, first, second)]
    assert torch.autograd.gradcheck(lambda *t: lowrank._AddLowRank.apply(frozen.clone(), *t, 0.7), inputs)


@pytest.mark.parametrize(
    "options",
    [{"lora_dropout": 0.5}, {"use_dora": True, "lora_dropout": 0.5}, {"lora_bias": True}],
    ids=["dropout", "dora_with_dropout", "bias"],
)
def test_other_kinds_of_lora_are_left_to_peft(options, products):
    model = network(**options)
    if options.get("lora_bias"):
        model.base_model.model[2].lora_B["default"].bias.data.fill_(0.1)
    x = torch.randn(7, 6, dtype=torch.float64)
    expected = result(model, x)
    add_low_rank_in_place(model)
    assert_same(model, x, expected)
    assert not products


def test_rank_stabilised_scaling_is_taken_from_the_layer(products):
    model, x = network(use_rslora=True), torch.randn(7, 6, dtype=torch.float64)
    expected = result(model, x)
    add_low_rank_in_place(model)
    assert_same(model, x, expected)
    assert products


@pytest.mark.parametrize("use_dora", [False, True], ids=["lora", "dora"])
def test_evaluation_disabling_merging_and_a_second_adapter_are_left_to_peft(use_dora, products):
    model, x = network(use_dora=use_dora), torch.randn(7, 6, dtype=torch.float64)
    plain = copy.deepcopy(model)
    add_low_rank_in_place(model)
    assert torch.equal(model.eval()(x), plain.eval()(x))
    model.train()
    with model.disable_adapter(), plain.disable_adapter():
        assert torch.equal(model(x), plain(x))
    for each in (model, plain):
        each.add_adapter("second", LoraConfig(r=2, target_modules=["0"], init_lora_weights=False))
        for name, parameter in each.named_parameters():
            if "second" in name:
                parameter.data = torch.full_like(parameter, 0.01, dtype=torch.float64)
        each.base_model.set_adapter(["default", "second"])
        each.train()
    torch.testing.assert_close(model(x), plain(x), rtol=1e-12, atol=1e-12)
    assert not products
    model.merge_adapter()
    plain.merge_adapter()
    assert torch.equal(model(x), plain(x))


def test_a_deep_copy_uses_its_own_weights(products):
    model = network()
    add_low_rank_in_place(model)
    twin = copy.deepcopy(model)
    x = torch.randn(7, 6, dtype=torch.float64)
    before = twin(x).detach()
    for parameter in model.parameters():
        parameter.data.zero_()
    assert torch.equal(twin(x), before)


def test_under_autocast_as_peft_does(products):
    model, x = network().float(), torch.randn(16, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = result(model, x)
        add_low_rank_in_place(model)
        model.zero_grad()
        output, gradients = result(model, x)
    assert output.dtype == expected[0].dtype == torch.bfloat16
    assert products
    torch.testing.assert_close(output, expected[0], rtol=2e-2, atol=2e-2)
    for name, gradient in gradients.items():
        assert gradient.dtype == expected[1][name].dtype
        torch.testing.assert_close(gradient, expected[1][name], rtol=5e-2, atol=5e-2, msg=name)


def test_a_recomputed_layer_gives_the_same_gradients(products):
    model, x = network(), torch.randn(7, 6, dtype=torch.float64)
    expected = result(model, x)
    add_low_rank_in_place(model)
    recomputed = _Checkpointed(model)
    output, gradients = result(recomputed, x)
    torch.testing.assert_close(output, expected[0], rtol=1e-12, atol=1e-12)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[1][name.removeprefix("inner.")], rtol=1e-12, atol=1e-12)
    assert len(products) == 4  # twice each


class _Checkpointed(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.utils.checkpoint.checkpoint(self.inner, x, use_reentrant=False)


@pytest.mark.parametrize("use_dora", [False, True], ids=["lora", "dora"])
@pytest.mark.parametrize("half", [False, True], ids=["fp32", "bf16"])
def test_on_a_four_bit_base(model_folder: Path, products, half, use_dora):
    from tunelab.config import ModelConfig, Quantization
    from tunelab.model.adapter import attach_adapter, build_peft_config
    from tunelab.model.loading import load_base_model

    config = ModelConfig(path=str(model_folder), quantization=Quantization.nf4)
    adapter = {"_target_": "peft.LoraConfig", "r": 4, "target_modules": "all-linear", "init_lora_weights": False}
    adapter["use_dora"] = use_dora
    ids = torch.tensor([[5, 9, 30, 77, 12]])

    def step(in_place: bool) -> tuple[torch.Tensor, list[torch.Tensor]]:
        model = attach_adapter(load_base_model(config, torch.device("cpu")), build_peft_config(adapter), seed=0)
        if not in_place:
            for module in model.modules():
                vars(module).pop("forward", None)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            loss = model(ids, labels=ids).loss
        loss.backward()
        return loss.detach(), [p.grad for p in model.parameters() if p.requires_grad]

    expected, expected_gradients = step(in_place=False)
    assert not products
    loss, gradients = step(in_place=True)
    assert products
    rtol, atol = (5e-2, 5e-2) if half else (1e-4, 1e-5)
    torch.testing.assert_close(loss, expected, rtol=rtol, atol=atol)
    for gradient, wanted in zip(gradients, expected_gradients, strict=True):
        assert gradient.dtype == wanted.dtype
        torch.testing.assert_close(gradient, wanted, rtol=rtol, atol=atol * wanted.abs().max().item())
