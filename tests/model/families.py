"""Every architecture of the model group in miniature: its own classes, two layers, random weights, tiny's tokenizer."""

import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import (
    Gemma2Config,
    Gemma3Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    GptOssConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    MixtralConfig,
    Olmo2Config,
    OlmoeConfig,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2MoeConfig,
    Qwen3Config,
    Qwen3MoeConfig,
)
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from tunelab.embedded import locate

VOCABULARY = 1536
COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.2,
}  # fmt: skip
SIZES = {  # 64: bitsandbytes quantises blocks of 64 weights
    **COMMON, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 128,
}  # fmt: skip
GROUPED = {**SIZES, "num_key_value_heads": 2}
NO_DROPOUT = {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}
LAYERWISE = {"head_dim": 16, "layer_types": ["sliding_attention", "full_attention"], "query_pre_attn_scalar": 16}

CONFIGS: dict[str, PreTrainedConfig] = {
    "gpt2": GPT2Config(**COMMON, n_embd=64, n_layer=2, n_head=4, n_positions=128, **NO_DROPOUT),
    "gpt_neox": GPTNeoXConfig(**SIZES),
    "llama": LlamaConfig(**GROUPED, tie_word_embeddings=True),
    "qwen2": Qwen2Config(**GROUPED, use_sliding_window=False, sliding_window=8, max_window_layers=2),
    "qwen3": Qwen3Config(**GROUPED, head_dim=16, tie_word_embeddings=True),
    "mistral": MistralConfig(**GROUPED, sliding_window=64),
    "gemma2": Gemma2Config(
        **GROUPED, **LAYERWISE, sliding_window=64, attn_logit_softcapping=5.0, final_logit_softcapping=10.0
    ),
    "gemma3": Gemma3TextConfig(**GROUPED, **LAYERWISE, sliding_window=64),
    "phi3": Phi3Config(**GROUPED, sliding_window=64),
    "olmo2": Olmo2Config(**GROUPED),
    "mamba": MambaConfig(**COMMON, hidden_size=64, num_hidden_layers=2, state_size=8, time_step_rank=64),
}
EXPERTS = {"num_experts_per_tok": 2, "num_experts": 4}
NARROW = {**EXPERTS, "moe_intermediate_size": 64}
VISION = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28,
    "patch_size": 14,
}  # fmt: skip
IMAGES = {"mm_tokens_per_image": 4, "image_token_index": 1500, "boi_token_index": 1501, "eoi_token_index": 1502}

MIXTURES: dict[str, PreTrainedConfig] = {  # of experts; not of the group
    "mixtral": MixtralConfig(**GROUPED, num_local_experts=3, num_experts_per_tok=2),
    "qwen3_moe": Qwen3MoeConfig(**GROUPED, **NARROW, head_dim=16),
    "olmoe": OlmoeConfig(**GROUPED, **EXPERTS),
    "qwen2_moe": Qwen2MoeConfig(**GROUPED, **NARROW, shared_expert_intermediate_size=64),
    "gpt_oss": GptOssConfig(**GROUPED, num_local_experts=4, num_experts_per_tok=2, head_dim=16, sliding_window=64),
}
OTHERS: dict[str, PreTrainedConfig] = {
    **MIXTURES,
    "gemma3_vision": Gemma3Config(
        text_config={**GROUPED, **LAYERWISE, "sliding_window": 64}, vision_config=VISION, **IMAGES
    ),
}


def miniature(name: str, **changes: Any) -> PreTrainedModel:
    """The model, weights drawn from one seed, in float32."""
    config = {**CONFIGS, **OTHERS}[name]
    torch.manual_seed(0)
    changed = type(config).from_dict({**config.to_dict(), **changes}) if changes else config
    return AutoModelForCausalLM.from_config(changed)


def save_miniature(name: str, folder: Path, **changes: Any) -> Path:
    """Write the model and a tokenizer into `folder`, as a downloaded base model lies."""
    miniature(name, **changes).save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(Path(locate("embedded:tiny")) / file, folder)
    return folder
