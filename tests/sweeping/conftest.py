"""`python train.py -m …` typed in this process: its jobs run in processes of their own, as always."""

import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.core.config_store import ConfigStore

REPOSITORY = Path(__file__).resolve().parents[2]
Sweep = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def sweep(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path, tiny_overrides: list[str]
) -> Sweep:
    """Type a sweep over the smallest runs, in `tmp_path`; `tiny=False`: over the embedded model and data."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")  # the command sets it: taken back afterwards
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))  # the same, and bits depend on it
    monkeypatch.setattr(ConfigStore.instance(), "repo", dict(ConfigStore.instance().repo))
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str, tiny: bool = True) -> subprocess.CompletedProcess[str]:
        usual = tiny_overrides if tiny else []
        monkeypatch.setattr(sys, "argv", [str(REPOSITORY / "train.py"), "-m", *usual, *arguments])
        capfd.readouterr()
        try:
            runpy.run_path(str(REPOSITORY / "train.py"), run_name="__main__")
            code: Any = 0
        except SystemExit as end:
            code = end.code or 0
        return subprocess.CompletedProcess(arguments, code, *capfd.readouterr())

    return call
