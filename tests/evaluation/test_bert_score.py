"""BERTScore against plain loops, with an encoder of random weights that the test makes."""

import math

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from tunelab.config import EvaluationConfig
from tunelab.data.records import EvaluationExample, TokenizedExample
from tunelab.errors import ConfigError
from tunelab.evaluation.measurable import measurable
from tunelab.evaluation.metrics import Answer, check_metrics, chosen_metrics
from tunelab.evaluation.scores import estimates, score_answers

WORDS = ["the", "cat", "sat", "on", "a", "mat", "dog", "ran", "fast", "and", "slow"]
PAIRS = [
    ("the cat sat", "a cat sat on the mat"),
    ("the dog ran fast and slow and fast and slow", "the cat"),
    (" the cat  ", "the cat"),
    ("", "the cat"),
    ("dog", "a dog"),
    ("the cat sat on the mat and the dog ran", "the mat sat on the cat and the dog ran fast"),
]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    vocabulary = {word: place for place, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)])
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=32, **special).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=32, initializer_range=0.5,
    )  # fmt: skip
    model = BertForMaskedLM(config)
    model.save_pretrained(folder)
    return folder, model.eval(), vocabulary


def settings(folder, **changes):
    return EvaluationConfig(**{"metrics": ["bert_score"], "bert_score_model": str(folder), **changes})


def scores_of(config, pairs):
    [metric] = chosen_metrics(config, [])
    [scores] = score_answers([metric], [Answer(*pair) for pair in pairs])
    return scores, metric


def by_loops(model, vocabulary, layer, completion, reference):
    """Zhang et al. 2020, one text at a time, token by token; [CLS] and [SEP] weigh nothing but may be matched."""

    def vectors(text):
        ids = [2, *(vocabulary.get(word, 1) for word in text.split()), 3]
        with torch.no_grad():
            hidden = model.bert(torch.tensor([ids]), output_hidden_states=True).hidden_states[layer][0].tolist()
        return [[value / math.hypot(*vector) for value in vector] for vector in hidden]

    def mean_of_best(ones, others):
        best = [max(sum(a * b for a, b in zip(one, other, strict=True)) for other in others) for one in ones[1:-1]]
        return sum(best) / len(best)

    found, expected = vectors(completion), vectors(reference)
    if len(found) == 2:
        return 0.0
    precision, recall = mean_of_best(found, expected), mean_of_best(expected, found)
    return 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize("layer", [1, 3, None])
def test_each_score_is_that_of_plain_loops(encoder, layer):
    folder, model, vocabulary = encoder
    scores, metric = scores_of(settings(folder, bert_score_layer=layer), PAIRS)
    expected = [by_loops(model, vocabulary, layer or 3, *pair) for pair in PAIRS]
    assert scores.sums[:, 0].tolist() == pytest.approx(expected, abs=1e-5)
    assert scores.value == pytest.approx(sum(expected) / len(expected), abs=1e-5)
    assert scores.sums[2, 0] == pytest.approx(1)
    assert estimates([scores])["bert_score"].interval is not None
    assert metric.signature() == f"{folder.name}_L{layer or 3}_no-idf|rescaled:no"


def test_the_batch_does_not_matter(encoder, monkeypatch):
    folder, *_ = encoder
    together, _ = scores_of(settings(folder), PAIRS)
    monkeypatch.setattr("tunelab.evaluation.metrics.bert.BATCH_TOKENS", 1)
    alone, _ = scores_of(settings(folder), PAIRS)
    assert alone.sums[:, 0].tolist() == pytest.approx(together.sums[:, 0].tolist(), abs=1e-5)


def test_long_texts_are_cut_and_counted(encoder):
    folder, *_ = encoder
    scores, metric = scores_of(settings(folder), [("cat " * 50, "cat " * 30), ("cat", "cat")])
    assert scores.value == pytest.approx(1)
    assert metric.signature().endswith("|texts_cut:1")


def test_it_applies_where_the_reference_has_a_word(encoder):
    folder, *_ = encoder
    scores, _ = scores_of(settings(folder), [("cat", " "), ("cat", "cat")])
    assert (scores.count, scores.applies.tolist()) == (1, [False, True])


@pytest.mark.parametrize(("reference", "found"), [("the cat", {"bert_score": True}), (" ", {})])
def test_what_can_be_measured_is_known_without_the_encoder(encoder, monkeypatch, reference, found):
    monkeypatch.setattr("tunelab.evaluation.metrics.bert.load_encoder", None)
    tokenized = TokenizedExample(torch.tensor([1, 2]), torch.tensor([False, True]), "row")
    assert measurable(settings(encoder[0]), [EvaluationExample([1], "what", reference, tokenized, "row")]) == found


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bert_score_model": None}, "bert_score_model: expected the folder of an encoder .*found null"),
        ({"bert_score_model": "no/such"}, r"bert_score_model: .*found none in 'no/such'.*nothing is downloaded"),
        ({"bert_score_layer": 4}, "bert_score_layer: expected null or a layer from 1 to 3, .*set .*_layer=3"),
    ],
)
def test_what_is_missing_is_one_sentence(encoder, changes, message):
    with pytest.raises(ConfigError, match=message):
        check_metrics(settings(encoder[0], **changes))


def test_an_encoder_without_all_its_weights_is_refused(encoder, tmp_path):
    folder, model, _ = encoder
    copied(folder, tmp_path)
    weights = {name: value for name, value in model.state_dict().items() if "layer.1.attention" not in name}
    model.save_pretrained(tmp_path, state_dict=weights)
    with pytest.raises(ConfigError, match=r"bert_score_model: .*no weights for .*layer\.1\.attention"):
        scores_of(settings(tmp_path), PAIRS)


def copied(folder, to, leave_out=""):
    for file in folder.iterdir():
        if not leave_out or leave_out not in file.name:
            (to / file.name).write_bytes(file.read_bytes())


def test_an_encoder_without_its_tokenizer_is_refused_before_anything_is_loaded(encoder, tmp_path):
    copied(encoder[0], tmp_path, leave_out="tokenizer")  # transformers makes one that knows no word
    with pytest.raises(ConfigError, match=r"bert_score_model: .*\(no tokenizer that knows a word\)"):
        check_metrics(settings(tmp_path))


def test_vectors_that_are_no_numbers_are_no_score_of_0(encoder, tmp_path):
    folder, model, vocabulary = encoder
    copied(folder, tmp_path)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    weights["bert.embeddings.word_embeddings.weight"][vocabulary["cat"]] = math.nan
    model.save_pretrained(tmp_path, state_dict=weights)
    with pytest.raises(ConfigError, match=r"bert_score_model: .*\(layer 3 has values that are no numbers\)"):
        scores_of(settings(tmp_path), PAIRS)
