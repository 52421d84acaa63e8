import math
import random

import numpy as np
import pytest
import torch
from architectures import ARCHITECTURES, VOCABULARY, make
from peft import PromptTuningConfig, get_peft_model
from transformers import LlamaForCausalLM

from tunelab.config import EvaluationConfig
from tunelab.data.records import Choice, EvaluationExample, TokenizedExample
from tunelab.errors import ConfigError
from tunelab.evaluation import choosing
from tunelab.evaluation.choosing import choose
from tunelab.evaluation.metrics import Chosen, check_metrics, chosen_choice_metrics
from tunelab.evaluation.metrics.choices import macro_f1_value
from tunelab.evaluation.scores import estimates, score_answers

LETTERS = "abcdefgh"


def make_questions(count: int, most_choices: int = 5) -> list[EvaluationExample]:
    rng = random.Random(1)
    questions: list[EvaluationExample] = []
    for place in range(count):
        prompt = [rng.randrange(VOCABULARY) for _ in range(rng.randint(1, 15))]
        texts = LETTERS[: rng.randint(2, most_choices)]
        ids = [[rng.randrange(VOCABULARY) for _ in range(rng.randint(1, 6))] for _ in texts]
        choices = tuple(
            Choice(text * (1 + number), each) for number, (text, each) in enumerate(zip(texts, ids, strict=True))
        )
        whole = TokenizedExample(torch.tensor([*prompt, 1]), torch.tensor([False] * len(prompt) + [True]), f"r:{place}")
        questions.append(EvaluationExample(prompt, "", rng.choice(choices).text, whole, whole.origin, choices))
    return questions


def plainly(model, question: EvaluationExample) -> list[float]:
    """Each prompt and choice as one sequence alone."""
    scores: list[float] = []
    for choice in question.choices:
        ids = torch.tensor([question.prompt_ids + choice.token_ids])
        with torch.no_grad():
            logits = model.eval()(input_ids=ids).logits[0].log_softmax(-1)
        first = len(question.prompt_ids)
        scores.append(sum(float(logits[place - 1, ids[0, place]]) for place in range(first, ids.shape[1])))
    return scores


def never(_):
    raise AssertionError("the prompts can be shared")


def test_a_model_without_a_cache_reads_whole_sequences():
    class Cacheless(LlamaForCausalLM):
        def forward(self, input_ids, attention_mask=None, position_ids=None):
            return super().forward(input_ids, attention_mask=attention_mask, position_ids=position_ids)

    def nll_of(sequences):
        asked.extend(sequences)
        return [1.0] * len(sequences)

    model, questions, asked = Cacheless(make("llama").config), make_questions(3), []
    found = choose(model, questions, batch_tokens=100, pad_token_id=0, nll_of=nll_of)
    assert len(asked) == sum(len(question.choices) for question in questions)
    assert all(set(chosen.log_likelihoods) == {-1.0} for chosen in found)
    assert choose(model, [], batch_tokens=100, pad_token_id=0, nll_of=never) == []


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("batch_tokens", [1, 150, 10**6])
def test_likelihoods_are_those_of_each_sequence_alone(name: str, batch_tokens: int):
    model, questions = make(name), make_questions(12)
    found = choose(model, questions, batch_tokens=batch_tokens, pad_token_id=0, nll_of=never)
    for question, chosen in zip(questions, found, strict=True):
        assert chosen.choices == tuple(choice.text for choice in question.choices)
        assert chosen.log_likelihoods == pytest.approx(plainly(model, question), rel=1e-10)
        assert chosen.choices[chosen.right] == question.response


def test_one_token_answers_need_no_second_pass():
    model = make()
    question = make_questions(1)[0]
    letters = EvaluationExample(
        question.prompt_ids, "", "a", question.tokenized, "r", (Choice("a", [4]), Choice("b", [5]))
    )
    [found] = choose(model, [letters], batch_tokens=99, pad_token_id=0, nll_of=never)
    assert found.log_likelihoods == pytest.approx(plainly(model, letters), rel=1e-10)


def test_virtual_tokens_are_scored_apart():
    model = make()
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3, token_dim=32, num_layers=2)
    tuned = get_peft_model(model, config).double()
    asked: list[TokenizedExample] = []

    def nll_of(sequences):
        asked.extend(sequences)
        return list(range(len(sequences)))

    questions = make_questions(2)
    found = choose(tuned, questions, batch_tokens=99, pad_token_id=0, nll_of=nll_of)
    assert [each.num_supervised_tokens for each in asked] == [len(c.token_ids) for q in questions for c in q.choices]
    assert found[0].log_likelihoods == tuple(-float(place) for place in range(len(questions[0].choices)))


def test_what_cannot_be_scored_has_no_answer():
    model = make()
    [plain, long] = make_questions(2)
    without = EvaluationExample(plain.prompt_ids, "", "x", plain.tokenized, "r")
    long = EvaluationExample([1] * 62, "", long.response, long.tokenized, "r", (*long.choices, Choice("z", [1] * 3)))
    found = choose(model, [without, plain, long], batch_tokens=999, pad_token_id=0, nll_of=never)
    assert [each is None for each in found] == [True, False, True]


def test_out_of_memory_halves_the_batch(monkeypatch: pytest.MonkeyPatch):
    model, questions = make(), make_questions(7)
    expected = choose(model, questions, batch_tokens=10**6, pad_token_id=0, nll_of=never)
    scores = choosing._scores

    def small_memory(model, causal_lm, batch, pad):
        if len(batch) > 2:
            raise torch.OutOfMemoryError("no memory")
        return scores(model, causal_lm, batch, pad)

    monkeypatch.setattr(choosing, "_scores", small_memory)
    found = choose(model, questions, batch_tokens=10**6, pad_token_id=0, nll_of=never)
    for one, other in zip(expected, found, strict=True):
        assert one.log_likelihoods == pytest.approx(other.log_likelihoods, rel=1e-12)


# --- metrics -------------------------------------------------------------------------------------------------------


def scores_of(answers: list[Chosen | None], *metrics: str):
    chosen = chosen_choice_metrics(EvaluationConfig(metrics=list(metrics)))
    return {scores.name: scores for scores in score_answers(chosen, answers)}


def test_accuracy_raw_and_by_length():
    answers = [
        Chosen(("no", "yes, of course"), (-3.0, -7.0), 0),  # raw: no; by length: -1.5 against -0.5, so yes
        Chosen(("no", "yes, of course"), (-3.0, -7.0), 1),
        None,
        Chosen(("a", "b"), (-1.0, -1.0), 0),  # of equal ones the first
    ]
    found = scores_of(answers, "auto")
    assert found["choice_accuracy"].value == pytest.approx(2 / 3)
    assert found["choice_accuracy_norm"].value == pytest.approx(2 / 3)
    assert found["choice_accuracy"].sums[:, 0].tolist() == [1, 0, 0, 1]
    assert found["choice_accuracy_norm"].sums[:, 0].tolist() == [0, 1, 0, 1]
    assert "choice_macro_f1" not in found  # not the same choices


def test_macro_f1_is_the_mean_of_each_labels_own():
    rng = np.random.default_rng(0)
    labels = ("good", "bad", "so-so", "never seen")
    right, guess = rng.integers(3, size=60), rng.integers(3, size=60)
    answers = []
    for r, g in zip(right, guess, strict=True):
        order = rng.permutation(4).tolist()  # the same choices in another order
        scores = tuple(0.0 if place == g else -1.0 for place in order)
        answers.append(Chosen(tuple(labels[place] for place in order), scores, order.index(r)))
    f1 = []
    for label in range(3):
        hits = int(((right == label) & (guess == label)).sum())
        precision, recall = hits / int((guess == label).sum()), hits / int((right == label).sum())
        f1.append(2 * precision * recall / (precision + recall))
    found = scores_of(answers, "choice_macro_f1")
    assert found["choice_macro_f1"].value == pytest.approx(np.mean(f1), rel=1e-12)
    estimate = estimates(list(found.values()))["choice_macro_f1"]
    assert estimate.count == 60
    assert estimate.interval[0] < estimate.value < estimate.interval[1]
    assert math.isnan(macro_f1_value(np.zeros(8)))


def test_metrics_of_choices_need_no_completion_and_are_not_asked_of_completions():
    check_metrics(EvaluationConfig(metrics=["choice_accuracy"], generate=False))
    with pytest.raises(ConfigError, match="brier is measured on completions"):
        check_metrics(EvaluationConfig(metrics=["brier"], generate=False))
