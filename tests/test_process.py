"""Output that nobody reads, or that cannot hold a character, ends no run."""

import io
import os
import subprocess
import sys

import pytest

from tunelab.process import mend_streams

PRINTS = """
from pathlib import Path
from tunelab.process import mend_streams
mend_streams()
from tunelab.terminal import RunConsole
console = RunConsole(Path("run.log"))
for number in range(3):
    console.print(f"line {number} ü" + " ." * 50_000, soft_wrap=True)
console.close()
Path("end").write_text("reached", encoding="utf-8")
"""


@pytest.mark.parametrize("output", ["| head -c 5", ">&-", "> out"])
def test_a_run_goes_on_whatever_its_output_is(output: str, quiet_environment, tmp_path):
    (tmp_path / "prints.py").write_text(PRINTS, encoding="utf-8")
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} prints.py {output}"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**quiet_environment, "PYTHONIOENCODING": "ascii", "PYTHONPATH": os.pathsep.join(sys.path)},
        timeout=120,
    )
    assert done.stderr == ""
    assert (tmp_path / "end").read_text(encoding="utf-8") == "reached"
    assert (tmp_path / "run.log").read_text(encoding="utf-8").count(" ü") == 3
    if output == "> out":
        assert (tmp_path / "out").read_bytes().count(b" ? .") == 3


def test_a_character_that_cannot_be_read_ends_nothing(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9\n"), encoding="utf-8"))
    mend_streams()
    assert sys.stdin.readline() == "caf\ufffd\n"
