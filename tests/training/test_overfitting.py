"""Whether a run overfitted, from its figures."""

import json
from pathlib import Path

import pytest

from tunelab.training.overfitting import read_overfitting


def write(path: Path, train: list[float], val: dict[int, float | None]) -> Path:
    lines = [{"step": step, "train/loss": loss} for step, loss in enumerate(train, start=1)]
    lines += [{"step": step, "val/loss": loss} for step, loss in val.items()]
    path.write_text("".join(json.dumps(line) + "\n" for line in sorted(lines, key=lambda line: line["step"])))
    return path


def test_a_loss_that_rises_again_is_a_warning(tmp_path: Path):
    path = write(tmp_path / "m.jsonl", [3.0] * 36 + [0.1, 0.2, 0.3, 0.4], {10: 1.2, 20: 0.8, 30: 0.9, 40: 1.0})
    found = read_overfitting(path)
    assert found.to_dict() == pytest.approx(
        {"best_step": 20, "best_val_loss": 0.8, "last_val_loss": 1.0, "train_loss": 0.25, "gap": 0.75}
    )
    assert "overfitting after step 20: the validation loss rose from 0.8 to 1" in found.warning(kept_step=20)
    assert "the weights of step 30 are kept" in found.warning(kept_step=30)  # by another figure


@pytest.mark.parametrize("val", [{10: 1.0, 20: 0.5}, {10: 0.5, 20: 0.505}])
def test_a_loss_that_falls_or_stays_is_none(tmp_path: Path, val):
    assert read_overfitting(write(tmp_path / "m.jsonl", [1.0] * 20, val)).warning(10) is None


@pytest.mark.parametrize(
    ("train", "val"), [([1.0], {}), ([], {1: 1.0}), ([1.0], {1: None}), ([float("inf")], {1: 1.0})]
)
def test_nothing_can_be_said(tmp_path: Path, train, val):
    assert read_overfitting(write(tmp_path / "m.jsonl", train, val)) is None
