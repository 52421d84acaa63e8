import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tunelab.config import EvaluationConfig, read_keys
from tunelab.data.records import IGNORE_INDEX, Choice, EvaluationExample, MicroBatch, TokenizedExample
from tunelab.evaluation import choosing, completing, evaluating
from tunelab.evaluation.decoding import Completion
from tunelab.evaluation.evaluating import SplitEvaluation, SplitSettings, evaluate_split, predict
from tunelab.evaluation.reporting import results
from tunelab.evaluation.sums import TokenScores

END, PAD = 1, 0


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=280, special_tokens=["<pad>", "<end>"], initial_alphabet=alphabet)
    backend.train_from_iterator(["the answer is", "the name is"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<end>")


@pytest.fixture
def model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=128, initializer_range=0.3, **sizes)
    return LlamaForCausalLM(config).double()


def make_examples(tokenizer: PreTrainedTokenizerFast, responses: list[str]) -> list[EvaluationExample]:
    examples: list[EvaluationExample] = []
    for place, response in enumerate(responses):
        prompt = "what is it?" + " please" * (place % 3)
        prompt_ids, answer = tokenizer.encode(prompt), [*tokenizer.encode(response), END]
        mask = torch.tensor([False] * len(prompt_ids) + [True] * len(answer))
        tokenized = TokenizedExample(torch.tensor(prompt_ids + answer), mask, f"rows.jsonl:{place + 1}")
        examples.append(EvaluationExample(prompt_ids, prompt, response, tokenized, tokenized.origin))
    return examples


def score_with(model: LlamaForCausalLM):
    """The loss in plain words, for padded micro-batches."""

    def score_tokens(batch: MicroBatch) -> TokenScores:
        assert not model.training
        logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits[:, :-1]
        labels = batch.labels[:, 1:]
        kept, targets = logits[labels != IGNORE_INDEX], labels[labels != IGNORE_INDEX]
        nll = F.cross_entropy(kept, targets, reduction="none")
        return TokenScores(nll, kept.argmax(-1) == targets, (labels != IGNORE_INDEX).nonzero()[:, 0])

    return score_tokens


def evaluate(model, tokenizer, examples, budget: int = 100, **config) -> SplitEvaluation:
    return evaluate_split(model, tokenizer, examples, settings_for(model, budget, EvaluationConfig(**config)))


def settings_for(model, budget: int, config: EvaluationConfig) -> SplitSettings:
    return SplitSettings(
        score_tokens=score_with(model), padded=True, micro_batch_tokens=budget, device=torch.device("cpu"),
        config=config, end_token_ids=[END],
    )  # fmt: skip


def test_loss_is_that_of_each_example_alone(model, tokenizer):
    examples = make_examples(tokenizer, ["five", "the answer is seven", "Zoë 🙂"])
    metrics = evaluate(model, tokenizer, examples, generate=False).metrics
    expected = np.zeros((3, 3))
    for row, example in zip(expected, examples, strict=True):
        ids = example.tokenized.input_ids
        scores = model(input_ids=ids[None]).logits[0].detach().log_softmax(-1)
        for place in range(len(example.prompt_ids), len(ids)):
            row += [-float(scores[place - 1, ids[place]]), 1, int(scores[place - 1].argmax() == ids[place])]
    nll, count, correct = expected.sum(axis=0)
    assert metrics == pytest.approx({
        "num_examples": 3, "num_supervised_tokens": count, "loss": nll / count,
        "perplexity": math.exp(nll / count), "token_accuracy": correct / count,
    }, rel=1e-12)  # fmt: skip
    settings = settings_for(model, 100, EvaluationConfig())
    assert evaluating.example_sums(model, examples, settings, PAD) == pytest.approx(expected, rel=1e-12)
    alone = evaluate(model, tokenizer, examples, budget=1, generate=False).metrics
    assert alone == pytest.approx(metrics, rel=1e-12)


def test_predictions_are_scored_in_order(model, tokenizer, monkeypatch: pytest.MonkeyPatch):
    written = ['{"name": "Zoë"}', "", '{"name": null} the']
    completions = [
        Completion(tokenizer.encode(text), finished)
        for text, finished in zip(written, (True, True, False), strict=True)
    ]
    monkeypatch.setattr(completing, "generate", lambda *_, **__: completions)
    examples = make_examples(tokenizer, ['{"name": "Zoë"}', '{"name": "Bo"}', '{"name": "Cy"}'])
    result = evaluate(model, tokenizer, examples)
    assert [prediction.completion for prediction in result.predictions] == written
    assert [prediction.id for prediction in result.predictions] == [f"rows.jsonl:{n}" for n in (1, 2, 3)]
    expected = {
        "exact_match": 1 / 3, "json_valid": 1 / 3, "field_f1": 2 / 4, "field_f1/name": 2 / 4,
        "finished_fraction": 2 / 3, "num_scored": 3, "num_json_references": 3,
    }  # fmt: skip
    assert {key: result.metrics[key] for key in expected} == expected
    assert json.loads(json.dumps(result.predictions[1].to_dict())) == {
        "id": "rows.jsonl:2", "prompt": "what is it? please", "reference": '{"name": "Bo"}', "completion": "",
        "finished": True,
        "scores": {"exact_match": 0.0, "json_valid": 0.0, "field_f1": 0.0, "length_tokens": 0.0},
    }  # fmt: skip


def test_prose_has_no_json_metrics(model, tokenizer):
    result = evaluate(model, tokenizer, make_examples(tokenizer, ["five", "six"]), max_new_tokens=5)
    assert not {"json_valid", "field_f1"} & result.metrics.keys()
    expected = {"exact_match", "normalized_exact_match", "token_f1", "length_tokens"}
    assert set(result.predictions[0].scores) == expected
    assert predict(
        model, tokenizer, make_examples(tokenizer, ["five", "six"]),
        config=EvaluationConfig(max_new_tokens=5), end_token_ids=[END],
    ) == result.predictions  # fmt: skip


def test_max_examples(model, tokenizer):
    result = evaluate(model, tokenizer, make_examples(tokenizer, ["a"] * 5), max_examples=2, max_new_tokens=2)
    assert (result.metrics["num_examples"], len(result.predictions)) == (2, 2)


@pytest.mark.parametrize(
    "settings", [{"generate": False}, {}, {"temperature": 1.0}, {"metrics": ["regex_match"], "regex": "a"}]
)
def test_keys_are_read_only_where_they_matter(model, tokenizer, settings: dict):
    config = EvaluationConfig(max_new_tokens=2, **settings)
    used = set(config.used_keys())
    object.__getattribute__(config, "__dict__")["_read"] = set()  # the checks of the config read them too
    evaluate_split(model, tokenizer, make_examples(tokenizer, ["a"]), settings_for(model, 64, config))
    assert read_keys(config) == used - {"base", "few_shot"}  # which the callers read
    assert ("max_new_tokens" in used) == settings.get("generate", True)
    assert ("seed" in used) == ("temperature" in settings)


def test_several_samples(model, tokenizer):
    examples = make_examples(tokenizer, ["five", "six"])
    config = {"max_new_tokens": 3, "temperature": 1.0}
    several = evaluate(model, tokenizer, examples, num_samples=3, **config)
    one = evaluate(model, tokenizer, examples, **config)
    assert [len(set(each.samples)) for each in several.predictions] == [3, 3]
    assert [each.completion for each in several.predictions] == [each.samples[0] for each in several.predictions]
    assert [each.completion for each in several.predictions] == [each.completion for each in one.predictions]
    assert {f"exact_match/{part}" for part in ("pass@1", "pass@2", "pass@3", "maj@3")} <= several.metrics.keys()
    assert several.metrics["exact_match/pass@1"] == 0
    assert len(several.predictions[0].to_dict()["samples"]) == 3
    assert "samples" not in one.predictions[0].to_dict()
    assert [s.name for s in several.scores][3:6] == ["exact_match", "exact_match/pass@1", "exact_match/pass@2"]


def test_an_empty_split_has_no_scores(model, tokenizer):
    result = evaluate(model, tokenizer, [])
    assert (result.metrics, result.predictions) == ({"num_examples": 0, "num_supervised_tokens": 0}, [])
    assert result.estimates == {}


def test_a_metric_asked_for_that_does_not_apply_says_why(model, tokenizer):
    examples = make_examples(tokenizer, ["five", "six"])
    result = evaluate(model, tokenizer, examples, max_new_tokens=2, metrics=["json_valid", "bleu"])
    assert result.not_applicable == {"json_valid": "no example has a JSON object as its reference"}
    assert "json_valid" not in result.metrics
    assert result.signatures["bleu"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")


def test_an_example_that_cannot_be_completed_keeps_its_place(model, tokenizer):
    examples = make_examples(tokenizer, ["five", "six", "seven"])
    no_room = replace(examples[1], prompt_ids=[5] * 128)
    result = evaluate(model, tokenizer, [examples[0], no_room, examples[2]], max_new_tokens=2)
    assert result.metrics["num_not_completed"] == 1
    assert [prediction.id for prediction in result.predictions] == ["rows.jsonl:1", "rows.jsonl:3"]
    exact = next(scores for scores in result.scores if scores.name == "exact_match")
    assert exact.applies.tolist() == [True, False, True]
    assert result.estimates["loss"].count == 3


def test_the_model_is_as_before(model, tokenizer):
    model.train()
    evaluate(model, tokenizer, make_examples(tokenizer, ["a"]), max_new_tokens=2)
    assert all(module.training for module in model.modules())


def with_choices(tokenizer, examples: list[EvaluationExample]) -> list[EvaluationExample]:
    texts = ("five", "the answer is seven", "six")
    choices = tuple(Choice(text, tokenizer.encode(text)) for text in texts)
    return [replace(example, choices=choices) for example in examples]


@pytest.mark.parametrize("shares", [True, False])
def test_choices_need_no_completions(model, tokenizer, monkeypatch: pytest.MonkeyPatch, shares: bool):
    asked = ["auto", "choice_calibration_error"]
    examples = with_choices(tokenizer, make_examples(tokenizer, ["five", "six", "five"]))
    expected = evaluate(model, tokenizer, examples, metrics=asked, generate=False)
    monkeypatch.setattr(choosing, "_shares_prompts", lambda _: shares)
    found = evaluate(model, tokenizer, examples, metrics=asked, generate=False, budget=40)
    assert found.metrics == pytest.approx(expected.metrics, rel=1e-9)
    assert found.metrics["num_chosen"] == 3
    assert {"choice_accuracy", "choice_accuracy_norm", "choice_macro_f1"} <= found.metrics.keys()
    assert sum(each["count"] for each in found.tables["choice_calibration_error"]) == 3
    [table] = results("test", found)["reliability"].values()
    assert table == found.tables["choice_calibration_error"]


def test_choices_that_do_not_fit_are_counted(model, tokenizer):
    examples = with_choices(tokenizer, make_examples(tokenizer, ["five", "six"]))
    examples[1] = replace(examples[1], prompt_ids=[5] * 127)
    found = evaluate(model, tokenizer, examples, generate=False)
    assert (found.metrics["num_chosen"], found.metrics["num_choices_too_long"]) == (1, 1)


def test_without_choices_their_metrics_do_not_apply(model, tokenizer):
    found = evaluate(model, tokenizer, make_examples(tokenizer, ["five"]), metrics=["choice_accuracy"], generate=False)
    assert found.not_applicable == {"choice_accuracy": "no example has choices that the model can score"}
    assert not any(name.startswith("choice") for name in found.metrics)


def test_copies_are_looked_for_where_they_are_asked_for(model, tokenizer):
    examples = make_examples(tokenizer, ["five"])
    config = EvaluationConfig(metrics=["copied_share"], max_new_tokens=5)
    written = evaluate(model, tokenizer, examples, max_new_tokens=5).predictions[0].completion
    settings = settings_for(model, 100, config)
    found = evaluate_split(model, tokenizer, examples, replace(settings, train_texts=lambda: [f"so {written} it is"]))
    assert found.metrics["copied_share"] == (1 if written.split() else 0)
    without = evaluate_split(model, tokenizer, examples, settings)
    assert without.not_applicable == {"copied_share": "no example has training responses to look in"}
