"""The GPU machine has torch, transformers, peft and Lightning, and nothing more: tests/gpu must be collected there."""

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
BARE = """
import sys
for name in ("hydra", "omegaconf", "bitsandbytes", "datasets"):
    sys.modules[name] = None  # importing it fails
import pytest
sys.exit(pytest.main(["tests/gpu", "--collect-only", "-q", "-p", "no:cacheprovider"]))
"""


@pytest.mark.slow
def test_the_gpu_tests_need_neither_hydra_nor_datasets(quiet_environment: dict[str, str]):
    command = [sys.executable, "-c", BARE]
    environment = {**quiet_environment, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # Hydra brings one
    done = subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tests/gpu/test_cuda.py: " in done.stdout  # and how many
