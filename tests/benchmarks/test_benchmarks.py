"""The benchmarks still run: what they measure means nothing here."""

import json
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig

from tunelab.config import Accelerator, TrainerConfig
from tunelab.data.datamodule import StepPlan
from tunelab.model.adapter import attach_adapter

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.append(str(REPOSITORY / "benchmarks"))  # scripts that import each other, no package

from conftest import make_model, make_tokenizer  # noqa: E402
from forked_processes import Forked, script  # noqa: E402
from steps import LORA, ragged_examples  # noqa: E402
from tunelab_steps import time_steps  # noqa: E402


def test_two_steps_are_timed(tmp_path: Path):
    model = attach_adapter(make_model(len(make_tokenizer())), LoraConfig(**LORA), seed=0)
    plan = StepPlan.create(8, batch_size=4, seed=0, max_epochs=0, max_steps=2)
    trainer = TrainerConfig(accelerator=Accelerator.cpu, max_steps=2)
    times = time_steps(model, ragged_examples(8), plan, trainer, lr=1e-3, folder=tmp_path)
    assert len(times.ends) == len(times.cpu_ends) == len(times.losses) == len(times.grad_norms) == 2
    assert all(map(torch.isfinite, map(torch.tensor, times.losses)))


@pytest.mark.slow
def test_the_gpu_benchmark_runs_without_one(tmp_path: Path):
    arguments = ["--shape", "tiny", "--device", "cpu", "--steps", "1", "--warmup", "1", "--batch-size", "2"]
    path = tmp_path / "out.json"
    arguments += ["--ceiling-size", "64", "--methods", "lora", "--out", str(path)]
    code, printed = Forked(tmp_path / "printed", script, "benchmarks/sft_gpu.py", *arguments).ended(240)
    assert code == 0, printed
    row = json.loads(path.read_text(encoding="utf-8"))["methods"]["lora"]
    assert row["tokens_per_second"] > 0
