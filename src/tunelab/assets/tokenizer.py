"""The tokenizer of `tiny`: byte-level BPE in which a value has the same tokens wherever it stands."""

from itertools import islice

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from tunelab.assets.corpus import documents

PAD, BOS, EOS, END = "<|pad|>", "<|bos|>", "<|eos|>", "<|end|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
SPECIAL_TOKENS = (PAD, BOS, EOS, END, *ROLES)
VOCABULARY_SIZE = 1536
NUM_TRAINING_DOCUMENTS = 20_000
MAX_LENGTH_TOKENS = 1024

WORDS = Regex(
    r" ?\p{Ll}+(?:['’]\p{Ll}+)?"  # a lower-case word carries its space
    r"|\p{Lu}\p{Ll}+"  # a capitalised word never does, so a name after a space or a quote is the same name
    r"|\p{Lu}+(?!\p{Ll})"
    r"|\p{L}+"
    r"|\p{N}{1,2}"  # digits in pairs from the left: days, months and cents are one token each
    r"|[^\s\p{L}\p{N}]+(?: [^\s\p{L}\p{N}]+)*(?: (?=[\p{Lu}\p{N}]))?"  # takes the space before a value
    r"|\s+"
)

CHAT_TEMPLATE = (
    "{{- bos_token -}}"
    "{%- for message in messages -%}"
    "{%- if message['role'] not in ['system', 'user', 'assistant'] -%}"
    "{{- raise_exception('unknown role ' + message['role']) -}}"
    "{%- endif -%}"
    "{{- '<|' + message['role'] + '|>' + message['content'] + '<|end|>' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)
"""Prefix-stable: adding a turn never changes the text of the turns before it."""


def token_id(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    """The id of one of `SPECIAL_TOKENS`."""
    found = tokenizer.convert_tokens_to_ids(token)
    assert isinstance(found, int)
    return found


def train_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Train the BPE on the first documents of the corpus."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(WORDS, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = islice(documents(seed), NUM_TRAINING_DOCUMENTS)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        additional_special_tokens=[END, *ROLES],
        model_max_length=MAX_LENGTH_TOKENS,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast
