"""The loss is what the definition says: a sum over supervised tokens, divided by their number, once."""

import math

import pytest
import torch
import torch.nn.functional as F
from steps import lora_model, ragged_examples

from tunelab.data.collating import collate
from tunelab.data.records import TokenizedExample
from tunelab.model.adapter import base_of
from tunelab.model.attention import VARLEN
from tunelab.training.loss import linear_cross_entropy, token_cross_entropy
from tunelab.training.objective import SftObjective, supervised_positions


def nll_by_loop(model, example: TokenizedExample) -> float:
    """One token at a time, from the whole logits, in plain Python."""
    logits = model(input_ids=example.input_ids[None]).logits[0]
    total = 0.0
    for position in range(1, example.num_tokens):
        if example.loss_mask[position]:
            scores = logits[position - 1].tolist()
            largest = max(scores)
            log_norm = largest + math.log(math.fsum(math.exp(s - largest) for s in scores))
            total += log_norm - scores[int(example.input_ids[position])]
    return total


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("fused_head", [True, False])
def test_loss_equals_a_loop_over_tokens(padded: bool, fused_head: bool):
    model, examples = lora_model().eval(), ragged_examples(6)
    with torch.no_grad():
        each = [nll_by_loop(model, example) for example in examples]
        expected = math.fsum(each)
        if not padded:
            base_of(model).set_attn_implementation(VARLEN)
        batch = collate(examples, padded=padded, pad_token_id=0)
        objective = SftObjective(head_chunk_tokens=7, fused_head=fused_head)
        sums, per_example = objective(model, batch), objective.score_tokens(model, batch).per_example(len(examples))
    assert int(sums.token_count) == sum(example.num_supervised_tokens for example in examples)
    assert float(sums.nll_sum) == pytest.approx(expected, rel=1e-12)
    assert per_example[:, 0].tolist() == pytest.approx(each, rel=1e-12)
    assert per_example[:, 1].tolist() == [example.num_supervised_tokens for example in examples]
    assert float(per_example[:, 2].sum()) == int(sums.num_correct)


def test_loss_equals_hugging_face_on_one_batch():
    model, examples = lora_model().eval(), ragged_examples(5)
    batch = collate(examples, padded=True, pad_token_id=0)
    with torch.no_grad():
        theirs = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels).loss
        ours = SftObjective(head_chunk_tokens=64)(model, batch)
    assert float(ours.nll_sum) / int(ours.token_count) == pytest.approx(float(theirs), rel=1e-6)  # theirs: float32


def test_supervised_positions_shift_once_and_never_across_examples():
    first = TokenizedExample(torch.tensor([5, 6, 7]), torch.tensor([False, True, True]), "a")
    second = TokenizedExample(torch.tensor([8, 9]), torch.tensor([False, True]), "b")
    keep, targets = supervised_positions(collate([first, second], padded=False, pad_token_id=0).labels)
    assert keep.tolist() == [[True, True, False, True, False]]
    assert targets.tolist() == [6, 7, 9]


@pytest.mark.parametrize("chunk_tokens", [1, 5, 11, 100])
@pytest.mark.parametrize("with_bias", [True, False])
def test_chunked_head_has_the_value_and_gradients_of_the_plain_one(chunk_tokens: int, with_bias: bool):
    torch.manual_seed(0)
    hidden, weight = torch.randn(11, 6).double(), torch.randn(13, 6).double()
    bias = torch.randn(13).double() if with_bias else None
    targets = torch.randint(0, 13, (11,))
    inputs = [t.requires_grad_() for t in (hidden, weight, bias) if t is not None]
    plain = F.cross_entropy(F.linear(hidden, weight, bias), targets, reduction="sum")
    expected = torch.autograd.grad(plain * 0.3, inputs)
    chunked, num_correct = linear_cross_entropy(hidden, weight, bias, targets, chunk_tokens)
    found = torch.autograd.grad(chunked * 0.3, inputs)
    torch.testing.assert_close(chunked, plain, rtol=1e-12, atol=0)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)
    assert int(num_correct) == int((F.linear(hidden, weight, bias).argmax(-1) == targets).sum())


def test_a_frozen_head_gets_no_gradient():
    hidden, weight = torch.randn(4, 3, requires_grad=True), torch.randn(5, 3)
    nll, _ = linear_cross_entropy(hidden, weight, None, torch.tensor([0, 1, 2, 3]), 2)
    nll.backward()
    assert weight.grad is None
    assert hidden.grad is not None


def test_half_precision_logits_are_summed_in_float32():
    logits = torch.randn(2000, 50).to(torch.bfloat16)
    targets = torch.randint(0, 50, (2000,))
    nll, _ = token_cross_entropy(logits, targets)
    assert nll.dtype == torch.float32
    expected = F.cross_entropy(logits.double(), targets, reduction="sum")
    assert float(nll) == pytest.approx(float(expected), rel=1e-5)
