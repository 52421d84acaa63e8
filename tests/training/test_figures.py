"""Figures of training: how they are measured, when they are written, and to whom."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
from doubles import trainer_at, validated

from tunelab.training import figures
from tunelab.training.figures import MetricsWriter, Speedometer, drop_lines_after, peak_memory


class Clock:
    """Time that passes when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(figures, "time", clock)
    return clock


OUTPUTS = {"num_tokens": 100, "num_real_tokens": 80, "num_supervised_tokens": 30, "train/loss": 1.5, "train/lr": 0.1}


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


def test_foreign_lines_of_metrics_are_passed_over(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n\xff\xfe\n3\n{"loss": 2}\n{"step": "x"}\n{"step": 2}\n{"step": 9}\n')
    drop_lines_after(path, 2)
    assert path.read_text(encoding="utf-8") == '{"step": 1}\n{"step": 2}\n'
