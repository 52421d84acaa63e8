from dataclasses import replace

import numpy as np
import pytest
from mask_references import KINDS, LAYOUTS, MERGES, example_of
from tiny_tokenizers import byte_level, sentencepiece_like
from tokenizers import AddedToken
from tokenizers.processors import TemplateProcessing

from tunelab.data import counting, verifying
from tunelab.data.counting import Counted
from tunelab.data.records import TokenSequence
from tunelab.data.tokenizing import Encoder, encode, encode_stream, from_ids
from tunelab.data.upstream import adds_bos, encode_texts
from tunelab.errors import DataError

BOS, EOS, START, END = 1, 2, 3, 4


def encode_one(tokenizer, *parts, add_bos=False):
    (encoded,) = encode([example_of(*parts)], tokenizer, add_bos)
    assert (encoded.input_ids.dtype, encoded.loss_mask.dtype) == (np.int32, np.bool_)
    return encoded


def spell(tokenizer, text: str) -> list[int]:
    """Ids of the bytes of `text`, one by one: what no merge touches."""
    return [
        tokenizer.convert_tokens_to_ids(t)
        for t in tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)[0][0]
    ]


def supervised(encoded) -> list[int]:
    return encoded.input_ids[encoded.loss_mask].tolist()


def test_exact_ids():
    tokenizer = byte_level(merges=(("h", "i"),))
    hi = tokenizer.convert_tokens_to_ids("hi")
    encoded = encode_one(tokenizer, "<|start|>hi", ["hia<|end|>"], "\n")
    (a,), (newline,) = spell(tokenizer, "a"), spell(tokenizer, "\n")
    assert encoded.input_ids.tolist() == [START, hi, hi, a, END, newline]
    assert encoded.loss_mask.tolist() == [False, False, True, True, True, False]
    assert encoded.num_seams_apart == 0
    assert encoded.origin == "a.jsonl:3"


@pytest.mark.parametrize("options", [{"pad_token": "</s>"}, {"pad_token": "<|end|>", "eos_token": "<|end|>"}])
def test_pad_equal_to_the_end_token_changes_nothing(options):
    encoded = encode_one(byte_level(**options), "<|end|>q</s>", ["a</s>"], "</s>", ["b<|end|>"])
    plain = byte_level()
    (a,), (b,) = spell(plain, "a"), spell(plain, "b")
    assert supervised(encoded) == [a, EOS, b, END]
    assert encoded.loss_mask.tolist() == [False, False, False, True, True, False, True, True]


def test_unicode():
    tokenizer = byte_level(merges=(("Ã", "©"),))
    e_acute = tokenizer.convert_tokens_to_ids("Ã©")
    encoded = encode_one(tokenizer, "日本é", ["éü🙂é</s>"])
    assert supervised(encoded) == [e_acute, *spell(tokenizer, "ü🙂"), e_acute, EOS]
    assert encoded.input_ids.tolist()[:6] == spell(tokenizer, "日本")


def test_merge_that_straddles_the_seam_is_encoded_apart():
    tokenizer = byte_level(merges=(("a", "b"),))
    (a,), (b,), (c,) = (spell(tokenizer, letter) for letter in "abc")
    together = encode_one(tokenizer, "cab")
    assert together.input_ids.tolist() == [c, tokenizer.convert_tokens_to_ids("ab")]
    encoded = encode_one(tokenizer, "ca", ["b</s>"])
    assert encoded.input_ids.tolist() == [c, a, b, EOS]
    assert encoded.loss_mask.tolist() == [False, False, True, True]
    assert encoded.num_seams_apart == 1


def test_merge_after_the_answer_is_encoded_apart_too():
    tokenizer = byte_level(merges=(("a", "b"),))
    encoded = encode_one(tokenizer, "c", ["ca"], "bc", ["a"], "b")
    assert encoded.input_ids.tolist() == spell(tokenizer, "ccabcab")
    assert encoded.loss_mask.tolist() == [False, True, True, False, False, True, False]
    assert encoded.num_seams_apart == 2


def test_prompt_that_looks_ahead_at_the_answer():
    """No merge straddles the seam, but alone the prompt ends in one token and before a word in two."""
    tokenizer = byte_level(merges=(("ĉ", "ĉ"),), regex=True)
    assert encode_one(tokenizer, "ccccc\t\tx").input_ids.tolist() == spell(byte_level(), "ccccc\t\tx")
    encoded = encode_one(tokenizer, "ccccc\t\t", ["x"])
    assert encoded.input_ids.tolist()[5:] == [tokenizer.convert_tokens_to_ids("ĉĉ"), *spell(tokenizer, "x")]
    assert encoded.num_seams_apart == 1


def test_unknown_token_that_straddles_the_seam_is_encoded_apart():
    """Alone and together they look the same: the ids before the seam do begin the ids of the whole."""
    tokenizer = KINDS["unigram"]()
    unknown = tokenizer.unk_token_id
    assert tokenizer("aX")["input_ids"][-1:] == tokenizer("aXY")["input_ids"][-1:] == [unknown]
    encoded = encode_one(tokenizer, "aX", ["Y</s>"])
    assert supervised(encoded)[-2:] == [unknown, tokenizer.eos_token_id]
    assert encoded.num_seams_apart == 1
    assert encode_one(tokenizer, "a<unk>", ["Y</s>"]).num_seams_apart == 0


def test_only_the_examples_concerned_are_encoded_apart():
    tokenizer = byte_level(merges=(("a", "b"),))
    results = encode([example_of("ca", ["b"]), example_of("cab", ["ab"]), example_of("c", ["ab"])], tokenizer, False)
    assert [result.num_seams_apart for result in results] == [1, 0, 0]
    assert [result.input_ids.size for result in results] == [3, 3, 2]


def test_space_before_every_text_is_not_put_into_the_middle():
    tokenizer = sentencepiece_like(["the answer is 42", "what is it"] * 5)
    encoded = encode_one(tokenizer, "what is it\n", ["the answer</s>"])
    assert encoded.num_seams_apart == 0
    assert tokenizer.decode(encoded.input_ids.tolist()) == "what is it\nthe answer</s>"
    assert tokenizer.decode(supervised(encoded)) == "the answer</s>"
    straddled = encode_one(tokenizer, "what is it ", ["the answer</s>"])
    assert straddled.num_seams_apart == 1
    assert tokenizer.decode(straddled.input_ids.tolist()) == "what is it the answer</s>"


def test_special_token_that_swallows_white_space():
    """As Phi-3's: the white space after it has no token, and belongs to the answer by its characters."""
    tokenizer = byte_level(swallowing=["<|stop|>"])
    stop = tokenizer.convert_tokens_to_ids("<|stop|>")
    encoded = encode_one(tokenizer, "q<|stop|>", ["\n a<|stop|>"], "\n")
    (q,), (a,) = spell(tokenizer, "q"), spell(tokenizer, "a")
    assert encoded.input_ids.tolist() == [q, stop, a, stop]
    assert encoded.loss_mask.tolist() == [False, False, True, True]


def test_bos_is_added_once_and_masked():
    tokenizer = byte_level()
    assert encode_one(tokenizer, "q", ["a"], add_bos=True).input_ids.tolist()[0] == BOS
    encoded = encode_one(tokenizer, ["a"], add_bos=True)
    assert encoded.loss_mask.tolist() == [False, True]
    assert encode_one(tokenizer, "<s>q", ["a"]).input_ids.tolist().count(BOS) == 1


def test_adds_bos():
    tokenizer = byte_level()
    assert not adds_bos(tokenizer)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    assert adds_bos(tokenizer)
    encoded = encode_one(tokenizer, "q", ["a"])
    assert encoded.input_ids.size == 2


def test_truncation_and_padding_left_in_the_tokenizer_do_nothing():
    tokenizer = byte_level()
    tokenizer.backend_tokenizer.enable_truncation(3)
    tokenizer.backend_tokenizer.enable_padding(length=50)
    assert encode_one(tokenizer, "abcdef", ["g"]).input_ids.size == 7


def test_truncation_and_padding_are_left_as_they_were():
    tokenizer = byte_level()
    backend = tokenizer.backend_tokenizer
    backend.enable_truncation(3)
    backend.enable_padding(length=50)
    before = backend.truncation, backend.padding
    encode_one(tokenizer, "abcdef", ["g"])
    assert (backend.truncation, backend.padding) == before


def test_split_special_tokens_is_respected():
    """A tokenizer told to read special tokens as plain text does so, and nothing else changes."""
    tokenizer = byte_level(split_special_tokens=True)
    encoded = encode_one(tokenizer, "<|start|>q", ["a"])
    assert encoded.input_ids.tolist() == tokenizer("<|start|>qa")["input_ids"] == spell(tokenizer, "<|start|>qa")
    assert supervised(encoded) == spell(tokenizer, "a")


@pytest.mark.parametrize("options", [{}, {"lstrip": True}, {"single_word": True}, {"rstrip": True}])
@pytest.mark.parametrize("longer", ["<|end|>!", "!<|end|>"])
def test_markers_that_overlap(longer, options):
    """What a longer added token takes of a text is no `<|end|>`, whether or not that token is a marker itself."""
    tokenizer = byte_level()
    tokenizer.add_tokens([AddedToken(longer, normalized=False, **options)])
    before, after = "!<|end|>!<|end|>b <|end|>", "a!<|end|> !"
    encoded = encode_one(tokenizer, before, [after])
    assert supervised(encoded) == tokenizer(before + after)["input_ids"][len(tokenizer(before)["input_ids"]) :]


@pytest.mark.parametrize("kind", ["Llama 3", "Llama 2", "Mistral", "Qwen"])
@pytest.mark.parametrize("layout", ["chatml", "instruct", "headers"])
def test_ordinary_text_is_proved_by_spelling(kind, layout, monkeypatch):
    """Without the slow second encoding, that is."""
    tokenizer = KINDS[kind]()
    monkeypatch.delattr(verifying, "encode_with_offsets")
    (encoded,) = encode([LAYOUTS[layout]([("what is it?", "the answer"), ("日本 é\n", "42")])], tokenizer, False)
    assert encoded.num_supervised_tokens > 4


def test_prompts_between_markers_are_not_encoded_again(monkeypatch):
    tokenizer, asked = byte_level(), []
    encoder = Encoder(tokenizer, False)
    monkeypatch.setattr(
        counting, "encode_texts", lambda _, texts: asked.extend(texts) or encode_texts(tokenizer, texts)
    )
    encoder.encode([LAYOUTS["chatml"]([("q", "a"), ("r", "b")]), LAYOUTS["chatml"]([("x" * 500, "y" * 500)])])
    assert sorted(asked) == ["<|end|>", "<|start|>assistant\n"]
    encoder.encode([LAYOUTS["chatml"]([("s", "t")])])
    assert len(asked) == 2


def shifted(self, rendered, texts, wholes, flat):
    """A first way that counts one token too many into the response."""
    return [Counted(whole, [len(whole) - 2, 2], 0) for whole in wholes]


@pytest.mark.parametrize(
    ("kind", "way", "tokens"),
    [
        ("bytes", "the bytes they spell", ("a b [c][a]", "a b c[a]")),
        ("WordPiece", "the characters they come from", ("ab[c][##a]", "abc[##a]")),
    ],
)
def test_a_disagreement_of_the_two_derivations_stops_and_shows_both(kind, way, tokens, monkeypatch):
    monkeypatch.setattr(counting.SeamCounter, "count", shifted)
    good = example_of("a b", ["ab" if kind == "bytes" else ", ."])
    with pytest.raises(DataError) as caught:
        encode([good, example_of("a b c", ["a"], origin="b.jsonl:7")], KINDS[kind](), False)
    message = str(caught.value)
    assert message.startswith(f"b.jsonl:7: expected the same supervised tokens by their number and by {way}, found a ")
    assert f"by their number {tokens[0]!r}, by {way} {tokens[1]!r}; set data.template=" in message


def test_a_misread_vocabulary_costs_speed_only(monkeypatch):
    """`c` read as `a`: no text with it is spelled any more, and its offsets prove it."""
    encoder = Encoder(byte_level(), False)
    speller = encoder._speller
    a, c = byte_level().convert_tokens_to_ids(["a", "c"])
    starts = speller.starts.copy()
    starts[c] = starts[a]
    monkeypatch.setattr(encoder, "_speller", replace(speller, starts=starts))
    assert supervised(encoder.encode([example_of("ab", ["c"])])[0]) == [c]


def test_a_token_on_both_sides_of_a_seam_stops(monkeypatch):
    tokenizer = byte_level(merges=(("a", "b"),))
    monkeypatch.setattr(counting, "_ends", lambda *_: [1])
    with pytest.raises(
        DataError, match=r"difference at token 1 .* by their number 'c\[ab\]', by the bytes they spell 'cab'"
    ):
        encode([example_of("ca", ["b"])], tokenizer, False)


def test_a_trained_text_that_is_not_in_what_is_supervised_stops():
    for tokenizer in (byte_level(), KINDS["WordPiece"]()):
        wrong = replace(example_of("q", ["ab"], "c", ["ba"]), trained=("ab", "ab"))
        with pytest.raises(
            DataError, match=r"^a\.jsonl:3: expected the text of every trained turn .* 'ba' without 'ab'"
        ):
            encode([example_of("q", ["b"]), wrong], tokenizer, False)


def test_a_supervised_stretch_without_its_text_stops():
    with pytest.raises(
        DataError, match=r"a\.jsonl:3: expected a text to find again for each of 1 supervised .* found 0"
    ):
        encode([replace(example_of("q", ["ab"]), trained=())], byte_level(), False)


@pytest.mark.parametrize("end", ["", "<|end|>\n", "<|start|>"])
def test_a_turn_that_ends_in_another_token_stops(end):
    wrong = example_of("q", ["a<|end|>"], "q", [f"a{end}"], end_of_turn="<|end|>")
    with pytest.raises(DataError, match=r"a\.jsonl:3: expected every trained turn to end in the one token '<\|end\|>'"):
        encode([wrong], byte_level(), False)


def test_an_end_of_turn_of_several_tokens_stops():
    with pytest.raises(DataError, match=r"to end in the one token '###', supervised"):
        encode([example_of("q", ["a###"], end_of_turn="###")], byte_level(), False)


def test_dropout_is_refused_where_offsets_are_needed():
    tokenizer = KINDS["WordPiece"]()
    answers = iter([[[5, 6]], [[6]]])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tunelab.data.tokenizing.encode_texts", lambda *_: next(answers))
        patch.setattr(counting, "encode_texts", lambda *_: [[5]])
        with pytest.raises(DataError, match=r"expected a tokenizer that encodes a text twice alike"):
            encode([example_of("a", ["b"])], tokenizer, False)


def test_half_a_surrogate_pair_is_refused():
    with pytest.raises(DataError, match=r"a\.jsonl:3: expected text of whole characters, found half .* at character 2"):
        encode_one(byte_level(), "aé\ud83d", ["b"])


def test_slow_tokenizer_is_refused():
    class Slow:
        is_fast = False

    with pytest.raises(DataError, match=r"expected a fast tokenizer"):
        encode([example_of("q", ["a"])], Slow(), False)  # type: ignore[arg-type]


def test_nothing_to_encode():
    assert encode([], byte_level(), False) == []


def test_a_windowed_example_stays_one():
    (encoded,) = encode([replace(example_of(["ab</s>"]), windowed=True)], byte_level(), False)
    assert encoded.windowed


def test_stream_gives_the_chunks_of_encode_in_order():
    tokenizer = byte_level(MERGES)
    chunks = [[example_of("q", ["ab" * n]) for n in range(k)] for k in (3, 0, 1, 5)]
    found = list(encode_stream(iter(chunks), tokenizer, True))
    wanted = [encode(chunk, tokenizer, True) for chunk in chunks]
    assert [[e.input_ids.tolist() for e in chunk] for chunk in found] == [
        [e.input_ids.tolist() for e in chunk] for chunk in wanted
    ]
    assert list(encode_stream([], tokenizer, True)) == []


def test_stream_makes_the_next_chunks_while_one_is_encoded():
    taken = []

    def chunks():
        for n in range(4):
            taken.append(n)
            yield [example_of("q", ["a"])]

    stream = encode_stream(chunks(), byte_level(), False)
    next(stream)
    assert taken == [0, 1, 2]


def test_stream_raises_the_earlier_error_first():
    def chunks(text):
        yield [example_of("q", ["a"])]
        yield [example_of("q", [text])]
        raise DataError("c.jsonl:9: made wrong")

    stream = encode_stream(chunks("b"), byte_level(), False)
    assert [len(next(stream)), len(next(stream))] == [1, 1]
    with pytest.raises(DataError, match=r"c\.jsonl:9"):
        next(stream)
    stream = encode_stream(chunks("\ud800"), byte_level(), False)
    next(stream)
    with pytest.raises(DataError, match=r"a\.jsonl:3"):
        next(stream)


def test_ids_that_are_given_are_taken():
    encoded = from_ids(TokenSequence((5, 6, 4), (False, True, True), "a.parquet:2"), byte_level())
    assert (encoded.input_ids.tolist(), encoded.loss_mask.tolist()) == ([5, 6, 4], [False, True, True])
    assert (encoded.input_ids.dtype, encoded.loss_mask.dtype) == (np.int32, np.bool_)
    assert (encoded.origin, encoded.num_seams_apart, encoded.windowed) == ("a.parquet:2", 0, False)


@pytest.mark.parametrize("wrong", [261, -1, 2**70])
def test_an_id_outside_the_vocabulary_is_refused(wrong):
    sequence = TokenSequence((5, wrong), (False, True), "a.parquet:2")
    with pytest.raises(DataError, match=rf"^a\.parquet:2: expected ids from 0 to 260, .* found {wrong} at position 1;"):
        from_ids(sequence, byte_level())
