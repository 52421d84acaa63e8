"""lm-evaluation-harness by the command: what is written, which tasks there are, and what goes wrong."""

import json

import pytest
import small_tasks
from conftest import make_model, make_tokenizer
from exported_runs import write_adapter
from small_tasks import loaded, settings_of

from tunelab.audit import refuse_unread_keys
from tunelab.compose import dump_config, load_config
from tunelab.config import EvaluateConfig, HarnessConfig, to_plain
from tunelab.errors import ConfigError, DataError
from tunelab.evaluate import evaluate
from tunelab.finetune import fine_tune
from tunelab.run import RunFolder

pytest.importorskip("lm_eval", reason="needs the extra eval: pip install 'tunelab[eval]'")


cache, folder = small_tasks.cache, small_tasks.folder


def test_the_command_measures_base_and_tuned(compose_config, model_folder, data_file, folder, tmp_path, capsys):
    adapter = write_adapter(model_folder, tmp_path / "adapter")
    overrides = [
        f"adapter={adapter}", f"model.path={model_folder}", "data=file", f"data.path={data_file}", "evaluation=loss",
        "data.test_fraction=0.2", f"output_dir={tmp_path}", "harness.tasks=[sum_choice,sum_text]",
        f"harness.include={folder}", "harness.max_examples=9", "harness.num_few_shot=1",
    ]  # fmt: skip
    config = compose_config(*overrides, command="evaluate")
    metrics = evaluate(config, None, None, overrides)
    [place] = (tmp_path / "evaluations").iterdir()
    summary = json.loads((place / "summary.json").read_text())
    names = {"harness/sum_choice/acc", "harness/sum_text/word_perplexity", "harness/sum_text/bits_per_byte"}
    for name in names:
        assert summary["metrics"][name] == metrics[name]
        assert summary["counts"][name] == 9
        assert len(summary["intervals"][name]) == 2
        assert summary["comparisons"][name]["verdict"] in ("better", "worse", "not distinguishable")
        change = summary["metrics"][name] - summary["metrics"][f"base/{name}"]
        assert summary["comparisons"][name]["change"] == pytest.approx(change)
    assert "shots:1" in summary["signatures"]["harness/sum_choice"]
    assert "test/loss" in summary["metrics"]
    lines = [json.loads(line) for line in (place / "harness.jsonl").read_text().splitlines()]
    assert [line["model"] for line in lines] == ["base"] * 18 + ["tuned"] * 18
    assert "sum_choice acc %" in capsys.readouterr().out


def test_the_summary_of_a_run_keeps_its_own_figures(tiny_config, folder, tmp_path):
    """With tasks a measurement has a folder of its own: one of a few documents replaces no figure of all."""
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    trained = tiny_config(f"output_dir={tmp_path}")
    run.write_text("config.yaml", dump_config(trained))
    fine_tune(trained, run, [])
    before = run.read_summary()
    harness = HarnessConfig(tasks="sum_choice", include=str(folder), max_examples=1)
    config = EvaluateConfig(run=str(run.path), harness=harness, output_dir=str(tmp_path))
    evaluate(config, load_config(run.path / "config.yaml"), run, [])
    assert run.read_summary() == before
    [written] = (tmp_path / "evaluations").glob("*/summary.json")
    assert "harness/sum_choice/acc" in json.loads(written.read_text())["metrics"]


def test_a_key_without_tasks_is_refused(compose_config):
    overrides = ["adapter=x", "harness.max_examples=3"]
    config = compose_config(*overrides, command="evaluate")
    with pytest.raises(ConfigError, match=r"harness\.max_examples: set, but nothing uses it"):
        refuse_unread_keys(config, overrides)
    assert to_plain(config)["harness"]["tasks"] == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": [1]}, r"harness\.tasks: expected a list of names"),
        ({"tasks": "x", "max_examples": 0}, r"harness\.max_examples: expected null or at least 1"),
        ({"tasks": "x", "num_few_shot": -1}, r"harness\.num_few_shot: expected 0 or more"),
    ],
)
def test_settings_that_cannot_be(changes, message):
    with pytest.raises(ConfigError, match=message):
        HarnessConfig(**changes)


def test_tasks_that_cannot_be_loaded(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    tokenizer = make_tokenizer()
    zero = (folder / "sum_choice.yaml").read_text().replace("task: sum_choice", "task: zero\nnum_fewshot: 0")
    gone = zero.replace("task: zero", "task: gone").replace("sums.jsonl", "gone.jsonl")
    unsafe = zero.replace("task: zero", "task: unsafe\nunsafe_code: true")
    wrong = zero.replace("task: zero", "task: wrong").replace("doc_to_text: ", "doc_to_text: '{{ nothing() }}' # ")
    for name, text in {"zero": zero, "gone": gone, "unsafe": unsafe, "wrong": wrong}.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    own = {"include": str(tmp_path)}
    with pytest.raises(
        ConfigError, match=r"num_few_shot: expected null or 0 for 'zero', whose own file says 0, found 2"
    ):
        loaded(tokenizer, tasks="zero", num_few_shot=2, **own)
    with pytest.raises(ConfigError, match=r"harness\.tasks: gone cannot be set up: .*HF_HUB_OFFLINE is set"):
        loaded(tokenizer, tasks="gone", **own)
    with pytest.raises(ConfigError, match=r"wrong cannot be set up: UndefinedError, .*; mend the task's file\."):
        loaded(tokenizer, tasks="wrong", **own)
    with pytest.raises(ConfigError, match="found 'unsafe', which runs what the model writes"):
        loaded(tokenizer, tasks="unsafe", **own)
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "sums.yaml").write_text("task: [sums")
    with pytest.raises(ConfigError, match=r"^harness\.include: expected YAML in '.*sums\.yaml', found a damaged"):
        loaded(tokenizer, tasks="sums", include=str(damaged))
    with pytest.raises(ConfigError, match=r"harness\.include: expected a folder with task files"):
        loaded(tokenizer, tasks="zero", include=str(tmp_path / "nowhere"))


def test_a_name_is_looked_up_among_the_tasks_of_lm_eval_last(folder, tmp_path, monkeypatch):
    from lm_eval.tasks import manager

    monkeypatch.setattr(manager, "__file__", str(folder / "manager.py"))  # its own are thousands: half a minute
    (tmp_path / "mine.yaml").write_text((folder / "sum_text.yaml").read_text().replace("task: sum_text", "task: mine"))
    names = loaded(make_tokenizer(), tasks=["mine", "sum_choice"], include=str(tmp_path)).loaded["tasks"]
    assert list(names) == ["mine", "sum_choice"]
    with pytest.raises(ConfigError, match=r"no task 'sum_chioce'; did you mean 'sum_choice'.*`lm-eval ls tasks`"):
        loaded(make_tokenizer(), tasks="sum_chioce", include=str(tmp_path))


def test_without_the_package_one_sentence_names_the_extra(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"harness\.tasks: .*pip install 'tunelab\[eval\]'"):
        loaded(make_tokenizer(), tasks="sum_choice")


def test_requests_that_cannot_be_answered(folder, tmp_path):
    tokenizer = make_tokenizer()
    model = make_model(len(tokenizer))
    text = (folder / "sum_written.yaml").read_text().replace("task: sum_written", "task: beams")
    (tmp_path / "beams.yaml").write_text(text.replace("max_gen_toks: 12", "num_beams: 4"))
    with pytest.raises(ConfigError, match=r"expected generation_kwargs of .*, found num_beams in a task"):
        loaded(tokenizer, tasks="beams", include=str(tmp_path)).measure(model, tokenizer, settings_of(model))
    long = (folder / "sum_choice.yaml").read_text().replace("task: sum_choice", "task: long")
    (tmp_path / "long.yaml").write_text(long.replace("['3', '4', '5']\n", f"['3', '4', '{'5 ' * 200}']\n"))
    with pytest.raises(DataError, match=r"expected answers shorter than the 256 positions of the model, found one of"):
        loaded(tokenizer, tasks="long", include=str(tmp_path)).measure(model, tokenizer, settings_of(model))
