"""What happens around the steps."""

import json
import math
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest

from tunelab.training import callbacks
from tunelab.training.callbacks import (
    Interrupted,
    MetricsWriter,
    OrderlyStop,
    RunCheckpoint,
    Speedometer,
    ValidateAtEnd,
    drop_lines_after,
    peak_memory,
)
from tunelab.training.module import CausalLMModule


class Clock:
    """Time that passes when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(callbacks, "time", clock)
    return clock


OUTPUTS = {"num_tokens": 100, "num_real_tokens": 80, "num_supervised_tokens": 30, "train/loss": 1.5, "train/lr": 0.1}


def trainer_at(step: int, **more):
    defaults = {"global_step": step, "is_global_zero": True, "world_size": 1, "loggers": [], "should_stop": False}
    strategy = SimpleNamespace(reduce_boolean_decision=lambda decision, all: decision)
    return SimpleNamespace(**{**defaults, "strategy": strategy, **more})


def validated(loss: float) -> CausalLMModule:
    module = CausalLMModule.__new__(CausalLMModule)
    module.__dict__["validation_metrics"] = {"val/loss": loss}
    return module


# --- figures ---------------------------------------------------------------------------------------------------------


def test_speed_is_tokens_over_time(clock: Clock):
    speed = Speedometer()
    speed.add(OUTPUTS, world_size=1)
    speed.add(OUTPUTS, world_size=1)
    clock.now += 4.0
    assert speed.metrics() == {
        "perf/tokens_per_second": 40.0, "perf/supervised_tokens_per_second": 15.0,
        "perf/padding_fraction": pytest.approx(0.2),
    }  # fmt: skip
    speed.restart()
    clock.now += 1.0
    assert set(speed.metrics().values()) == {0.0, 1.0}  # nothing yet, and no division by it


def test_speed_of_several_devices_is_their_sum(clock: Clock):
    speed = Speedometer()
    speed.add(OUTPUTS, world_size=2)
    clock.now += 1.0
    found = speed.metrics()
    assert (found["perf/tokens_per_second"], found["perf/supervised_tokens_per_second"]) == (160.0, 30.0)
    assert found["perf/padding_fraction"] == pytest.approx(0.2)


def test_no_time_at_all_is_no_division_by_zero(clock: Clock):
    speed = Speedometer()
    speed.add(OUTPUTS, world_size=1)
    assert math.isfinite(speed.metrics()["perf/tokens_per_second"])


def test_memory_is_counted_in_gib():
    assert 0.05 < peak_memory()["perf/peak_memory_gib"] < 1000


@pytest.mark.parametrize(
    ("text", "step", "kept"),
    [
        ('{"step": 1}\n{"step": 2}\n{"step": 3}\n', 2, [1, 2]),
        ('{"step": 1}\n{"step": 2, "train/lo', 2, [1]),
        ('{"step": 1}\n\n{"step": 2}', 5, [1, 2]),
        ('{"step": 3}\n', 0, []),
        ("", 4, []),
    ],
)
def test_lines_after_a_step_are_dropped(text: str, step: int, kept: list[int], tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(text, encoding="utf-8")
    drop_lines_after(path, step)
    assert [json.loads(line)["step"] for line in path.read_text(encoding="utf-8").splitlines()] == kept
    assert [item.name for item in tmp_path.iterdir()] == ["metrics.jsonl"]
    assert not kept or path.read_text(encoding="utf-8").endswith("\n")


def test_no_file_is_no_line(tmp_path: Path):
    drop_lines_after(tmp_path / "metrics.jsonl", 3)
    assert list(tmp_path.iterdir()) == []


def test_every_nth_step_and_the_last_are_written(tmp_path: Path, clock: Clock):
    heard: list[tuple[int, float]] = []
    path = tmp_path / "metrics.jsonl"
    logged = []
    logger = SimpleNamespace(log_metrics=lambda metrics, step: logged.append((step, metrics["train/loss"])))
    writer = MetricsWriter(path, 3, 7, lambda step, metrics: heard.append((step, metrics["train/loss"])))
    writer.on_train_start(trainer_at(0), validated(1.0))
    for step in range(1, 8):
        clock.now += 1.0
        writer.on_train_batch_end(trainer_at(step, loggers=[logger]), validated(1.0), OUTPUTS, None, step - 1)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [row["step"] for row in rows] == [3, 6, 7]
    assert [row["perf/tokens_per_second"] for row in rows] == [80.0] * 3
    assert heard == logged == [(3, 1.5), (6, 1.5), (7, 1.5)]
    assert "num_tokens" not in rows[0]


def test_one_process_writes(tmp_path: Path):
    writer = MetricsWriter(tmp_path / "metrics.jsonl", 1, 7, lambda step, metrics: pytest.fail("spoke"))
    writer.on_train_batch_end(trainer_at(1, is_global_zero=False), validated(1.0), OUTPUTS, None, 0)
    assert list(tmp_path.iterdir()) == []


# --- checkpoints -----------------------------------------------------------------------------------------------------


def saving(step: int, saved: list[tuple[int, str]]):
    return trainer_at(step, save_checkpoint=lambda path: saved.append((step, path.name)))


def test_checkpoints_at_their_turn_and_after_validations(tmp_path: Path):
    saved: list[tuple[int, str]] = []
    checkpoint = RunCheckpoint(tmp_path, 2, validates_at=lambda step: step % 4 == 0)
    for step in range(1, 5):
        checkpoint.on_train_batch_end(saving(step, saved), validated(1.0), {}, None, step - 1)
    assert saved == [(2, "last.ckpt")]
    for step, loss in ((4, 2.0), (8, 1.0), (12, 1.0), (16, 3.0)):
        checkpoint.on_validation_end(saving(step, saved), validated(loss))
    assert [step for step, name in saved if name == "best.ckpt"] == [4, 8]
    assert [step for step, name in saved if name == "last.ckpt"] == [2, 4, 8, 12, 16]
    again = RunCheckpoint(tmp_path, 2, validates_at=lambda step: False)
    again.load_state_dict(checkpoint.state_dict())
    assert (again.best_loss, again.best_step) == (1.0, 8)


def test_the_last_step_asks_to_stop():
    for step, stops in ((6, False), (7, True)):
        trainer = trainer_at(step)
        ValidateAtEnd(7).on_train_batch_end(trainer, validated(1.0), {}, None, step - 1)
        assert trainer.should_stop is stops


# --- an orderly stop -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_stops_after_the_step(number: signal.Signals, code: int, tmp_path: Path):
    saved: list[tuple[int, str]] = []
    before = signal.getsignal(number)
    stop = OrderlyStop(RunCheckpoint(tmp_path, None, lambda step: False), validates_at=lambda step: step == 2)
    stop.on_train_start(trainer_at(0), validated(1.0))
    try:
        stop.on_train_batch_end(saving(1, saved), validated(1.0), {}, None, 0)
        os.kill(os.getpid(), number)
        stop.on_train_batch_end(saving(2, saved), validated(1.0), {}, None, 1)  # its validation comes first
        assert saved == []
        with pytest.raises(Interrupted, match=f"stopped by {number.name}") as caught:
            stop.on_train_batch_end(saving(3, saved), validated(1.0), {}, None, 2)
        assert saved == [(3, "last.ckpt")]
        with pytest.raises(Interrupted):
            stop.on_validation_end(saving(4, saved), validated(1.0))
        assert caught.value.exit_code == code
    finally:
        stop.teardown(trainer_at(3), validated(1.0), "fit")
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path):
    stop = OrderlyStop(RunCheckpoint(tmp_path, None, lambda step: False), validates_at=lambda step: False)
    stop.on_train_start(trainer_at(0), validated(1.0))
    try:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        stop.teardown(trainer_at(3), validated(1.0), "fit")
