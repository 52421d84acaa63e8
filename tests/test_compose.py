"""The command line: what it prints, how it fails, and what it repeats."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tunelab.compose import SAVED_HEADER, dump_config, load_config, prepare_arguments
from tunelab.config import EvaluateConfig, RunConfig, to_plain
from tunelab.errors import ConfigError

REPOSITORY = Path(__file__).resolve().parents[1]

# Calls a script as `python <script> <arguments>` would, several times in one process; says what each imported.
CALLS = """
import runpy, sys
for arguments in {calls!r}:
    sys.argv = list(arguments)
    try:
        runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as end:
        assert not end.code, end.code
    heavy = sorted(set(sys.modules) & {{"torch", "transformers", "peft", "pytorch_lightning"}})
    print("IMPORTED", arguments[0], arguments[1], heavy)
"""


def run_script(*arguments: str, environment: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, timeout=120)


def test_help_and_the_whole_configuration_need_no_torch(quiet_environment, tmp_path: Path):
    train, evaluate = str(REPOSITORY / "train.py"), str(REPOSITORY / "evaluate.py")
    calls = [(train, "--help"), (evaluate, "--help"), (train, "--cfg", "job")]
    done = run_script("-c", CALLS.format(calls=calls), environment=quiet_environment, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("IMPORTED") == 3
    assert [line.rpartition(" ")[2] for line in done.stdout.splitlines() if "IMPORTED" in line] == ["[]"] * 3
    for shown in (
        "python train.py resume=",
        "mistral7b, mistral7b-instruct,",
        "peft: ",
        "python evaluate.py adapter=",
    ):
        assert shown in done.stdout, shown
    printed = yaml.safe_load(done.stdout.split("IMPORTED")[2].partition("\n")[2])
    assert printed["trainer"]["max_epochs"] == 1  # conf/data/tickets.yaml
    assert printed["data"]["over_length"] == "truncate_prompt"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("script", "arguments", "said"),
    [
        ("train.py", ["data.batchsize=3"], "did you mean 'data.batch_size'?"),
        ("train.py", ["data.batch_size=many"], "data.batch_size"),
        ("evaluate.py", ["data.max_lenth=5", "run=x"], "did you mean 'data.max_length'?"),
    ],
)
def test_a_mistake_ends_in_one_sentence(script: str, arguments, said: str, quiet_environment, tmp_path: Path):
    done = run_script(str(REPOSITORY / script), *arguments, environment=quiet_environment, folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stdout + done.stderr


def test_a_saved_config_runs_again(compose_config, tmp_path: Path):
    config = compose_config("peft=qlora", "optim.schedule=linear", "seed=3", "data.columns.prompt=question")
    (tmp_path / "config.yaml").write_text(dump_config(config), encoding="utf-8")
    again = compose_config(command="config", folder=tmp_path)
    assert to_plain(again) == to_plain(config) == to_plain(load_config(tmp_path / "config.yaml"))
    changed = compose_config("seed=4", "peft.r=2", command="config", folder=tmp_path)
    assert (changed.seed, changed.peft["r"], changed.optim.schedule.value) == (4, 2, "linear")


def test_a_saved_config_is_complete_and_resolved(compose_config):
    text = dump_config(compose_config())
    saved = yaml.safe_load(text.removeprefix(SAVED_HEADER))
    assert "${" not in text.removeprefix(SAVED_HEADER)
    assert "???" not in text
    assert set(saved) == set(to_plain(RunConfig()))
    assert set(saved["trainer"]) == set(to_plain(RunConfig())["trainer"])


@pytest.mark.parametrize(
    ("typed", "prepared"),
    [
        (["peft.use_dora=true"], ["++peft.use_dora=true"]),
        (["+peft.use_dora=true"], ["+peft.use_dora=true"]),
        (["~peft.r"], ["~peft.r"]),
        (["optim.lr=1,2"], ["optim.lr=1,2"]),
        (["-m", "seed=1,2"], ["-m", "seed=1,2"]),
        (["experiment=x", "hydra.job.chdir=false"], ["experiment=x", "hydra.job.chdir=false"]),
        (["hydra/job_logging=none", "peft@peft=lora"], ["hydra/job_logging=none", "peft@peft=lora"]),
        (["--config-path", "runs/a"], ["--config-path", str(Path("runs/a").resolve())]),
        (["-cd", "mine", "seed=1"], ["-cd", str(Path("mine").resolve()), "seed=1"]),
        (["--package=seed", "data.path=a=b.jsonl"], ["--package=seed", "data.path=a=b.jsonl"]),
    ],
)
def test_arguments_are_prepared_for_hydra(typed: list[str], prepared: list[str]):
    assert prepare_arguments(typed, RunConfig) == prepared


def test_the_flag_of_a_sweep_may_stand_anywhere():
    typed = ["optim.lr=1e-3", "-m", "seed=1,2", "--config-name", "config"]
    assert prepare_arguments(typed, RunConfig) == ["-m", "optim.lr=1e-3", "seed=1,2", "--config-name", "config"]


def test_a_glob_of_a_shell_is_explained():
    folders = ["outputs/runs/run/a", "outputs/runs/run/b"]
    with pytest.raises(ConfigError) as caught:
        prepare_arguments([f"runs={folders[0]}", folders[1], "split=validation"], EvaluateConfig)
    assert str(caught.value).startswith(f"runs: expected one value, found 2 words ({' '.join(folders)}); set ")
    assert f"'runs=[{','.join(folders)}]' for a list" in str(caught.value)
    many = [f"runs/{number}" for number in range(30)]
    with pytest.raises(ConfigError, match=r"found 30 words \(runs/0 runs/1 …\); set 'runs=\[runs/0,runs/1,…\]'"):
        prepare_arguments([f"runs={many[0]}", *many[1:]], EvaluateConfig)


def test_a_key_of_training_is_unknown_to_evaluation():
    with pytest.raises(ConfigError, match=r"optim\.lr"):
        prepare_arguments(["optim.lr=1"], EvaluateConfig)
    assert prepare_arguments(["split=validation"], EvaluateConfig) == ["split=validation"]


def test_the_environment_is_not_left_changed():
    assert "HYDRA_FULL_ERROR" not in os.environ  # composing in tests must not go through the command


def test_a_key_that_another_version_has_saved_is_one_sentence(compose_config, tmp_path: Path):
    saved = tmp_path / "config.yaml"
    saved.write_text(dump_config(compose_config()) + "gone: 1\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"config\.yaml: gone: there is no such key; take it out of the file, or"):
        load_config(saved)
    text = dump_config(compose_config()).replace("\nseed: 0\n", "\n")  # one that is new has its default
    assert "\nseed:" not in text
    saved.write_text(text, encoding="utf-8")
    assert load_config(saved).seed == 0


def test_a_choice_in_a_saved_config_is_one_sentence(compose_config, quiet_environment, tmp_path: Path):
    (tmp_path / "config.yaml").write_text(dump_config(compose_config()), encoding="utf-8")
    saved = ("--config-path", str(tmp_path), "--config-name", "config")
    train = str(REPOSITORY / "train.py")
    done = run_script(train, *saved, "peft=ia3", environment=quiet_environment, folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr == (
        "error: peft: expected settings, found a choice: a saved configuration has no groups; set "
        "peft.<setting>=<value>, or leave --config-path out.\n"
    )


@pytest.mark.parametrize("content", [b"a: [", b"- 1\n", b"\xff\xfe", b"model: 3\n"])
def test_a_damaged_config_of_a_run_is_one_sentence(content: bytes, tmp_path: Path):
    (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=r"config\.yaml: ") as caught:
        load_config(tmp_path / "config.yaml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "arguments", "said"),
    [
        ("a: [", (), "expected YAML, found a damaged file"),
        ("", (), "defaults begin with the schema"),
        ("seed: 1", (), "defaults begin with the schema"),
        (
            "defaults: [run_schema, _self_]\nmodel: {gone: 1}",
            (),
            "error: model.gone: there is no such key",
        ),
        (
            None,
            ("--config-name", "nothing"),
            "expected a configuration that is there, found no 'nothing'",
        ),
        (None, ("--config-path", "nowhere"), "--config-path: expected a folder, found no '"),
        (None, ("name=ü",), "quote the value: 'name=\"ü\"'"),
        (None, ("seed=null",), "seed: expected a value, found null"),
        (None, ("optim.lr=abc",), "optim.lr: expected a number, found 'abc'; set optim.lr=<value>."),
        (
            None,
            ("model.new_tokens=x",),
            "model.new_tokens: expected a list, found a single value (str)",
        ),
        (
            None,
            ("peft.target_modules=q_proj,v_proj",),
            "peft.target_modules: expected one value, found several (q_proj,v_proj); set "
            "'peft.target_modules=[q_proj,v_proj]' for a list, or add -m",
        ),
        (None, ("seed=1", "and", "name=x"), "seed: expected one value, found 2 words (1 and); set 'seed=[1,and]'"),
        (None, ("lora",), "lora: expected key=value, found a word alone; set <key>=lora."),
        (None, ("peft=lorra",), "found 'lorra'; did you mean 'lora'?"),
        (None, ("trainer=nowhere",), "trainer: expected one of "),
        (None, ("model=some/folder",), "found 'some/folder'; set model.path=some/folder for a folder"),
        (None, ("model=/some/folder",), "found '/some/folder'; set model.path=/some/folder for a folder"),
        (None, ("data=rows.jsonl",), "found 'rows.jsonl'; set data=file data.path=rows.jsonl for a file."),
    ],
)
def test_what_hydra_cannot_read_is_one_sentence(
    content, arguments, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    if content is not None:
        (tmp_path / "mine.yaml").write_text(content, encoding="utf-8")
        arguments = ("--config-path", str(tmp_path), "--config-name", "mine")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(sys, "argv", [str(REPOSITORY / "train.py"), *arguments])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(REPOSITORY / "train.py"), run_name="__main__")
    error = capsys.readouterr().err
    assert caught.value.code == 1
    assert said in error
    assert error.count("\n") == 1
