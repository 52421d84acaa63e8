"""Miniature models of several architectures that do not repeat one token for ever, and prompts for them."""

import copy
import random

import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from tunelab.evaluation.decoding import Completion, Decoding
from tunelab.evaluation.generating import generate

VOCABULARY = 60
ENDS = [7, 11, 13]
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "eos_token_id": None,
    "bos_token_id": None,
    "initializer_range": 0.3,  # random weights that do not repeat one token for ever
}
GROUPED = {**SIZES, "intermediate_size": 64, "num_key_value_heads": 2, "head_dim": 8}
ARCHITECTURES: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**GROUPED),
    "gpt2": GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.3,
        eos_token_id=None, bos_token_id=None,
    ),
    "mistral": MistralConfig(**GROUPED, sliding_window=6),
    "qwen2": Qwen2Config(**{k: v for k, v in GROUPED.items() if k != "head_dim"}),
    "qwen3": Qwen3Config(**GROUPED),
}  # fmt: skip


def make(name: str = "llama", dtype: torch.dtype = torch.float64) -> PreTrainedModel:
    torch.manual_seed(3)
    return AutoModelForCausalLM.from_config(copy.deepcopy(ARCHITECTURES[name])).to(dtype)


def make_prompts(count: int, longest: int = 20) -> list[list[int]]:
    rng = random.Random(5)
    return [[rng.randrange(VOCABULARY) for _ in range(rng.randint(1, longest))] for _ in range(count)]


def run(model: torch.nn.Module, prompts: list[list[int]], sample_numbers=None, **changes) -> list[Completion]:
    arguments = {"max_new_tokens": 24, "batch_tokens": 10**6, "end_token_ids": ENDS, "pad_token_id": 0}
    return generate(model, prompts, Decoding(**{**arguments, **changes}), sample_numbers)
