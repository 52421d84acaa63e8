"""Tokenizers small enough to know every id: bytes, a few merges, special tokens first."""

from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

CHATML = (
    "{% for m in messages %}<|start|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
# Rewrites earlier turns, as reasoning models do: only the last answer keeps its (empty) thought.
REWRITING = (
    "{% for m in messages %}<|start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think></think>{% endif %}"
    "{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
# No end marker, no generation prompt: the role is written in front of every message.
BARE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
# As Mistral's and Llama 2's: no generation prompt, a space before the answer, bos rendered, no system role.
INSTRUCT = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content | trim }}{{ eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
# Its generation prompt is no beginning of what it renders afterwards.
THINKING = (
    "{% for m in messages %}<|start|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n<think>\n{% endif %}"
)

SPECIAL = ["<pad>", "<s>", "</s>", "<|start|>", "<|end|>"]


def byte_level(merges: tuple[tuple[str, str], ...] = (), **options: Any) -> PreTrainedTokenizerFast:
    """A byte-level BPE with exactly these merges. Ids: special tokens 0 to 4, then 256 bytes, then merges."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*SPECIAL, *alphabet, *(a + b for a, b in merges)]
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=list(merges)))
    regex = options.pop("regex", False)  # split into words before merging, as GPT-2 does
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=regex)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    return wrap(tokenizer, **options)


def sentencepiece_like(corpus: list[str], **options: Any) -> PreTrainedTokenizerFast:
    """As Llama 2's: a space before every text, spaces as `▁`, byte fall-back, trained on `corpus`."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = [*SPECIAL, *(f"<0x{i:02X}>" for i in range(256))]
    tokenizer.train_from_iterator(
        corpus, trainers.BpeTrainer(vocab_size=500, special_tokens=special, show_progress=False)
    )
    return wrap(tokenizer, **options)


def wrap(tokenizer: Tokenizer, **options: Any) -> PreTrainedTokenizerFast:
    chat_template = options.pop("chat_template", None)
    swallowing = options.pop("swallowing", [])  # special tokens that take the white space after them
    defaults = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **{**defaults, **options})
    wrapped.chat_template = chat_template
    wrapped.add_tokens([AddedToken(token, rstrip=True, special=True) for token in swallowing])
    return wrapped
