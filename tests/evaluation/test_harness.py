"""lm-evaluation-harness on our models: against our own choice metrics, and against its own wrapper of transformers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_model, make_tokenizer
from exported_runs import write_adapter
from peft import LoraConfig, PrefixTuningConfig, get_peft_model
from rich.console import Console
from tokenizers import processors

from tunelab.audit import refuse_unread_keys
from tunelab.compose import dump_config, load_config
from tunelab.config import EvaluateConfig, EvaluationConfig, HarnessConfig, to_plain
from tunelab.data.rendering import decide_template
from tunelab.errors import ConfigError, DataError
from tunelab.evaluate import evaluate
from tunelab.evaluation.comparing import Comparison, compare, compare_models
from tunelab.evaluation.evaluating import SplitSettings
from tunelab.evaluation.harness.results import Column, write_documents
from tunelab.evaluation.harness.tasks import load_tasks
from tunelab.evaluation.scores import estimates
from tunelab.finetune import fine_tune
from tunelab.measuring import prove_shortcuts
from tunelab.model.loading import load_base_model
from tunelab.preflight import prepare
from tunelab.run import RunFolder
from tunelab.training.objective import SftObjective

pytest.importorskip("lm_eval", reason="needs the extra eval: pip install 'tunelab[eval]'")

SUMS = [{"question": f"what is {a} plus {b}?", "answer": f"{a + b}"} for a in range(4) for b in range(5)]
FILES = {
    "sum_choice": """
        output_type: multiple_choice
        doc_to_text: "{{question}}"
        doc_to_target: "{{['3', '4', '5'].index(answer) if answer in ['3', '4', '5'] else 0}}"
        doc_to_choice: ['3', '4', '5']
    """,
    "sum_text": """
        output_type: loglikelihood_rolling
        doc_to_text: ""
        doc_to_target: "{{question}} the answer is {{answer}}"
        metric_list:
          - {metric: word_perplexity, aggregation: weighted_perplexity, higher_is_better: false}
          - {metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}
    """,
    "sum_written": """
        output_type: generate_until
        doc_to_text: "{{question}} the answer is"
        doc_to_target: "{{answer}}"
        generation_kwargs: {until: ["\\n", "."], max_gen_toks: 12}
        metric_list:
          - {metric: exact_match, aggregation: mean, higher_is_better: true}
        filter_list:
          - name: number
            filter:
              - {function: regex, regex_pattern: '(\\d+)'}
              - {function: take_first}
    """,
}


def write_tasks(folder: Path) -> Path:
    """The three kinds of tasks on one local file, and a group of them."""
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in SUMS))
    for name, text in FILES.items():
        lines = ["\n".join(line[8:] for line in text.splitlines())]
        lines += [f"task: {name}", "dataset_path: json", "test_split: test", "metadata: {version: 2.0}"]
        lines += ["dataset_kwargs:", f"  data_files: {{test: '{folder / 'sums.jsonl'}'}}"]
        (folder / f"{name}.yaml").write_text("\n".join(lines))
    group = ["group: sums", "task: [sum_choice]", "aggregate_metric_list: [{metric: acc, weight_by_size: true}]"]
    (folder / "sums.yaml").write_text("\n".join(group))
    return folder


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("tasks"))


def settings_of(model) -> SplitSettings:
    return SplitSettings(
        score_tokens=lambda batch: SftObjective(head_chunk_tokens=512).score_tokens(model, batch),
        padded=True,
        micro_batch_tokens=200,
        device=torch.device("cpu"),
        config=EvaluationConfig(),
        end_token_ids=[1],
    )


def loaded(tokenizer, **config):
    return load_tasks(HarnessConfig(**config), decide_template("auto", tokenizer))


# --- against our own choice metrics -------------------------------------------------------------------------------


def test_the_embedded_task_gives_our_own_choice_accuracy(compose_config, tmp_path):
    """The same questions as rows of a data set, rendered by the same template."""
    from tunelab.assets.harness.tickets_category import load

    choices = ["billing", "damaged", "delivery", "exchange", "question", "refund"]
    rows = [
        {"question": f"{doc['message']}\nCategory:", "choices": choices, "answer": doc["category"]}
        for doc in load()["test"].select(range(40))
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = compose_config(
        "data=file", f"data.path={tmp_path}/rows.jsonl", f"data.test_path={tmp_path}/rows.jsonl",
        "data.format=multiple_choice", "evaluation=loss", f"output_dir={tmp_path}", "data.validation_fraction=0",
    )  # fmt: skip
    prepared = prepare(config)
    model = load_base_model(config.model, prepared.device)
    measure = prove_shortcuts(config, prepared, model, Console(quiet=True))
    ours = {each.name: each for each in measure(model, prepared.data.test).scores}
    asked = {"tasks": "tickets_category", "include": "embedded:harness", "apply_chat_template": True}
    tasks = loaded(prepared.tokenizer, **asked, max_examples=40)
    theirs = {each.name: each for each in measure.on_tasks(model, tasks).scores}
    for our_name, name in (("choice_accuracy", "acc"), ("choice_accuracy_norm", "acc_norm")):
        mine, other = ours[our_name], theirs[f"tickets_category/{name}"]
        assert other.sums[:, 0].tolist() == mine.sums[:, 0].tolist()
        assert other.value == mine.value
        assert (other.metric.is_rate, other.metric.better) == (True, True)
    assert 0.2 < ours["choice_accuracy"].value < 1


# --- against lm-eval's own wrapper --------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["none", "lora", "prefix"])
def test_values_are_those_of_its_own_wrapper(folder, method):
    from lm_eval.evaluator import evaluate as upstream
    from lm_eval.models.huggingface import HFLM

    tokenizer = make_tokenizer()
    model = make_model(len(tokenizer))
    if method == "lora":
        model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    elif method == "prefix":
        model = get_peft_model(model, PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5))
    model.train()
    names = ["sum_choice", "sum_text"] if method == "prefix" else ["sum_choice", "sum_text", "sum_written"]
    tasks = loaded(tokenizer, tasks=names, include=str(folder), num_few_shot=2)
    found = tasks.measure(model, tokenizer, settings_of(model))
    assert model.training
    for task in tasks.loaded["tasks"].values():
        task.set_fewshot_seed(seed=1234)
    wrapped = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4, max_length=255)
    theirs = upstream(lm=wrapped, task_dict=tasks.loaded, bootstrap_iters=0)
    expected = {
        f"{task}/{key.removesuffix(',none')}": value
        for task, results in theirs["results"].items() for key, value in results.items()
        if isinstance(value, float)
    }  # fmt: skip
    assert {name: found.metrics[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    assert len(expected) == (4 if method == "prefix" else 5)
    asked = {sample["id"]: sample for sample in found.documents}
    for task, samples in theirs["samples"].items():
        for sample in samples:
            mine = asked[f"{task}:{sample['doc_id']}"]
            assert mine["asked"] == sample["arguments"] or mine["asked"] == [list(a) for a in sample["arguments"]]
            flat = [np.ravel(each)[0] for each in sample["filtered_resps"]]
            ours = [np.ravel(each)[0] for each in mine["responses"]]
            assert ours == flat or np.allclose(np.array(ours, float), np.array(flat, float), rtol=1e-4)


def test_long_prompts_lose_their_beginning_and_are_counted(folder):
    tokenizer = make_tokenizer()
    model = make_model(len(tokenizer))
    model.config.max_position_embeddings = 100
    tasks = loaded(tokenizer, tasks=["sum_choice"], include=str(folder), num_few_shot=15, max_examples=3)
    found = tasks.measure(model, tokenizer, settings_of(model))
    assert found.metrics["num_cut_requests"] == 9
    assert found.metrics["num_examples"] == 3


def test_a_group_is_the_mean_of_its_documents(folder):
    tokenizer = make_tokenizer()
    model = make_model(len(tokenizer))
    found = loaded(tokenizer, tasks="sums", include=str(folder)).measure(model, tokenizer, settings_of(model))
    assert found.metrics["sums/acc"] == found.metrics["sum_choice/acc"]
    assert {each.name for each in found.scores} == {"sums/acc", "sum_choice/acc", "sum_choice/acc_norm"}
    assert found.estimates["sums/acc"].count == len(SUMS)
    assert found.signatures["sum_choice"].endswith("|version:2.0|shots:0|template:none|limit:none")


class Asked:
    def __init__(self, *args):
        self.args = args


def test_completions_end_at_the_first_stop_text_and_repeated_prompts_differ():
    from tunelab.evaluation.harness.language_model import LanguageModel

    tokenizer = make_tokenizer()
    lm = LanguageModel(make_model(len(tokenizer)), tokenizer, settings_of(make_model(len(tokenizer))), None)
    [whole] = lm.generate_until([Asked("what is two", {"until": [], "max_gen_toks": 30})])
    stop = whole[9:11]
    [cut] = lm.generate_until([Asked("what is two", {"until": [stop, "<|end|>"], "max_gen_toks": 30})])
    assert cut == whole[: whole.index(stop)]
    drawn = {"until": [], "max_gen_toks": 8, "do_sample": True, "temperature": 1.0}
    three = lm.generate_until([Asked("a", drawn), Asked("what", {"until": []}), Asked("a", drawn)])
    assert three[0] != three[2]
    assert three == lm.generate_until([Asked("a", drawn), Asked("what", {"until": []}), Asked("a", drawn)])


def test_a_line_break_ends_a_completion_without_changing_it(monkeypatch):
    from tunelab.evaluation.harness import language_model

    tokenizer, asked = make_tokenizer(), []
    model = make_model(len(tokenizer))
    lm = language_model.LanguageModel(model, tokenizer, settings_of(model), None)
    generate = language_model.generate
    monkeypatch.setattr(language_model, "generate", lambda *given: asked.append(given[2]) or generate(*given))
    [text] = lm.generate_until([Asked("what is two", {"until": ["\n", "two", "<|user|>"], "max_gen_toks": 60})])
    ends = {tokenizer.decode([each]) for each in asked[0].end_token_ids}
    assert ends == {"<|end|>", "<|user|>", "\n"}
    monkeypatch.setattr(lm, "_stops", lambda until: set())
    assert lm.generate_until([Asked("what is two", {"until": ["\n", "two"], "max_gen_toks": 60})]) == [text]


def test_the_first_token_is_put_in_front_once_as_its_own_wrapper_does_it():
    from lm_eval.models.huggingface import HFLM

    from tunelab.evaluation.harness.language_model import LanguageModel

    tokenizer = make_tokenizer()
    tokenizer.bos_token = "<|system|>"
    place = tokenizer.convert_tokens_to_ids("<|system|>")
    template = processors.TemplateProcessing("<|system|> $A", None, [("<|system|>", place)])
    tokenizer.backend_tokenizer.post_processor = template
    model = make_model(len(tokenizer))
    wrapped = HFLM(pretrained=model, tokenizer=tokenizer)
    lm = LanguageModel(model, tokenizer, settings_of(model), None)
    assert lm.prefix_token_id == wrapped.prefix_token_id == place
    for text in ("what is two", "<|system|>what is two", " plus", ""):
        assert lm.tok_encode(text) == wrapped.tok_encode(text)
        assert lm.tok_encode(text, add_special_tokens=False) == wrapped.tok_encode(text, add_special_tokens=False)
    for pair in (("what is two ", "plus"), ("what", " is")):
        assert lm._encode_pair(*pair) == wrapped._encode_pair(*pair)
    chat = LanguageModel(model, tokenizer, settings_of(model), decide_template("auto", tokenizer))
    assert chat.tok_encode("what")[:1] != [place]  # the template writes it where the model wants one


def test_few_shots_are_rendered_as_turns():
    from tunelab.evaluation.harness.language_model import LanguageModel

    tokenizer = make_tokenizer()
    model = make_model(len(tokenizer))
    lm = LanguageModel(model, tokenizer, settings_of(model), decide_template("auto", tokenizer))
    turns = [("system", "be brief"), ("user", "one?"), ("assistant", "1"), ("user", "two?")]
    history = [{"role": role, "content": text} for role, text in turns]
    expected = tokenizer.apply_chat_template(history, tokenize=False, add_generation_prompt=True)
    assert lm.apply_chat_template(history) == expected
    begun = [*history, {"role": "assistant", "content": "It is"}]
    assert lm.apply_chat_template(begun, add_generation_prompt=False) == expected + "It is"


# --- from values of documents to scores ---------------------------------------------------------------------------


def column(values, aggregate, aggregation="mean"):
    return Column("t", "m", tuple(values), aggregate, True, aggregation).scores()


def test_sums_are_taken_where_they_give_the_same_value():
    mean = column([1, 0, 1, 1], 0.75)
    assert (mean.value, mean.metric.is_rate, mean.metric.unit.symbol) == (0.75, True, " %")
    assert not column([0.5, 1.0], 0.75).metric.is_rate
    assert column([-3.0, -1.0], float(np.exp(2)), "perplexity").value == pytest.approx(np.exp(2))
    pairs = [(-6.0, 2), (-4.0, 3)]
    assert column(pairs, float(np.exp(2)), "weighted_perplexity").value == pytest.approx(np.exp(2))
    assert column(pairs, 2 / float(np.log(2)), "bits_per_byte").value == pytest.approx(2 / np.log(2))
    by_size = column([1, 0, 1], 0.123)  # a group that weighs its tasks alike
    assert (by_size.value, by_size.overall, by_size.count) == (0.123, 0.123, 3)
    assert estimates([by_size])["t/m"].interval is None
    partly = column([1, None, 0], 0.5)
    assert (partly.count, partly.value) == (2, 0.5)


@pytest.mark.parametrize("name", ["f1", "matthews_corrcoef"])
def test_pairs_of_labels_are_no_sums(name):
    from lm_eval.api.registry import get_aggregation

    labels = [(1, 1), (0, 0), (1, 1), (0, 0)]  # a perfect model: also the ratio of their sums is 1
    found = column(labels, float(get_aggregation(name)(labels)), name)
    assert (found.value, found.overall, found.count) == (1, 1, 4)
    assert estimates([found])["t/m"].interval is None


def test_texts_are_counted():
    from lm_eval.api.registry import get_aggregation

    texts = [("a b c d e", "a b c d x"), ("f g h i", "f g h i"), None]
    found = column(texts, float(get_aggregation("bleu")(texts[:2])), "bleu")
    assert (found.count, estimates([found])["t/m"].count) == (2, 2)


@pytest.mark.parametrize("aggregates", [(0.5, 0.7), (0.7, 0.5)])
def test_a_group_whose_documents_give_its_value_for_one_of_two_models(aggregates):
    """By chance 0.5 is the mean of the documents too; nothing but the change is left to say."""
    first, second = ([column([1, 0, 1, 0], aggregate)] for aggregate in aggregates)
    change = pytest.approx(aggregates[1] - aggregates[0])
    for found in (compare(first, second), compare_models({"a": first, "b": second}, "a")["b", "a"]):
        assert found == {"t/m": Comparison(change=change, count=4)}


def test_metrics_of_different_documents_are_compared_each_on_its_own():
    rng = np.random.default_rng(0)
    few, many = rng.random((2, 12)), rng.random((2, 40))

    def of(row):
        return [
            Column("few", "f", tuple(few[row]), float(few[row].mean()), True).scores(),
            Column("many", "f", tuple(many[row]), float(many[row].mean()), True).scores(),
        ]

    together, before, after = compare(of(0), of(1)), of(0), of(1)
    for place, name in enumerate(["few/f", "many/f"]):
        alone = compare(before[place : place + 1], after[place : place + 1])[name]
        assert (together[name].interval, together[name].p_value) == (alone.interval, alone.p_value)
        assert estimates(before)[name].interval == estimates(before[place : place + 1])[name].interval


# --- the command --------------------------------------------------------------------------------------------------


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


def test_documents_are_strict_json(tmp_path):
    scores = {"acc": float("nan"), "pair": (float("-inf"), 2)}
    write_documents(tmp_path / "harness.jsonl", {"base": [{"id": "t:0", "scores": scores}]})
    [line] = (tmp_path / "harness.jsonl").read_text().splitlines()
    assert json.loads(line) == {"model": "base", "id": "t:0", "scores": {"acc": None, "pair": [None, 2]}}


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


# --- what goes wrong ----------------------------------------------------------------------------------------------


def test_tasks_that_cannot_be_loaded(folder, tmp_path):
    tokenizer = make_tokenizer()
    zero = (folder / "sum_choice.yaml").read_text().replace("task: sum_choice", "task: zero\nnum_fewshot: 0")
    gone = zero.replace("task: zero", "task: gone").replace("sums.jsonl", "gone.jsonl")
    unsafe = zero.replace("task: zero", "task: unsafe\nunsafe_code: true")
    for name, text in {"zero": zero, "gone": gone, "unsafe": unsafe}.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    own = {"include": str(tmp_path)}
    with pytest.raises(
        ConfigError, match=r"num_few_shot: expected null or 0 for 'zero', whose own file says 0, found 2"
    ):
        loaded(tokenizer, tasks="zero", num_few_shot=2, **own)
    with pytest.raises(ConfigError, match=r"harness\.tasks: gone cannot be set up: .*HF_HUB_OFFLINE is set"):
        loaded(tokenizer, tasks="gone", **own)
    with pytest.raises(ConfigError, match="found 'unsafe', which runs what the model writes"):
        loaded(tokenizer, tasks="unsafe", **own)
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
