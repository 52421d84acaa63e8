"""One job of a sweep in a process of its own: claims its folder, goes on from a checkpoint or starts anew, and ends."""

import atexit
import contextlib
import multiprocessing
import multiprocessing.connection
import os
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Generator
from pathlib import Path

from tunelab.compose import dump_config, load_config
from tunelab.config import RunConfig, mark_read
from tunelab.errors import CheckpointError, Interrupted, TunelabError
from tunelab.locking import held
from tunelab.process import interruptible, mend_streams
from tunelab.run import LOCK_FILE, RESUMABLE_KEYS, RunFolder, recorded
from tunelab.sharing import Shared
from tunelab.sweeping.folder import CLAIM
from tunelab.sweeping.orders import ELSEWHERE, LOG, Order
from tunelab.training.checkpoint import newest_checkpoint
from tunelab.worker import train_run


def run_process(order: Order) -> None:
    """Do what `order` says in this fresh process, and end it with the exit code of `python train.py`."""
    os.setsid()  # Ctrl-C goes to the sweep, which passes it on; what hangs is killed with its children
    _write_to(order.folder / LOG)
    threading.Thread(target=_stop_with_the_sweep, daemon=True).start()
    try:
        with interruptible():
            code = perform(order, Shared(order.shared) if order.shared else None)
    except Interrupted as error:
        code = error.exit_code
    atexit._run_exitfuncs()  # pyright: ignore[reportPrivateUsage] (as a program does at its end, and this does not)
    sys.stdout.flush()
    sys.exit(code)


def perform(order: Order, shared: Shared | None) -> int:
    """Run the job unless it is done or running elsewhere; return an exit code. What failed is recorded and printed.

    Raises:
        Interrupted: a signal came; that is recorded too, where the run had begun.
    """
    folder = RunFolder(order.folder)
    with held(folder.path / CLAIM) as mine:
        if not mine:
            return ELSEWHERE
        if not order.anew and folder.read_summary().get("status") == "finished":
            return 0  # another sweep was faster
        try:
            config, resuming = _open(folder, order)
            train_run(config, folder, order.overrides, resuming, shared)
        except TunelabError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        except Exception:  # recorded already; the sweep goes on
            traceback.print_exc()
            return 1
    return 0


def _open(folder: RunFolder, order: Order) -> tuple[RunConfig, bool]:
    """The configuration to run, and whether it goes on from a checkpoint."""
    if not order.anew and _can_go_on(folder):
        _forget_pruning(folder)
        return _marked(load_config(folder.path / "config.yaml", _knobs(order.config))), True
    with recorded_before(folder, order.config):
        _clear(folder.path)
        folder.write_overrides(order.overrides)
        folder.write_text("config.yaml", dump_config(order.config))
        return _marked(load_config(folder.path / "config.yaml")), False


@contextlib.contextmanager
def recorded_before(folder: RunFolder, config: RunConfig) -> Generator[None]:
    """Record what fails before the run itself begins to."""
    try:
        yield
    except Exception:
        with recorded(folder, config):
            raise


def _can_go_on(folder: RunFolder) -> bool:
    if not (folder.path / "config.yaml").is_file():
        return False
    try:
        newest_checkpoint(folder.checkpoints)
    except CheckpointError:
        return False
    return True


def _forget_pruning(folder: RunFolder) -> None:
    """What a search gave up and is wanted after all is no longer pruned."""
    summary = folder.read_summary()
    if summary.pop("pruned_at_step", None) is not None:
        folder.write_json("summary.json", {**summary, "status": "interrupted"})


def _knobs(config: RunConfig) -> list[str]:
    """The memory knobs of this start; what was saved keeps those of the first."""
    pairs = [key.split(".") for key in RESUMABLE_KEYS]
    return [f"{section}.{name}={getattr(getattr(config, section), name)}" for section, name in pairs]


def _marked(config: RunConfig) -> RunConfig:
    mark_read(config, "resume", "output_dir", "name")  # the sweep made the folder by them
    return config


def _clear(path: Path) -> None:
    """Delete what an earlier attempt left: files are added to, not replaced."""
    for entry in path.iterdir():
        if entry.name in (LOCK_FILE, CLAIM):
            continue
        if entry.name == LOG:
            os.truncate(entry, 0)  # this process writes to it
        elif entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _write_to(log: Path) -> None:
    """Let everything this process and its children print go to a file."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    mend_streams()
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, encoding="utf-8")  # pyright: ignore[reportAttributeAccessIssue]


def _stop_with_the_sweep() -> None:
    """Stop in order where the sweep was killed: nobody would hear of this job's end."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
