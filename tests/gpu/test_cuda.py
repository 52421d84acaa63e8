"""What only a CUDA device can show: torch's varlen kernel, bfloat16, a 4-bit base, and the model staying where it is.

`pytest -m gpu`; skipped where there is no device. Builds its own model: no file, no network, no Hydra.
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from conftest import make_model, make_tokenizer
from peft import LoraConfig
from steps import LORA, ragged_examples, train

from tunelab.config import Attention, DType, ModelConfig, Precision, Quantization
from tunelab.data.collating import collate
from tunelab.data.records import TokenizedExample
from tunelab.evaluation.decoding import Decoding
from tunelab.evaluation.generating import generate
from tunelab.model.adapter import CausalLM, attach_adapter, base_of
from tunelab.model.attention import VARLEN
from tunelab.model.loading import load_base_model
from tunelab.training.doctor import choose_layout, diagnose
from tunelab.training.objective import SftObjective
from tunelab.training.trainer import autocast

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

CUDA = torch.device("cuda", 0)


def loss_and_gradients(model: CausalLM, examples: Sequence[TokenizedExample], padded: bool):
    model.zero_grad(set_to_none=True)
    with autocast(Precision.bf16, CUDA):
        sums = SftObjective(head_chunk_tokens=64)(model, collate(examples, padded, 0).to(CUDA))
    sums.nll_sum.backward()
    gradients = torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])
    return float(sums.nll_sum), gradients


def test_varlen_kernel_agrees_with_padding_and_with_the_cpu():
    examples = ragged_examples(12)
    model = attach_adapter(make_model(len(make_tokenizer())), LoraConfig(**LORA), seed=0).to(CUDA)
    padded_loss, padded_gradients = loss_and_gradients(model, examples, padded=True)
    base_of(model).set_attn_implementation(VARLEN)
    packed_loss, packed_gradients = loss_and_gradients(model, examples, padded=False)
    assert packed_loss == pytest.approx(padded_loss, rel=2e-2)
    assert torch.nn.functional.cosine_similarity(packed_gradients, padded_gradients, dim=0) > 0.99
    base_of(model).set_attn_implementation("sdpa")
    with torch.no_grad():
        exact = SftObjective(64)(model.cpu().double(), collate(examples, padded=True, pad_token_id=0)).nll_sum
    assert packed_loss == pytest.approx(float(exact), rel=2e-2)


def test_the_doctor_allows_padding_free_rows_in_bfloat16():
    model = attach_adapter(make_model(len(make_tokenizer())), LoraConfig(**LORA), seed=0).to(CUDA)
    diagnosis = diagnose(model, ragged_examples(3), 40, CUDA, lambda: autocast(Precision.bf16, CUDA))
    assert diagnosis.padding_free.holds, diagnosis.padding_free.reason
    assert diagnosis.fused_head.holds, diagnosis.fused_head.reason
    assert choose_layout(Attention.auto, diagnosis.padding_free) is False


@pytest.mark.parametrize("quantization", [Quantization.none, Quantization.nf4])
def test_train_then_generate_on_the_device(model_folder: Path, tmp_path: Path, quantization: Quantization):
    """Lightning moves a model to the CPU after training, which 4-bit weights do not survive: ours stays."""
    if quantization is Quantization.nf4 and importlib.util.find_spec("bitsandbytes") is None:
        pytest.skip("bitsandbytes is not installed")
    config = ModelConfig(path=str(model_folder), dtype=DType.bfloat16, quantization=quantization)
    model = attach_adapter(load_base_model(config, CUDA), LoraConfig(**LORA), seed=0)
    _, figures = train(
        model, ragged_examples(16), tmp_path, num_steps=6, lr=1e-2, optimizer="torch.optim.AdamW", device=CUDA
    )
    assert figures[-1]["train/loss"] < figures[0]["train/loss"]
    assert {parameter.device.type for parameter in model.parameters()} == {"cuda"}
    with autocast(Precision.bf16, CUDA):
        [completion] = generate(model, [[5, 6, 7]], Decoding(4, batch_tokens=64, end_token_ids=[1], pad_token_id=0))
    assert completion.finished or len(completion.token_ids) == 4


def test_a_smaller_budget_gives_the_same_adapter(tmp_path: Path):
    examples = ragged_examples(20)
    found = []
    for budget in (10_000, 64):
        model = attach_adapter(make_model(len(make_tokenizer())), LoraConfig(**LORA), seed=0).to(CUDA)
        weights, _ = train(
            model, examples, tmp_path / str(budget), num_steps=4, micro_batch_tokens=budget, padded=True, device=CUDA
        )
        found.append(torch.cat([w.flatten() for w in weights.values()]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-2, atol=1e-4)
