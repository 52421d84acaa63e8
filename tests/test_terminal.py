"""What is shown is also in run.log, and the file is closed however a run ends."""

import gc
import warnings
from contextlib import closing
from pathlib import Path

import pytest

from tunelab.config import RunConfig
from tunelab.errors import ConfigError
from tunelab.finetune import fine_tune
from tunelab.run import RunFolder
from tunelab.terminal import RunConsole, config_tree


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


def test_the_tree_leaves_out_what_is_null(capsys: pytest.CaptureFixture[str]):
    config = RunConfig(name="mine", seed=0, peft={"r": 4, "layers": None})
    config.data.columns.prompt = "question"
    RunConsole().print(config_tree(config))
    shown = capsys.readouterr().out
    assert "null and empty values are left out" in shown.splitlines()[0]
    assert "None" not in shown
    assert "tags" not in shown
    for line in ("seed: 0", "r: 4", "prompt: question", "base: True"):
        assert line in shown
