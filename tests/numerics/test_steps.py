"""Law 1: how a step is cut into micro-batches never changes the result; law 2: no mean of means."""

from pathlib import Path

import pytest
import torch
from steps import lora_model, ragged_examples, train

from tunelab.training.objective import SftObjective


def largest_relative_difference(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    assert found.keys() == expected.keys()
    return max(float((found[n] - expected[n]).norm() / expected[n].norm()) for n in expected)


@pytest.fixture(scope="module")
def whole_steps(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """Three steps of eight examples, each in one right-padded micro-batch with the model's own head."""
    folder = tmp_path_factory.mktemp("reference")
    weights, _ = train(lora_model(), ragged_examples(20), folder, num_steps=3, padded=True, fused_head=False)
    return weights


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("micro_batch_tokens", [1, 45, 97, 10_000])
def test_any_budget_and_layout_gives_the_same_adapter(
    whole_steps, tmp_path: Path, padded: bool, micro_batch_tokens: int
):
    weights, figures = train(
        lora_model(),
        ragged_examples(20),
        tmp_path,
        num_steps=3,
        padded=padded,
        micro_batch_tokens=micro_batch_tokens,
    )
    assert largest_relative_difference(weights, whole_steps) < 1e-9
    if not padded:
        assert all(f["num_tokens"] == f["num_real_tokens"] for f in figures)


def test_gradient_of_a_step_is_that_of_the_definition(tmp_path: Path):
    """One SGD step without clipping in reach: the change of the weights is minus lr times the gradient."""
    examples = ragged_examples(8)
    before = {n: p.detach().clone() for n, p in lora_model().named_parameters() if p.requires_grad}
    after, figures = train(lora_model(), examples, tmp_path, num_steps=1, micro_batch_tokens=50, lr=1e-3)
    model = lora_model()
    nll = sum(alone(model, example) for example in examples)
    (nll / sum(e.num_supervised_tokens for e in examples)).backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    norm = torch.stack([g.norm() for g in gradients.values()]).norm()
    assert float(figures[0]["train/grad_norm"]) == pytest.approx(float(norm), rel=1e-9)
    lr = figures[0]["train/lr"]
    expected = {n: before[n] - lr * gradients[n] / max(1.0, float(norm) + 1e-6) for n in before}
    assert (
        largest_relative_difference(
            {n: after[n] - before[n] for n in before}, {n: expected[n] - before[n] for n in before}
        )
        < 1e-6
    )


def alone(model, example) -> torch.Tensor:
    """Summed cross-entropy of one example from transformers' logits."""
    logits = model(input_ids=example.input_ids[None]).logits[0, :-1]
    wanted = example.loss_mask[1:]
    return torch.nn.functional.cross_entropy(logits[wanted], example.input_ids[1:][wanted], reduction="sum")


def test_mean_of_means_would_be_noticed(whole_steps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The check above can fail: with each micro-batch divided by its own count, the adapter differs."""
    original = SftObjective.__call__

    def mean_of_means(self, model, batch):
        sums = original(self, model, batch)
        scale = 40.0 / sums.token_count
        return type(sums)(sums.nll_sum * scale, sums.token_count, sums.num_correct)

    monkeypatch.setattr(SftObjective, "__call__", mean_of_means)
    weights, _ = train(lora_model(), ragged_examples(20), tmp_path, num_steps=3, micro_batch_tokens=45)
    assert largest_relative_difference(weights, whole_steps) > 1e-3
