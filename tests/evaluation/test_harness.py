"""lm-evaluation-harness on our models: against our own choice metrics, and against its own wrapper of transformers."""

import json

import numpy as np
import pytest
import small_tasks
from conftest import make_model, make_tokenizer
from peft import LoraConfig, PrefixTuningConfig, get_peft_model
from rich.console import Console
from small_tasks import SUMS, loaded, settings_of
from tokenizers import processors

from tunelab.data.rendering import decide_template
from tunelab.measuring import prove_shortcuts
from tunelab.model.loading import load_base_model
from tunelab.preflight import prepare

pytest.importorskip("lm_eval", reason="needs the extra eval: pip install 'tunelab[eval]'")


cache, folder = small_tasks.cache, small_tasks.folder


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
