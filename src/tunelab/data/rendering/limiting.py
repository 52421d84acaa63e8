"""Stops a chat template that works without end: an alarm clock that costs next to nothing a rendering."""

import atexit
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from time import monotonic
from types import FrameType
from typing import Any

from tunelab.errors import DataError

LIMIT_SECONDS = 5.0  # of all renderings that one example needs
_TICK_SECONDS = 0.5
_MAIN = threading.main_thread().ident


class _TimedOutError(BaseException):
    """Raised by the clock; no template and no library catches it on the way."""


class _Clock:
    """Ticks while there is work, looks at the deadline at each tick, and stops itself when it finds nobody at work.

    Setting a timer for each rendering would cost more than the rendering.
    """

    def __init__(self) -> None:
        self.deadline: float | None = None
        self.ticking = False
        self.last_tick = 0.0
        self.before: Any = None

    def start(self) -> None:
        """Begin to watch, unless somebody else uses the process's one timer."""
        now = monotonic()
        self.deadline = now + LIMIT_SECONDS
        silent = now - self.last_tick > 10 * _TICK_SECONDS  # somebody else took the timer away
        if (silent or not self.ticking) and not signal.getitimer(signal.ITIMER_REAL)[0]:
            before = signal.signal(signal.SIGALRM, self._tick)
            self.before = self.before if self.ticking else before
            self.ticking, self.last_tick = True, now
            atexit.register(self._stop)  # a tick after python's handlers are gone would kill the process
            signal.setitimer(signal.ITIMER_REAL, _TICK_SECONDS, _TICK_SECONDS)

    def _tick(self, _number: int, _frame: FrameType | None) -> None:
        self.last_tick = monotonic()
        if self.deadline is None:
            self._stop()
        elif self.last_tick > self.deadline:
            self.deadline = None
            raise _TimedOutError

    def _stop(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self.before or signal.SIG_DFL)
        atexit.unregister(self._stop)
        self.ticking = False


_CLOCK = _Clock()


@contextmanager
def time_limit(origin: str, remedy: str) -> Generator[None, None, None]:
    """Raise DataError where the block takes longer than `LIMIT_SECONDS`; a limit inside another counts as one.

    The clock is an alarm signal, which only the main thread can take, where the platform has one and nobody else uses
    it at the moment; elsewhere there is no limit.
    """
    if threading.get_ident() != _MAIN or not hasattr(signal, "setitimer") or _CLOCK.deadline is not None:
        yield
        return
    try:
        _CLOCK.start()
        yield
    except _TimedOutError as error:
        raise DataError(
            f"{origin}: expected the chat template to render the conversation within {LIMIT_SECONDS:g} seconds, "
            f"found it still at work; {remedy}."
        ) from error
    finally:
        _CLOCK.deadline = None
