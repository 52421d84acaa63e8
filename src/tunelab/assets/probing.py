"""Two measures of the base model: held-out perplexity, and the copying of values it has never seen."""

import math
from itertools import islice
from random import Random

import torch
from torch.nn import functional
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from tunelab.assets.corpus import documents
from tunelab.assets.tickets import draw_ticket, write_message
from tunelab.assets.tokenizer import EOS, PAD, token_id
from tunelab.assets.values import Pool

HELD_OUT_SEED = "held-out"
IGNORE_INDEX = -100
COPIED: tuple[str, ...] = ("customer", "order", "product", "date", "amount")
PROBE_KEYS = {"customer": "name", "order": "ref", "product": "item", "date": "bought", "amount": "price"}


def encode(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> torch.Tensor:
    """Encode documents as right-padded rows `<|bos|> … <|eos|>`; returns ids [documents, longest]."""
    pad = token_id(tokenizer, PAD)
    rows = tokenizer([text + EOS for text in texts])["input_ids"]
    longest = max(map(len, rows))
    width = longest + (1 - longest) % 32  # one more than a multiple of 32: few shapes, so few kernels to prepare
    return torch.tensor([ids + [pad] * (width - len(ids)) for ids in rows])


def nll_sum(model: LlamaForCausalLM, ids: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Sum of the next-token losses over all real tokens of `ids`, in nats, and their number.

    Rows are right-padded, so the causal mask alone keeps real tokens from seeing padding.
    """
    labels = ids[:, 1:].masked_fill(ids[:, 1:] == model.config.pad_token_id, IGNORE_INDEX)
    logits = model(input_ids=ids[:, :-1], use_cache=False).logits
    loss = functional.cross_entropy(
        logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORE_INDEX, reduction="sum"
    )
    return loss, int((labels != IGNORE_INDEX).sum())


@torch.no_grad()
def held_out_perplexity(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, num_documents: int = 128) -> float:
    """Perplexity per token on documents whose seed is not used for training."""
    texts = list(islice(documents(HELD_OUT_SEED), num_documents))
    total, count = 0.0, 0
    for start in range(0, len(texts), 16):
        loss, tokens = nll_sum(model, encode(tokenizer, texts[start : start + 16]))
        total, count = total + float(loss), count + tokens
    return math.exp(total / count)


def _probe_text(rng: Random) -> tuple[str, dict[str, tuple[int, int]]]:
    """A message and its facts as an object, with the character span of every value."""
    ticket = draw_ticket(rng, Pool.VALIDATION)
    text = write_message(rng, ticket, Pool.VALIDATION) + "\n\n{"
    values = {
        "customer": ticket.customer,
        "order": ticket.order,
        "product": ticket.product,
        "date": ticket.date and ticket.date.iso,
        "amount": ticket.amount and ticket.amount.plain,
    }
    spans: dict[str, tuple[int, int]] = {}
    for field in COPIED:
        text += f'"{PROBE_KEYS[field]}": '
        start = len(text)
        text += f'"{values[field]}", ' if values[field] else "null, "
        spans[field] = (start, len(text) - 3)
    return text, spans


@torch.no_grad()
def copy_accuracy(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, num_messages: int = 64
) -> dict[str, float]:
    """Share of values of unseen messages whose every token is the model's first choice, per field."""
    rng = Random("probe")
    hits: dict[str, int] = dict.fromkeys(COPIED, 0)
    for _ in range(num_messages):
        text, spans = _probe_text(rng)
        encoded = tokenizer(text, return_offsets_mapping=True, return_tensors="pt")
        ids, offsets = encoded["input_ids"], encoded["offset_mapping"][0].tolist()
        right = model(input_ids=ids).logits[0, :-1].argmax(-1) == ids[0, 1:]
        for field, (start, end) in spans.items():
            inside = [i - 1 for i, (left, _) in enumerate(offsets) if i and start <= left < end]
            hits[field] += bool(right[inside].all())
    return {field: count / num_messages for field, count in hits.items()}
