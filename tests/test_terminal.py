"""What is shown is also in run.log, and the file is closed however a run ends."""

import gc
import warnings
from contextlib import closing
from pathlib import Path

import pytest

from tunelab.errors import ConfigError
from tunelab.finetune import fine_tune
from tunelab.run import RunFolder
from tunelab.terminal import RunConsole


def test_what_is_printed_is_logged_until_closed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with closing(RunConsole(tmp_path / "run.log")) as console:
        console.print("one")
    console.print("two")
    assert (tmp_path / "run.log").read_text(encoding="utf-8") == "one\n"
    assert capsys.readouterr().out == "one\ntwo\n"


def test_a_process_that_does_not_speak_has_no_log(tmp_path: Path):
    with closing(RunConsole(tmp_path / "run.log", quiet=True)) as console:
        console.print("one")
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_fails_closes_its_log(tiny_config, tmp_path: Path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        with pytest.raises(ConfigError, match="NoSuchConfig"):
            fine_tune(tiny_config("peft._target_=peft.NoSuchConfig"), RunFolder(tmp_path), ())
        gc.collect()
    assert (tmp_path / "run.log").is_file()
    assert [str(each.message) for each in caught if "run.log" in str(each.message)] == []
