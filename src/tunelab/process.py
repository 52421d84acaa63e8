"""What a process shares with the system that runs it: its output streams and the signals that stop it."""

import contextlib
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator
from types import FrameType
from typing import Any

from tunelab.errors import Interrupted

STOPPING_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


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


def _interrupt(number: int, frame: FrameType | None) -> None:
    del frame
    raise Interrupted(number)
