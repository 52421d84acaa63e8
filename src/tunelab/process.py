"""What a process shares with the system that runs it: its output streams and the signals that stop it."""

import contextlib
import ctypes
import io
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator
from types import FrameType
from typing import Any

from tunelab.errors import Interrupted

STOPPING_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_PR_SET_PDEATHSIG = 1  # of prctl(2)


def mend_streams() -> None:
    """Let no character end a run: a closed stream goes nowhere, what a stream cannot hold, or read, becomes `?`."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115 (for good)
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")


def listen(handler: Callable[[int, FrameType | None], None]) -> dict[int, Any]:
    """Call `handler` on each of the stopping signals, except those that are ignored (nohup); return who had them."""
    if threading.current_thread() is not threading.main_thread():
        return {}  # Python takes signals in the main thread only
    heard = [number for number in STOPPING_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in heard}


@contextlib.contextmanager
def interruptible() -> Generator[None]:
    """Raise Interrupted where a stopping signal comes; training, which saves first, takes the signals over."""
    before = listen(_interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_with_parent(parent: int) -> None:
    """Let this process be killed where `parent`, which has started it, is gone without a word, now or later.

    Nobody would stop it or hear of its end. On Linux the system does it, also where nothing of Python runs any more.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGKILL)


def _interrupt(number: int, frame: FrameType | None) -> None:
    del frame
    raise Interrupted(number)
