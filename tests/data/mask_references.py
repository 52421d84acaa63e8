"""Tokenizers of every kind, chat layouts, and a loss mask derived slowly and plainly, to compare with."""

from collections.abc import Callable
from itertools import pairwise

from tiny_tokenizers import SPECIAL, byte_level, sentencepiece_like, wrap
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tunelab.data.records import RenderedExample, Segment

CORPUS = ["the answer is 42", "what is it? a b c", "[INST] the question [/INST] ab ba", "1 2 three\n\nuser: é 日本"] * 5
MERGES = (("a", "b"), ("Ċ", "a"), ("b", "Ċ"), ("Ġ", "a"), ("Ċ", "Ċ"), ("Ġ", "Ġ"), ("e", "n"), ("<", "|"))
LLAMA_3_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def _trained(backend: Tokenizer, trainer, add_special: bool = True, **options) -> PreTrainedTokenizerFast:
    backend.train_from_iterator(CORPUS, trainer)
    if add_special:
        backend.add_special_tokens(SPECIAL)
    return wrap(backend, **options)


def llama_3_like(**options):
    """Byte-level BPE behind a regular expression of words."""
    backend = Tokenizer(models.BPE())
    words = pre_tokenizers.Split(Regex(LLAMA_3_WORDS), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(False, use_regex=False)])
    backend.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False)
    return _trained(backend, trainer, **options)


def qwen_like(**options):
    """Byte-level BPE that normalises its text: what is not in normal form is not spelled."""
    tokenizer = byte_level(MERGES, regex=True, **options)
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    return tokenizer


def gpt_2_like_with_prefix_space(**options):
    tokenizer = byte_level(MERGES, **options)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return tokenizer


def mistral_like(**options):
    """Sentencepiece's BPE with byte fall-back; a space is put before the text, not behind added tokens."""
    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", *SPECIAL, "[INST]", "[/INST]", *(f"<0x{i:02X}>" for i in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    return _trained(backend, trainer, unk_token="<unk>", **options)


def unigram(**options):
    """Sentencepiece's unigram model, a space before every stretch of text, no fall-back: most letters are unknown."""
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="always")
    backend.decoder = decoders.Metaspace("▁", prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=60, unk_token="<unk>", special_tokens=["<unk>", *SPECIAL], show_progress=False
    )
    return _trained(backend, trainer, unk_token="<unk>", **options)


def word_piece(**options):
    """Spells nothing: white space is lost, capitals too."""
    backend = Tokenizer(models.WordPiece(unk_token="<unk>"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=120, special_tokens=["<unk>", *SPECIAL], show_progress=False)
    return _trained(backend, trainer, unk_token="<unk>", **options)


def phi_like(**options):
    """Its end token swallows the white space behind it."""
    tokenizer = sentencepiece_like(CORPUS, **options)
    tokenizer.add_tokens([AddedToken("<|end|>", rstrip=True, special=True)])
    return tokenizer


KINDS: dict[str, Callable[..., PreTrainedTokenizerFast]] = {
    "bytes": byte_level,
    "byte-level BPE": lambda **options: byte_level(MERGES, **options),
    "byte-level BPE of words": lambda **options: byte_level(MERGES, regex=True, **options),
    "Llama 3": llama_3_like,
    "Qwen": qwen_like,
    "GPT-2 with prefix space": gpt_2_like_with_prefix_space,
    "Llama 2": lambda **options: sentencepiece_like(CORPUS, **options),
    "Mistral": mistral_like,
    "unigram": unigram,
    "WordPiece": word_piece,
    "Phi": phi_like,
}


def example_of(*parts: str | list[str], end_of_turn: str | None = None, origin: str = "a.jsonl:3") -> RenderedExample:
    """Stretches of text, supervised where in a list."""
    segments = tuple(Segment(p[0], True) if isinstance(p, list) else Segment(p, False) for p in parts)
    trained = tuple(segment.text.removesuffix(end_of_turn or "").strip() for segment in segments if segment.supervised)
    return RenderedExample(segments, "", "", origin, trained, end_of_turn)


def chatml(pairs):
    opened = "<|start|>user\n{}<|end|>\n<|start|>assistant\n"
    parts = [part for q, a in pairs for part in (opened.format(q), [f"{a}<|end|>"])]
    joined = [f"\n{part}" if isinstance(part, str) and i else part for i, part in enumerate(parts)]
    return example_of(*joined, "\n", end_of_turn="<|end|>")


def instruct(pairs):
    parts = [part for q, a in pairs for part in (f"[INST] {q} [/INST]", [f" {a}</s>"])]
    return example_of("<s>", *parts, end_of_turn="</s>")


def headers(pairs):
    parts = [part for q, a in pairs for part in (f"<|start|>user<|end|>\n\n{q}<|start|>bot<|end|>\n\n", [f"{a}</s>"])]
    return example_of(*parts, end_of_turn="</s>")


def plain(pairs):
    parts = [part for i, (q, a) in enumerate(pairs) for part in ("\n" * (i > 0) + f"{q}\n", [f"{a}</s>"])]
    return example_of(*parts, end_of_turn="</s>")


def bare(pairs):
    """Nothing marks a seam, and nothing ends a turn."""
    return example_of(*[part for q, a in pairs for part in (f"{q} ", [f"{a} x"])])


LAYOUTS = {"chatml": chatml, "instruct": instruct, "headers": headers, "plain": plain, "bare": bare}


def slow_encoding(example: RenderedExample, tokenizer) -> tuple[list[int], list[bool], int]:
    """Ids, mask and seams apart by the definition: each prefix of the text, encoded by itself, through transformers."""

    def ids_of(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    texts = [segment.text for segment in example.segments]
    befores = ["".join(texts[:i]) for i in range(1, len(texts))]
    whole, heads = ids_of("".join(texts)), [ids_of(before) for before in befores]
    straddled = sum(
        whole[: len(head)] != head or (head[-1:] == [tokenizer.unk_token_id] and not before.endswith("<unk>"))
        for head, before in zip(heads, befores, strict=True)
    )
    ends = [0, *map(len, heads), len(whole)]
    if straddled:
        guard = ids_of("\n")
        parts = [ids_of(texts[0])]
        for text in texts[1:]:
            guarded = ids_of("\n" + text)
            parts.append(guarded[len(guard) :] if guarded[: len(guard)] == guard else ids_of(text))
        whole = [token for part in parts for token in part]
        ends = [0, *(sum(map(len, parts[: i + 1])) for i in range(len(parts)))]
    lengths = [end - begin for begin, end in pairwise(ends)]
    mask = [s.supervised for s, length in zip(example.segments, lengths, strict=True) for _ in range(length)]
    return whole, mask, straddled


def mask_by_characters(example: RenderedExample, tokenizer) -> list[bool | None]:
    """A token is supervised where all its characters are; None where it has none or its token swallows others."""
    kinds = [segment.supervised for segment in example.segments for _ in segment.text]
    text = "".join(segment.text for segment in example.segments)
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    swallowing = {i for i, token in tokenizer.added_tokens_decoder.items() if token.lstrip or token.rstrip}
    return [
        None if begin == end or token in swallowing else all(kinds[begin:end])
        for token, (begin, end) in zip(found["input_ids"], found["offset_mapping"], strict=True)
    ]
