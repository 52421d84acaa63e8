import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_tokenizers import BARE, CHATML, INSTRUCT, REWRITING, byte_level, sentencepiece_like
from tokenizers.processors import TemplateProcessing

from tunelab.config import Template
from tunelab.data import tokenizing
from tunelab.data.records import Example, Message, RenderedExample, Role, Segment
from tunelab.data.rendering import make_renderer
from tunelab.data.tokenizing import encode
from tunelab.data.upstream import adds_bos
from tunelab.errors import DataError

BOS, EOS, START, END = 1, 2, 3, 4


def rendered(*parts: str | list[str]) -> RenderedExample:
    """Stretches of text, supervised where in a list."""
    segments = tuple(Segment(p[0], True) if isinstance(p, list) else Segment(p, False) for p in parts)
    return RenderedExample(segments, prompt="", response="", origin="a.jsonl:3")


def encode_one(tokenizer, *parts, add_bos=False):
    (encoded,) = encode([rendered(*parts)], tokenizer, add_bos)
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


def test_only_the_examples_concerned_are_encoded_apart():
    tokenizer = byte_level(merges=(("a", "b"),))
    results = encode([rendered("ca", ["b"]), rendered("cab", ["ab"]), rendered("c", ["ab"])], tokenizer, False)
    assert [result.num_seams_apart for result in results] == [1, 0, 0]
    assert [result.input_ids.numel() for result in results] == [3, 3, 2]


def test_space_before_every_text_is_not_put_into_the_middle():
    tokenizer = sentencepiece_like(["the answer is 42", "what is it"] * 5)
    encoded = encode_one(tokenizer, "what is it\n", ["the answer</s>"])
    assert encoded.num_seams_apart == 0
    assert tokenizer.decode(encoded.input_ids) == "what is it\nthe answer</s>"
    assert tokenizer.decode(encoded.input_ids[encoded.loss_mask]) == "the answer</s>"
    straddled = encode_one(tokenizer, "what is it ", ["the answer</s>"])
    assert straddled.num_seams_apart == 1
    assert tokenizer.decode(straddled.input_ids) == "what is it the answer</s>"


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
    assert encoded.input_ids.numel() == 2


def test_truncation_and_padding_left_in_the_tokenizer_do_nothing():
    tokenizer = byte_level()
    tokenizer.backend_tokenizer.enable_truncation(3)
    tokenizer.backend_tokenizer.enable_padding(length=50)
    assert encode_one(tokenizer, "abcdef", ["g"]).input_ids.numel() == 7


TEXT = st.text(st.sampled_from("ab \nİé🙂:<|>/s"), max_size=8)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=3), st.data())
def test_supervised_ids_decode_to_the_answers(pairs, data):
    """Whatever the conversation, template and tokenizer: the answers, each with one end token, no more."""
    templates = [
        (Template.chat, CHATML),
        (Template.chat, BARE),
        (Template.chat, REWRITING),
        (Template.plain, None),
    ]
    template, chat = data.draw(st.sampled_from(templates))
    merges = data.draw(st.sampled_from([(), (("a", "b"), ("Ċ", "a"), ("b", "Ċ"), ("Ġ", "a"), ("Ċ", "Ċ"))]))
    tokenizer = byte_level(merges, chat_template=chat, pad_token="</s>")
    messages = [m for q, a in pairs for m in (Message(Role.USER, q), Message(Role.ASSISTANT, a, trained=True))]
    renderer = make_renderer(template, tokenizer)
    texts = renderer.render(Example(tuple(messages), "x"))
    think = "<think></think>" if chat == REWRITING else ""
    found = [tokenizer.decode(supervised(result)) for result in encode(texts, tokenizer, False)]
    assert "".join(found) == "".join(f"{think}{a}{renderer.end_of_turn}" for _, a in pairs)
    for text, result in zip(texts, encode(texts, tokenizer, False), strict=True):
        assert tokenizer.decode(result.input_ids) == "".join(segment.text for segment in text.segments)


def test_answer_with_leading_space_on_a_sentencepiece_like_tokenizer():
    tokenizer = sentencepiece_like(["[INST] the question [/INST] the answer"] * 5, chat_template=INSTRUCT)
    renderer = make_renderer(Template.chat, tokenizer)
    messages = (Message(Role.USER, "the question"), Message(Role.ASSISTANT, "the answer", trained=True))
    (result,) = encode(renderer.render(Example(messages, "x")), tokenizer, False)
    assert result.input_ids.tolist().count(BOS) == 1
    assert tokenizer.convert_ids_to_tokens(supervised(result))[-1] == "</s>"
    assert tokenizer.decode(supervised(result)) == "the answer</s>"


def test_a_disagreement_of_the_two_derivations_stops(monkeypatch):
    def shifted(whole, before, after):
        return tokenizing._Aligned(whole, [len(whole) - 1, 1], 0)

    monkeypatch.setattr(tokenizing, "_align_around", shifted)
    with pytest.raises(DataError, match=r"a\.jsonl:3: expected the same loss mask by token counts and by character"):
        encode([rendered("q", ["a"]), rendered("q", ["ab"])], byte_level(), False)


def test_slow_tokenizer_is_refused(tmp_path):
    class Slow:
        is_fast = False

    with pytest.raises(DataError, match=r"expected a fast tokenizer"):
        encode([rendered("q", ["a"])], Slow(), False)  # type: ignore[arg-type]


def test_nothing_to_encode():
    assert encode([], byte_level(), False) == []
