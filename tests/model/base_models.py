"""The architecture of each base model of conf/model, as its hub page has it: nothing is downloaded.

`num_parameters` is what the hub page, the paper or the model card publishes; it is not computed from the numbers here.
"""

from dataclasses import dataclass
from typing import Any

from transformers import (
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Phi3Config,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)


@dataclass(frozen=True)
class BaseModel:
    """Where it is, what is published, its context in tokens, and its shape."""

    path: str
    num_parameters: int
    context: int
    config: PreTrainedConfig


def llama(hidden: int, mlp: int, layers: int, heads: int, key_value_heads: int, vocabulary: int, **more: Any) -> dict:
    """The keys that Llama and the architectures after it share."""
    return {
        "hidden_size": hidden,
        "intermediate_size": mlp,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": key_value_heads,
        "vocab_size": vocabulary,
        "pad_token_id": None,
        **more,
    }


ENDS = {"bos_token_id": 50256, "eos_token_id": 50256}
TIED, UNTIED = {"tie_word_embeddings": True}, {"tie_word_embeddings": False}
WIDE_HEADS = {"head_dim": 256, "pad_token_id": 0}
# Sliding windows as the files on the hub give them. Qwen's stand beside use_sliding_window=false.
LONG = {"use_sliding_window": False, "sliding_window": 131072, "max_window_layers": 28}
SHORT = {"use_sliding_window": False, "sliding_window": 32768, "max_window_layers": 24}

BASE_MODELS: dict[str, BaseModel] = {
    "tiny": BaseModel(
        "embedded:tiny", 2_066_112, 1024, LlamaConfig(**llama(192, 512, 4, 6, 6, 1536, head_dim=32), **TIED)
    ),
    "gpt2": BaseModel("openai-community/gpt2", 124_439_808, 1024, GPT2Config(**ENDS)),
    "dialogpt-medium": BaseModel(  # the shape of GPT-2 medium
        "microsoft/DialoGPT-medium", 354_823_168, 1024, GPT2Config(n_embd=1024, n_layer=24, n_head=16, **ENDS)
    ),
    "pythia-160m": BaseModel(  # table 1 of Biderman et al. 2023: 85,056,000 without both embeddings of 50,304 x 768
        "EleutherAI/pythia-160m",
        162_322_944,
        2048,
        GPTNeoXConfig(
            hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, vocab_size=50304
        ),
    ),
    "smollm2-135m": BaseModel(
        "HuggingFaceTB/SmolLM2-135M", 134_515_008, 8192, LlamaConfig(**llama(576, 1536, 30, 9, 3, 49152), **TIED)
    ),
    "smollm2-360m": BaseModel(
        "HuggingFaceTB/SmolLM2-360M", 361_821_120, 8192, LlamaConfig(**llama(960, 2560, 32, 15, 5, 49152), **TIED)
    ),
    "qwen2.5-0.5b": BaseModel(
        "Qwen/Qwen2.5-0.5B", 494_032_768, 32768, Qwen2Config(**llama(896, 4864, 24, 14, 2, 151936), **TIED, **SHORT)
    ),
    "qwen2.5-1.5b": BaseModel(
        "Qwen/Qwen2.5-1.5B", 1_543_714_304, 131072, Qwen2Config(**llama(1536, 8960, 28, 12, 2, 151936), **TIED, **LONG)
    ),
    "qwen2.5-7b": BaseModel(
        "Qwen/Qwen2.5-7B", 7_615_616_512, 131072, Qwen2Config(**llama(3584, 18944, 28, 28, 4, 152064), **UNTIED, **LONG)
    ),
    "qwen3-0.6b": BaseModel(  # 596 M; the file repeats the tied head, so that the hub shows 751,632,384
        "Qwen/Qwen3-0.6B", 596_049_920, 40960, Qwen3Config(**llama(1024, 3072, 28, 16, 8, 151936, head_dim=128), **TIED)
    ),
    "qwen3-8b": BaseModel(
        "Qwen/Qwen3-8B",
        8_190_735_360,
        40960,
        Qwen3Config(**llama(4096, 12288, 36, 32, 8, 151936, head_dim=128), **UNTIED),
    ),
    "llama3.1-8b": BaseModel(
        "meta-llama/Llama-3.1-8B", 8_030_261_248, 131072, LlamaConfig(**llama(4096, 14336, 32, 32, 8, 128256), **UNTIED)
    ),
    "llama3.2-1b": BaseModel(
        "meta-llama/Llama-3.2-1B",
        1_235_814_400,
        131072,
        LlamaConfig(**llama(2048, 8192, 16, 32, 8, 128256, head_dim=64), **TIED),
    ),
    "llama3.2-3b": BaseModel(
        "meta-llama/Llama-3.2-3B",
        3_212_749_824,
        131072,
        LlamaConfig(**llama(3072, 8192, 28, 24, 8, 128256, head_dim=128), **TIED),
    ),
    "mistral7b": BaseModel(
        "mistralai/Mistral-7B-v0.1",
        7_241_732_096,
        32768,
        MistralConfig(**llama(4096, 14336, 32, 32, 8, 32000), **UNTIED, sliding_window=4096),
    ),
    "mistral7b-instruct": BaseModel(
        "mistralai/Mistral-7B-Instruct-v0.3",
        7_248_023_552,
        32768,
        MistralConfig(**llama(4096, 14336, 32, 32, 8, 32768), **UNTIED, sliding_window=None),
    ),
    "gemma2-2b": BaseModel(
        "google/gemma-2-2b",
        2_614_341_888,
        8192,
        Gemma2Config(**{**llama(2304, 9216, 26, 8, 4, 256000), **WIDE_HEADS}, sliding_window=4096),
    ),
    "gemma3-1b": BaseModel(
        "google/gemma-3-1b-pt",
        999_885_952,
        32768,
        Gemma3TextConfig(**{**llama(1152, 6912, 26, 4, 1, 262144), **WIDE_HEADS}, sliding_window=512),
    ),
    "phi3-mini": BaseModel(
        "microsoft/Phi-3-mini-4k-instruct",
        3_821_079_552,
        4096,
        Phi3Config(**{**llama(3072, 8192, 32, 32, 32, 32064), "pad_token_id": 32000}, sliding_window=2047),
    ),
    "phi4-mini": BaseModel(
        "microsoft/Phi-4-mini-instruct",
        3_836_021_760,
        131072,
        Phi3Config(
            **{**llama(3072, 8192, 32, 24, 8, 200064, partial_rotary_factor=0.75), "pad_token_id": 199999},
            **TIED,
            bos_token_id=199999,
            eos_token_id=199999,
            sliding_window=262144,
        ),
    ),
    "olmo2-1b": BaseModel(
        "allenai/OLMo-2-0425-1B", 1_484_916_736, 4096, Olmo2Config(**llama(2048, 8192, 16, 16, 16, 100352), **UNTIED)
    ),
    "olmo2-7b": BaseModel(
        "allenai/OLMo-2-1124-7B", 7_298_617_344, 4096, Olmo2Config(**llama(4096, 11008, 32, 32, 32, 100352), **UNTIED)
    ),
}


def lora_parameters(config: Any, rank: int = 16) -> int:
    """What LoRA adds on every linear layer but the head, by arithmetic: rank x (inputs + outputs) for each."""
    if config.model_type == "gpt2":
        h, layers = config.n_embd, config.n_layer
        return rank * layers * ((h + 3 * h) + (h + h) + (h + 4 * h) + (4 * h + h))
    h, mlp, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    if config.model_type == "gpt_neox":
        return rank * layers * ((h + 3 * h) + (h + h) + (h + mlp) + (mlp + h))
    size = getattr(config, "head_dim", None) or h // config.num_attention_heads
    query, key_value = size * config.num_attention_heads, size * config.num_key_value_heads
    down = (query + h) + (mlp + h)  # back into the stream: o_proj, down_proj
    if config.model_type == "phi3":  # query, key and value in one layer, gate and up in another
        return rank * layers * ((h + query + 2 * key_value) + (h + 2 * mlp) + down)
    return rank * layers * ((h + query) + 2 * (h + key_value) + 2 * (h + mlp) + down)
