"""When training saves and when it stops."""

import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from doubles import trainer_at, validated
from pytorch_lightning.trainer.states import TrainerFn

from tunelab.errors import Interrupted
from tunelab.training.callbacks import OrderlyStop, QuietEarlyStopping, RunCheckpoint, ValidateAtEnd
from tunelab.training.monitoring import Monitor

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
    assert (again.best_value, again.best_step) == (1.0, 8)


def test_the_best_by_another_figure_and_where_it_is_a_tie_by_the_loss(tmp_path: Path):
    saved: list[tuple[int, str]] = []
    checkpoint = RunCheckpoint(tmp_path, None, lambda step: True, Monitor("val/exact_match", higher_is_better=True))
    for step, loss, match in (
        (1, 1.0, None),
        (2, 3.0, 0.5),
        (3, 2.0, 0.5),
        (4, 2.5, 0.5),
        (5, 1.0, 0.2),
        (6, 9.0, 0.6),
    ):
        figures = {} if match is None else {"val/exact_match": match}
        checkpoint.on_validation_end(saving(step, saved), validated(loss, **figures))
    assert [step for step, name in saved if name == "best.ckpt"] == [2, 3, 6]
    assert (checkpoint.best_value, checkpoint.best_step) == (0.6, 6)


def test_early_stopping_counts_the_validations_that_have_the_figure():
    stop = QuietEarlyStopping(2, Monitor("val/exact_match", higher_is_better=True))
    stopped = []
    for step, match in enumerate((0.5, None, 0.4, None, None, 0.5), start=1):
        figures = {} if match is None else {"val/exact_match": match}
        trainer = trainer_at(
            step, callback_metrics={"val/exact_match": torch.tensor(match or 0.0)}, fast_dev_run=False, current_epoch=0,
            state=SimpleNamespace(fn=TrainerFn.FITTING), sanity_checking=False,
        )  # fmt: skip
        stop.on_validation_end(trainer, validated(1.0, **figures))
        stopped.append(trainer.should_stop)
    assert stopped == [False, False, False, False, False, True]


def test_the_last_step_asks_to_stop():
    for step, stops in ((6, False), (7, True)):
        trainer = trainer_at(step)
        ValidateAtEnd(7).on_train_batch_end(trainer, validated(1.0), {}, None, step - 1)
        assert trainer.should_stop is stops


# --- an orderly stop -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
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
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        stop.teardown(trainer_at(3), validated(1.0), "fit")
