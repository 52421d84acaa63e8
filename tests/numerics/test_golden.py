"""Twenty steps whose losses are committed: a change that is not meant to change numbers must not change these."""

import json
import os
from pathlib import Path

import pytest
import torch
from steps import lora_model, ragged_examples, train

GOLDEN = Path(__file__).parent / "golden_curve.json"


def test_golden_curve(tmp_path: Path):
    """To renew it after a change that is meant to: TUNELAB_RENEW_GOLDEN=1 pytest tests/numerics/test_golden.py."""
    _, figures = train(
        lora_model(torch.float64),
        ragged_examples(40, seed=7),
        tmp_path,
        num_steps=20,
        micro_batch_tokens=128,
        optimizer="torch.optim.AdamW",
        lr=5e-3,
    )
    curve = [{"loss": f["train/loss"], "grad_norm": float(f["train/grad_norm"]), "lr": f["train/lr"]} for f in figures]
    if os.environ.get("TUNELAB_RENEW_GOLDEN"):
        GOLDEN.write_text(json.dumps(curve, indent=1) + "\n", encoding="utf-8")
    expected = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert len(curve) == len(expected) == 20
    for found, wanted in zip(curve, expected, strict=True):
        # Loose enough for another instruction set, far tighter than any change of the algorithm.
        assert found == pytest.approx(wanted, rel=1e-7)
    assert curve[-1]["loss"] < curve[0]["loss"] - 0.5
