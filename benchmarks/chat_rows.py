"""Chat rows of word-like text and a tokenizer for them, drawn from a seed: realistic lengths, words and merges.

Imports nothing of tunelab.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from workload import ALPACA, GSM8K, PROBABILITIES, Lengths

TOKENS_PER_PIECE = 1.8  # a piece is a word or a number with what stands behind it; measured on these rows
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# As Llama 3's: contractions, words, up to three digits, punctuation, line breaks, other white space.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CHUNK = 10_000


def make_words(num_words: int, seed: int) -> list[str]:
    """Different words of one to five syllables; the earlier (the more frequent), the shorter."""
    generator = np.random.Generator(np.random.Philox(seed))
    onsets = [*"bcdfghjklmnprstvw", "st", "tr", "pl", "ch", "sh", "th", "br", "cr", "gr"]
    vowels, codas = [*"aeiou", "ea", "ou"], ["", "", "", *"nrlst"]
    syllables = [onset + vowel + coda for onset in onsets for vowel in vowels for coda in codas]
    words: dict[str, None] = {}
    while len(words) < num_words:
        length = 1 + min(int(generator.poisson(0.4 * np.log10(1 + len(words) / 100))), 4)
        words.setdefault("".join(syllables[i] for i in generator.integers(len(syllables), size=length)))
    return list(words)


def draw_conversations(num_rows: int, seed: int) -> Iterator[tuple[str, str]]:
    """Questions and answers, by turns with the lengths of GSM8K's and of alpaca's rows."""
    words = make_words(40_000, seed)
    pieces = [*words, *(word.capitalize() for word in words[:5000]), *map(str, range(1000))]
    separators = np.array([" "] * 17 + [", ", ". ", ".\n"], dtype=object)
    frequency = 1 / (np.arange(len(pieces)) + 3.0)
    frequency[len(words) :] = 0.15 * frequency.sum() / (len(pieces) - len(words))
    cumulative = np.cumsum(frequency / frequency.sum())
    for start in range(0, num_rows, _CHUNK):
        generator = np.random.Generator(np.random.Philox([seed, start]))
        lengths = _draw_lengths(min(_CHUNK, num_rows - start), generator)
        table = np.array(pieces, dtype=object)
        drawn = table[np.searchsorted(cumulative, generator.random(int(lengths.sum())))]
        text = (drawn + separators[generator.integers(len(separators), size=len(drawn))]).tolist()
        ends = np.cumsum(lengths).tolist()
        contents = ["".join(text[a:b]).strip() for a, b in zip([0, *ends], ends, strict=False)]
        yield from zip(contents[::2], contents[1::2], strict=True)


def _draw_lengths(num_rows: int, generator: np.random.Generator) -> npt.NDArray[np.int64]:
    """Pieces of question, answer, question, answer …"""
    uniform = generator.random((num_rows, 2))

    def pieces(kind: Lengths) -> npt.NDArray[np.float64]:
        both = (kind.prompt, kind.response)
        return np.stack([np.interp(uniform[:, i], PROBABILITIES, both[i]) for i in (0, 1)], axis=1)

    even = (np.arange(num_rows) % 2 == 0)[:, None]
    tokens = np.where(even, pieces(GSM8K), pieces(ALPACA))
    return np.maximum(tokens / TOKENS_PER_PIECE, 1).astype(np.int64).ravel()


def write_rows(path: Path, num_rows: int, seed: int, num_bytes: int | None = None, as_pairs: bool = False) -> int:
    """Write rows of `messages`, or of `prompt` and `completion`, as JSONL; stop at `num_bytes`. Return their number."""
    written = count = 0
    with path.open("w", encoding="utf-8") as file:
        for question, answer in draw_conversations(num_rows, seed):
            user, assistant = {"role": "user", "content": question}, {"role": "assistant", "content": answer}
            row = {"prompt": [user], "completion": [assistant]} if as_pairs else {"messages": [user, assistant]}
            written += file.write(json.dumps(row) + "\n")
            count += 1
            if num_bytes is not None and written >= num_bytes:
                break
    return count


def train_tokenizer(vocabulary: int, num_rows: int, seed: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE as Llama 3's and Qwen's, trained on such rows, with ChatML's template."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator((text for pair in draw_conversations(num_rows, seed) for text in pair), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>", model_max_length=32768
    )
    tokenizer.chat_template = CHATML
    return tokenizer
