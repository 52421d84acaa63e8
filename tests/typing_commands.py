"""`train.py …` and `python -m tunelab …` typed in the test's process; jobs they start have their own."""

import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.core.config_store import ConfigStore

from tunelab import cli

REPOSITORY = Path(__file__).resolve().parents[1]
Typed = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Typed:
    """Type `train.py …`, or a command of tunelab, in `tmp_path`; taken as `typed = typing_commands.typed`."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")  # the command sets it: taken back afterwards
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))  # the same for jobs: bits depend on it
    monkeypatch.setattr(ConfigStore.instance(), "repo", dict(ConfigStore.instance().repo))
    monkeypatch.chdir(tmp_path)

    def call(command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        script = REPOSITORY / "train.py"
        named = [] if command == "train.py" else [command]
        monkeypatch.setattr(sys, "argv", [str(script), *named, *arguments])
        capfd.readouterr()
        try:
            if named:
                cli.main()
            else:
                runpy.run_path(str(script), run_name="__main__")
            code: Any = 0
        except SystemExit as end:
            code = end.code or 0
        return subprocess.CompletedProcess(arguments, code, *capfd.readouterr())

    return call
