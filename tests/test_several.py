"""Several models in one evaluation: each as if it were measured alone, on one loaded base."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from exported_runs import LORA, write_adapter
from transformers import AutoModelForCausalLM, AutoTokenizer

from tunelab import switching
from tunelab.compose import dump_config, load_config
from tunelab.config import DataConfig, DType, EvaluateConfig, EvaluationConfig, EvaluationSetConfig, ModelConfig
from tunelab.data.few_shot import few_shot
from tunelab.data.preparing import open_stage, prepare_data
from tunelab.errors import ConfigError, ModelError, TunelabError
from tunelab.evaluate import evaluate
from tunelab.finetune import fine_tune
from tunelab.run import RunFolder

METHODS = {
    "lora": LORA,
    "olora": {**LORA, "init_lora_weights": "olora"},
    "prompt": {"_target_": "peft.PromptTuningConfig", "num_virtual_tokens": 3},
    "dora": {**LORA, "use_dora": True},
}


@pytest.fixture(scope="module")
def adapters(model_folder, tmp_path_factory) -> dict[str, str]:
    """Adapters of several kinds on one base, and a whole model."""
    place = tmp_path_factory.mktemp("adapters")
    for seed, (name, node) in enumerate(METHODS.items()):
        write_adapter(model_folder, place / name / "adapter", node, seed=seed)
    write_adapter(model_folder, place / "full", {})
    return {name: str(place / name / "adapter") for name in METHODS} | {"full": str(place / "full")}


@pytest.fixture
def settings(model_folder, data_file, tmp_path, monkeypatch) -> dict:
    """What is measured, of any adapter."""
    monkeypatch.chdir(tmp_path)
    return {
        "model": ModelConfig(path=str(model_folder)),
        "data": DataConfig(path=str(data_file), max_length=96, test_fraction=0.2),
        "evaluation": EvaluationConfig(max_examples=6, generate=False),
        "output_dir": str(tmp_path),
    }


def written(folder: Path, name: str) -> Path:
    [found] = (folder / "evaluations").glob(f"*/{name}")
    return found


def test_each_model_is_measured_as_if_alone_on_one_base(adapters, settings, tmp_path, monkeypatch):
    loads = []
    load = switching.load_base
    monkeypatch.setattr(switching, "load_base", lambda *given: loads.append(1) or load(*given))
    together = evaluate(EvaluateConfig(adapters=adapters, **settings | {"output_dir": "all"}), None, None, [])
    assert len(loads) == 1 + 2  # for virtual tokens (OLoRA would have it loaded again, too), and after them
    for index, (name, place) in enumerate(adapters.items()):
        alone = evaluate(EvaluateConfig(adapter=place, **settings | {"output_dir": name}), None, None, [])
        prefix = "" if index == 0 else f"{name}/"
        assert {key: together[f"{prefix}{key}"] for key in alone if key.startswith("test/")} == {
            key: value for key, value in alone.items() if key.startswith("test/")
        }
        if name != "prompt":  # whose base is measured right-padded
            assert {key: value for key, value in alone.items() if key.startswith("base/")}.items() <= together.items()
    summary = json.loads(written(tmp_path / "all", "summary.json").read_text())
    assert list(summary["models"]) == list(adapters)
    names = ["base", *adapters]
    duels = {key.rpartition("test/")[0].rstrip("/") for key in summary["comparisons"]}
    assert len(duels) == len(names) * (len(names) - 1) / 2
    assert {"", "dora", "dora-vs-lora", "full-vs-prompt"} <= duels
    change = together["dora/test/loss"] - together["test/loss"]
    assert summary["comparisons"]["dora-vs-lora/test/loss"]["change"] == pytest.approx(change)


def test_an_adapter_that_hands_on_float32_has_its_base_so_and_the_others_not(settings, model_folder, tmp_path):
    nodes = {"lora": LORA, "norms": {"_target_": "peft.LNTuningConfig"}, "dora": {**LORA, "use_dora": True}}
    places = {name: str(write_adapter(model_folder, tmp_path / name / "adapter", nodes[name])) for name in nodes}
    settings["model"] = ModelConfig(path=str(model_folder), dtype=DType.bfloat16)
    settings["evaluation"] = EvaluationConfig(max_examples=6, generate=False, base=False)
    together = evaluate(EvaluateConfig(adapters=places, **settings), None, None, [])
    for name, place in places.items():
        alone = evaluate(EvaluateConfig(adapter=place, **settings), None, None, [])
        assert together["test/loss" if name == "lora" else f"{name}/test/loss"] == alone["test/loss"]


def test_the_others_are_compared_with_the_chosen_reference(adapters, settings, tmp_path, capsys):
    chosen = {name: adapters[name] for name in ("lora", "dora")}
    evaluate(EvaluateConfig(adapters=chosen, reference="dora", **settings), None, None, [])
    compared = json.loads(written(tmp_path, "summary.json").read_text())["comparisons"]
    prefixes = {key.removesuffix("/test/loss") for key in compared if key.endswith("test/loss")}
    assert prefixes == {"base-vs-dora", "lora-vs-dora", "test/loss"}
    assert "verdict: against dora" in capsys.readouterr().out
    evaluate(
        EvaluateConfig(adapter=adapters["lora"], reference="tuned", **settings | {"output_dir": "one"}), None, None, []
    )
    compared = json.loads(written(tmp_path / "one", "summary.json").read_text())["comparisons"]
    assert "base-vs-tuned/test/loss" in compared
    assert "verdict: against tuned" in capsys.readouterr().out


@pytest.fixture
def make_run(tiny_config, tmp_path):
    """Train on half of the rows; returns the run folder."""

    def train(name: str, *overrides: str) -> str:
        config = tiny_config("data.test_fraction=0.5", "data.validation_fraction=0.1", *overrides)
        folder = RunFolder(tmp_path / name)
        folder.path.mkdir()
        folder.write_text("config.yaml", dump_config(config))
        fine_tune(config, folder, [])
        return str(folder.path)

    return train


def opened(path: str):
    return load_config(Path(path) / "config.yaml"), RunFolder(Path(path))


def test_seeds_are_not_distinguishable_and_base_and_tuned_are(make_run, tmp_path, capsys):
    runs = [make_run(f"run-{seed}", f"seed={seed}", "trainer.max_steps=30") for seed in (1, 2)]
    config = EvaluateConfig(runs=runs, output_dir=str(tmp_path), pages=True)
    config.evaluation.base, config.evaluation.generate, config.evaluation.max_new_tokens = True, True, 6
    typed = [f"evaluation.{key}=…" for key in ("base", "generate", "max_new_tokens")]
    evaluate(config, None, None, typed, [opened(each) for each in runs])
    summary = json.loads(written(tmp_path, "summary.json").read_text())
    assert list(summary["models"]) == ["seed-1", "seed-2"]
    compared = summary["comparisons"]
    assert compared["test/loss"]["verdict"] == compared["seed-2/test/loss"]["verdict"] == "better"
    assert compared["seed-2-vs-seed-1/test/loss"]["verdict"] == "not distinguishable"
    assert compared["seed-2-vs-seed-1/test/loss"]["count"] == summary["counts"]["test/loss"] >= 20
    shown = capsys.readouterr().out
    assert "seed-1" in shown
    assert "verdict: against base" in shown
    assert "contamination" not in summary
    rows = [json.loads(line) for line in written(tmp_path, "predictions.jsonl").read_text().splitlines()]
    assert [row["model"] for row in rows[:3]] == ["base", "seed-1", "seed-2"]
    page = written(tmp_path, "review/comparison.html").read_text()
    assert page.count("<h3><bdi>seed-2</bdi>") == summary["counts"]["test/loss"]


def test_the_base_with_worked_examples_is_measured_on_the_same_responses(adapters, settings, model_folder, tmp_path):
    settings["evaluation"] = EvaluationConfig(num_few_shot=3, seed=1, max_new_tokens=3)
    config = EvaluateConfig(adapter=adapters["lora"], **settings)
    measured = evaluate(config, None, None, ["evaluation.num_few_shot=3", "evaluation.seed=1"])
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    examples = prepare_data(config.data, tokenizer, tmp_path / "cache").test[:]
    shown = few_shot(open_stage(config.data, tokenizer), "test", examples, 3, 1, 256)
    model, nll, count = AutoModelForCausalLM.from_pretrained(model_folder).double(), 0.0, 0
    for example in filter(None, shown.examples):
        ids, mask = example.tokenized.input_ids, example.tokenized.loss_mask
        with torch.no_grad():
            scores = model(ids[None]).logits[0].log_softmax(-1)
        nll -= sum(float(scores[place - 1, ids[place]]) for place in range(1, len(ids)) if mask[place])
        count += int(mask.sum())
    assert measured["base-3-shot/test/loss"] == pytest.approx(nll / count, rel=1e-5)
    assert measured["base-3-shot/test/num_supervised_tokens"] == measured["base/test/num_supervised_tokens"] == count
    assert measured["base-3-shot/test/loss"] != pytest.approx(measured["base/test/loss"], rel=1e-3)
    summary = json.loads(written(tmp_path, "summary.json").read_text())
    assert summary["few_shot"]["examples"] == shown.origins
    assert summary["few_shot"]["first_prompt"].count("<|user|>") == 4
    assert {"test/loss", "base-3-shot/test/loss", "tuned-vs-base-3-shot/test/loss"} <= summary["comparisons"].keys()


def test_prompts_without_room_are_left_out_and_said(adapters, settings, tmp_path, capsys):
    settings["evaluation"] = EvaluationConfig(num_few_shot=7, generate=False)
    measured = evaluate(EvaluateConfig(adapter=adapters["lora"], **settings), None, None, [])
    summary = json.loads(written(tmp_path, "summary.json").read_text())
    left_out, kept = summary["few_shot"]["num_left_out"], measured["base-7-shot/test/num_examples"]
    assert 0 < left_out == measured["base/test/num_examples"] - kept
    compared = summary["comparisons"]
    assert compared["tuned-vs-base-7-shot/test/loss"]["count"] == compared["base-7-shot/test/loss"]["count"] == kept
    assert compared["test/loss"]["count"] == measured["test/num_examples"]
    assert f"base-7-shot: {left_out} of" in " ".join(capsys.readouterr().out.split())


def test_one_model_alone_is_against_none(adapters, settings, capsys):
    settings["evaluation"].base = False
    evaluate(EvaluateConfig(adapter=adapters["lora"], **settings), None, None, [])
    shown = capsys.readouterr().out
    assert "loss (nats/token)" in shown
    assert "verdict" not in shown


# --- what cannot be compared -----------------------------------------------------------------------------------------


def refused(config: dict, settings: dict) -> str:
    with pytest.raises(TunelabError) as caught:
        evaluate(EvaluateConfig(**config, **settings), None, None, [])
    return str(caught.value)


def test_what_cannot_be_compared_is_refused_before_weights(adapters, settings, tmp_path, monkeypatch):
    monkeypatch.setattr(switching, "load_base", None)
    lora, dora = adapters["lora"], adapters["dora"]
    assert refused({"adapters": [lora]}, settings) == (
        f"adapters: expected two or more models, found one; name a second, or set adapter={lora}."
    )
    assert "adapters: expected a list of folders, or names and folders, found 5" in refused({"adapters": 5}, settings)
    assert f"expected each model once, found '{lora}' twice" in refused({"adapters": [lora, dora, lora]}, settings)
    assert f"found '{lora}' twice" in refused({"adapter": lora, "adapters": {"same": lora}}, settings)
    assert refused({"adapter": str(Path(lora).parent)}, settings) == (
        f"adapter: expected a PEFT folder or a tuned model, found a run folder in '{Path(lora).parent}'; name '{lora}' "
        "instead."
    )
    assert "found neither in 'nowhere'" in refused({"adapters": [lora, "nowhere"]}, settings)
    assert "found 'base'; set adapters={<name>" in refused({"adapters": {"base": lora, "x": dora}}, settings)
    assert "found 'a/b'" in refused({"adapters": {"a/b": lora, "x": dora}}, settings)
    assert "found 'harness'" in refused({"adapters": {"harness": lora, "x": dora}}, settings)
    sets = {"dora": EvaluationSetConfig(data=DataConfig(path="x.jsonl"))}
    named = settings | {"evaluation": EvaluationConfig(sets=sets)}
    assert "harness, dora, found 'dora'" in refused({"adapters": [lora, dora]}, named)
    assert refused({"adapters": [lora, dora], "reference": "lore"}, settings) == (
        "reference: expected one of base, lora, dora, found 'lore'; set reference=base."
    )
    assert "adapter: expected it with one run" in refused({"adapter": lora, "runs": ["x"]}, settings)


def test_what_is_refused_leaves_no_folder(adapters, settings, tmp_path):
    crowded = settings | {"evaluation": EvaluationConfig(num_few_shot=10_000)}
    assert "evaluation.num_few_shot" in refused({"adapter": adapters["lora"]}, crowded)
    assert list((tmp_path / "evaluations").iterdir()) == []


def test_an_adapter_for_another_base_is_refused(adapters, settings, model_folder, tmp_path):
    config = Path(adapters["dora"]) / "adapter_config.json"
    other = tmp_path / "other" / "adapter"
    shutil.copytree(config.parent, other)
    written = json.loads(config.read_text())
    (other / "adapter_config.json").write_text(json.dumps({**written, "base_model_name_or_path": "some/other"}))
    message = refused({"adapters": [adapters["lora"], str(other)]}, settings)
    assert f"expected an adapter for model.path={model_folder}, found one for 'some/other'" in message


def test_a_whole_model_of_another_base_is_refused(adapters, settings, model_folder, tmp_path):
    other = shutil.copytree(adapters["full"], tmp_path / "other")
    (other / "export.json").write_text(json.dumps({"base_model": {"path": "some/other"}}))
    assert refused({"adapter": str(other)}, settings) == (
        f"adapter: expected a model tuned from model.path={model_folder}, found one from 'some/other' in "
        f"'{other}'; set model.path=some/other, or other_base=true where the two are the same weights."
    )
    evaluate(EvaluateConfig(adapter=str(other), other_base=True, **settings), None, None, [])
    sizes = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**sizes, "hidden_size": 64}))
    message = refused({"adapter": str(other), "other_base": True}, settings)
    assert "whose hidden_size is 32, found 64 in " in message


def test_a_model_of_another_template_is_refused(adapters, settings, tmp_path):
    other = tmp_path / "other" / "adapter"
    shutil.copytree(adapters["dora"], other)
    (other / "export.json").write_text(json.dumps({"template": "alpaca"}))
    message = refused({"adapters": [adapters["lora"], str(other)]}, settings)
    assert "expected models trained with one template, chat" in message
    assert "found other with alpaca" in message
    (other / "export.json").write_text(json.dumps({"template": "chat"}))
    (other / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}<|end|>{% endfor %}")
    assert "found other with chat" in refused({"adapters": [adapters["lora"], str(other)]}, settings)


def test_runs_of_two_bases_are_refused(make_run, model_folder, tmp_path):
    runs = [make_run("a"), make_run("b")]
    shutil.copytree(model_folder, tmp_path / "copy")
    for name in ("config.yaml", "adapter/adapter_config.json"):
        text = (Path(runs[1]) / name).read_text()
        (Path(runs[1]) / name).write_text(text.replace(str(model_folder), str(tmp_path / "copy")))
    with pytest.raises(ModelError, match="expected models of one base"):
        evaluate(EvaluateConfig(runs=runs), None, None, [], [opened(each) for each in runs])


def test_training_data_that_are_measured_on_are_named(make_run, data_file, tmp_path, capsys):
    runs = [make_run("a"), make_run("b", "data.test_fraction=0.1", "name=other")]
    config = EvaluateConfig(runs=runs, output_dir=str(tmp_path))
    evaluate(config, None, None, [], [opened(each) for each in runs])
    summary = json.loads(written(tmp_path, "summary.json").read_text())
    assert list(summary["models"]) == ["run", "other"]
    [(name, doubt)] = summary["contamination"].items()
    assert name == "other"
    assert doubt.startswith(f"other: was trained on rows of {data_file}, divided otherwise than here")
    assert "divided otherwise" in capsys.readouterr().out


def test_training_refuses_worked_examples(tiny_config, tmp_path):
    with pytest.raises(ConfigError, match=r"^evaluation\.num_few_shot: expected 0 for training, found 4"):
        fine_tune(tiny_config("evaluation.num_few_shot=4"), RunFolder(tmp_path), [])


def test_lists_and_mappings_are_typed(compose_config):
    config = compose_config("adapters={a:x/y,b:z-1}", "runs=[p/q,r]", "reference=a", command="evaluate")
    assert config.listed("adapters") == [("a", "x/y"), ("b", "z-1")]
    assert config.listed("runs") == [(None, "p/q"), (None, "r")]
