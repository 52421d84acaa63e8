"""BERTScore: how alike a completion and its reference are, token by token, in a layer of an encoder on this machine."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers.utils import logging

from tunelab.config import EvaluationConfig
from tunelab.embedded import locate
from tunelab.errors import ConfigError, first_line
from tunelab.evaluation.metrics.registry import Answer, Metric, metric

BATCH_TOKENS = 8192  # positions of one pass, padding included
Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Embedded:
    """The tokens of a text: `vectors` (tokens, size) of unit length, `counts` (tokens,) False for special ones."""

    vectors: torch.Tensor
    counts: torch.Tensor


@dataclass(frozen=True, slots=True)
class Encoder:
    """A model and its tokenizer; `layer` is the one to take (from 1), `max_tokens` what it can read."""

    model: Any
    tokenizer: Any
    layer: int
    max_tokens: int

    def embed(self, texts: Sequence[str]) -> tuple[list[Embedded], int]:
        """The texts in their order, and how many of them were cut at `max_tokens`.

        Spaces at the ends do not count; one in front makes the first word as it is within a sentence, as the package
        bert-score has it.
        """
        spaced = [f" {text.strip()}" if text.strip() else "" for text in texts]
        encoded = self.tokenizer(spaced, return_special_tokens_mask=True, verbose=False)
        num_cut = sum(len(ids) > self.max_tokens for ids in encoded["input_ids"])
        if num_cut:
            limits = {"truncation": True, "max_length": self.max_tokens}
            encoded = self.tokenizer(spaced, return_special_tokens_mask=True, **limits)
        batch = self.tokenizer.pad(encoded, return_tensors="pt", padding_side="right")
        is_token = batch["attention_mask"].bool()
        inputs = {name: batch[name].to(self.model.device) for name in ("input_ids", "attention_mask")}
        with torch.inference_mode():
            output = self.model(**inputs, output_hidden_states=True)
        hidden = torch.nn.functional.normalize(output.hidden_states[self.layer].float(), dim=-1).cpu()
        counts = batch["special_tokens_mask"] == 0
        rows = zip(hidden, counts, is_token, strict=True)
        return [Embedded(vectors[kept], counted[kept]) for vectors, counted, kept in rows], num_cut


@dataclass(slots=True)
class BertScorer:
    """The metric with its encoder, which is loaded at the first use; `num_cut` counts texts that were cut."""

    folder: Path
    layer: int
    num_cut: int = field(default=0, init=False)

    def fitted(self, metric: Metric, answers: Sequence[Answer]) -> Metric:
        """The metric with the scores of these answers; it applies where the reference has a token."""
        pairs = list(dict.fromkeys((answer.completion, answer.reference) for answer in answers))
        scores = self._score([pair for pair in pairs if pair[1].strip()])
        return replace(metric, score=lambda answer: scores.get((answer.completion, answer.reference)))

    def signature(self) -> str:
        """What makes the figure, for others to repeat it."""
        model, tokens = self.folder.resolve().name, f"|texts_cut:{self.num_cut}" if self.num_cut else ""
        return f"{model}_L{self.layer}_no-idf|rescaled:no{tokens}"

    def _score(self, pairs: Sequence[Pair]) -> dict[Pair, float]:
        encoder = load_encoder(self.folder, self.layer)
        found: dict[Pair, float] = {}
        for batch in _batches(pairs, lambda text: len(encoder.tokenizer(text, verbose=False)["input_ids"])):
            embedded, num_cut = encoder.embed([text for pair in batch for text in pair])
            self.num_cut += num_cut
            if not all(bool(each.vectors.isfinite().all()) for each in embedded):
                raise _unusable(self.folder, f"layer {self.layer} has values that are no numbers")
            found |= dict(zip(batch, map(f1, embedded[::2], embedded[1::2]), strict=True))
        return found


def f1(completion: Embedded, reference: Embedded) -> float:
    """F1 of greedy matching by cosine similarity (Zhang et al. 2020); 0 for an empty completion.

    As in the package bert-score, special tokens have no weight of their own but can be matched.
    """
    if not completion.counts.any() or not reference.counts.any():
        return 0.0
    similarity = completion.vectors @ reference.vectors.T
    precision = float(similarity.amax(1)[completion.counts].mean())
    recall = float(similarity.amax(0)[reference.counts].mean())
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


@lru_cache(maxsize=1)
def load_encoder(folder: Path, layer: int) -> Encoder:
    """Read model and tokenizer from `folder` alone, in float32, to a CUDA device where there is one.

    Raises:
        ConfigError: a file is missing or does not fit.
    """
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # a table of weights that an encoder alone does not need
    try:
        model, report = AutoModel.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, ValueError, ImportError, KeyError, RuntimeError, SafetensorError) as error:
        raise _unusable(folder, first_line(error)) from error
    finally:
        logging.set_verbosity(verbosity)
    absent = map(str, [*report["missing_keys"], *report["mismatched_keys"]])
    missing = sorted(name for name in absent if "pooler" not in name)  # which only classifiers need
    if missing:
        raise _unusable(folder, f"no weights for {missing[0]}")
    tokenizer = load_words(folder)
    model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
    positions = getattr(model.config, "max_position_embeddings", None)
    known = [tokenizer.model_max_length, *([positions - 2] if positions else [])]  # RoBERTa's positions begin at 2
    limit = min(known) if tokenizer.model_max_length > 10**6 else tokenizer.model_max_length
    return Encoder(model, tokenizer, layer, int(limit))


@lru_cache(maxsize=1)
def load_words(folder: Path) -> Any:
    """Read the tokenizer from `folder` alone.

    Raises:
        ConfigError: there is none, which transformers takes for one without words, or it cannot pad.
    """
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise _unusable(folder, first_line(error)) from error
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
        raise _unusable(folder, "no tokenizer that knows a word")
    if tokenizer.pad_token_id is None:
        raise _unusable(folder, "its tokenizer has no padding token")
    return tokenizer


def _configured(metric: Metric, config: EvaluationConfig) -> Metric:
    """The metric with the encoder that the configuration names, which is there and has the layer."""
    if config.bert_score_model is None:
        raise ConfigError(
            "evaluation.bert_score_model: expected the folder of an encoder for evaluation.metrics=[bert_score], found "
            "null; set evaluation.bert_score_model=<folder> (nothing is downloaded)."
        )
    folder = Path(locate(config.bert_score_model)).expanduser()
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise ConfigError(
            "evaluation.bert_score_model: expected a folder with config.json and *.safetensors, found none in "
            f"{config.bert_score_model!r}; set evaluation.bert_score_model=<folder> (nothing is downloaded)."
        )
    scorer = BertScorer(folder, _layer(folder, config.bert_score_layer))
    load_words(folder)
    return replace(metric, fitted=scorer.fitted, signature=scorer.signature)


def _layer(folder: Path, layer: int | None) -> int:
    try:
        count = AutoConfig.from_pretrained(folder, local_files_only=True).get_text_config().num_hidden_layers
    except (OSError, ValueError, ImportError, KeyError, AttributeError) as error:
        raise _unusable(folder, first_line(error)) from error
    if layer is not None and not 1 <= layer <= count:
        raise ConfigError(
            f"evaluation.bert_score_layer: expected null or a layer from 1 to {count}, as {str(folder)!r} has, found "
            f"{layer}; set evaluation.bert_score_layer={count}."
        )
    return count if layer is None else layer


def _unusable(folder: Path, reason: str) -> ConfigError:
    return ConfigError(
        f"evaluation.bert_score_model: expected an encoder of transformers and its tokenizer, found {str(folder)!r} "
        f"({reason}); set evaluation.bert_score_model=<folder>."
    )


def _batches(pairs: Sequence[Pair], num_tokens: Callable[[str], int]) -> Iterator[list[Pair]]:
    """Pairs of like length, the longest first, in batches of at most BATCH_TOKENS positions."""
    lengths = {pair: max(map(num_tokens, pair)) for pair in pairs}
    batch: list[Pair] = []
    for pair in sorted(pairs, key=lambda pair: -lengths[pair]):
        if batch and 2 * (len(batch) + 1) * lengths[batch[0]] > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(pair)
    if batch:
        yield batch


@metric("BERTScore", needs="a reference with a word", configured=_configured)
def bert_score(answer: Answer) -> None:
    """F1 of tokens matched by cosine similarity in an encoder (Zhang et al. 2020); no idf, no rescaling."""
    del answer  # all answers are scored together: see `BertScorer`
