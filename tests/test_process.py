"""Output that nobody reads, or that cannot hold a character, ends no run."""

import io
import os
import signal
import subprocess
import sys
from typing import Any

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


HANGS = """
import os, signal, sys
from tunelab.process import end_with_parent
end_with_parent(int(sys.argv[1]))
print("hangs", flush=True)
if sys.platform == "linux":
    os.kill(os.getpid(), signal.SIGSTOP)  # no thread of it runs any more
signal.pause()
"""
STARTS = """
import os, subprocess, sys
subprocess.Popen([sys.executable, "hangs.py", str(os.getpid())], start_new_session=True, stdin=subprocess.PIPE)
sys.stdin.readline()
"""


def test_a_process_ends_with_the_one_that_started_it(quiet_environment, tmp_path):
    (tmp_path / "hangs.py").write_text(HANGS, encoding="utf-8")
    (tmp_path / "starts.py").write_text(STARTS, encoding="utf-8")
    usual: dict[str, Any] = {
        "cwd": tmp_path,
        "env": {**quiet_environment, "PYTHONPATH": os.pathsep.join(sys.path)},
        "stdout": subprocess.PIPE,
        "text": True,
    }
    parent = subprocess.Popen([sys.executable, "starts.py"], stdin=subprocess.PIPE, **usual)
    assert parent.stdout
    assert parent.stdout.readline() == "hangs\n"
    parent.kill()
    rest, _ = parent.communicate(timeout=60)  # to the end of the pipe, which the other process has open too
    assert rest == ""


def test_a_process_whose_parent_was_gone_before_ends(quiet_environment, tmp_path):
    late = HANGS.replace("signal.SIGSTOP", "signal.SIGCONT")
    done = subprocess.run(
        [sys.executable, "-c", late, "0"],  # no process has this number
        cwd=tmp_path,
        env={**quiet_environment, "PYTHONPATH": os.pathsep.join(sys.path)},
        timeout=60,
    )
    assert done.returncode == -signal.SIGKILL
