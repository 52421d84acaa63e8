"""Processes that start in milliseconds: forked from the server of sweeps, which has imported everything.

What they run are functions of modules, that can be imported again by name.
"""

import os
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tunelab.sweeping.machine import plan_machine
from tunelab.sweeping.pool import process_context

REPOSITORY = Path(__file__).resolve().parents[1]


class Forked:
    """A process under way; what it prints goes to a file. `code` as that of `subprocess`: minus the signal's number."""

    def __init__(self, output: Path, target: Callable[..., Any], *arguments: Any) -> None:
        self._output = output
        self._process = process_context(plan_machine(1, 1)).Process(target=_run, args=(output, target, arguments))
        self._process.start()

    def ended(self, seconds: float = 120) -> tuple[int | None, str]:
        """Its exit code (None: it did not end in time, and is killed) and what it printed."""
        self._process.join(seconds)
        code = self._process.exitcode
        if code is None:
            self._process.kill()
        return code, self._output.read_text(encoding="utf-8")


def script(path: str, *arguments: str) -> None:
    """`python <path> <arguments>`; the path is within the repository."""
    file = REPOSITORY / path
    sys.argv = [str(file), *arguments]
    sys.path.insert(0, str(file.parent))
    runpy.run_path(str(file), run_name="__main__")


def _run(output: Path, target: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    target(*arguments)
    sys.stdout.flush()
