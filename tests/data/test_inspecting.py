import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from tiny_tokenizers import byte_level, sentencepiece_like

from tunelab.data.inspecting import inspect_example, render_examples, render_inspected
from tunelab.data.records import TokenizedExample
from tunelab.data.upstream import token_bytes

BYTES = byte_level(merges=(("Ġ", "â"), ("t", "h"), ("th", "e")))
PIECES = sentencepiece_like(["the question", "the answer"] * 5)


def ids_of(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def tokenized(ids, mask=None):
    return TokenizedExample(torch.tensor(ids), torch.tensor([False] * len(ids) if mask is None else mask), "a.jsonl:3")


def example(tokenizer, *parts):
    """Stretches of text; those in a list are supervised."""
    ids, mask = [], []
    for part in parts:
        new = ids_of(tokenizer, part[0] if isinstance(part, list) else part)
        ids += new
        mask += [isinstance(part, list)] * len(new)
    return tokenized(ids, mask)


def shown_tokens(ids, tokenizer):
    return [token.shown for token in inspect_example(tokenized(ids), tokenizer).tokens]


def raw_ids(raw):
    """Tokens of one byte each, whole characters or not."""
    by_byte = {token_bytes(BYTES, id_): id_ for id_ in range(5, 261)}
    return [by_byte[bytes([byte])] for byte in raw]


def printed(renderable, width=200, **options):
    console = Console(file=io.StringIO(), width=width, **options)
    console.print(renderable)
    return console.file.getvalue()


def show(examples, tokenizer, limit=3, show_ids=False, **options):
    return printed(render_examples(examples, tokenizer, limit, show_ids), **options)


def test_trained_stretches_are_marked_without_colour():
    text = show([example(BYTES, "<s>q\n", ["a</s>"], "\nr", ["b</s>"])], BYTES, no_color=True)
    assert "<s>q\n⟦a</s>⟧\nr⟦b</s>⟧" in text
    assert "a.jsonl:3 · 9 tokens, 4 trained" in text
    assert text.startswith("⟦trained⟧ supervised tokens")
    assert "\x1b" not in text


def test_colours_differ():
    text = show([example(BYTES, "q", ["a"])], BYTES, force_terminal=True, color_system="standard")
    assert "\x1b[2mq" in text
    assert "\x1b[1;32m⟦" in text
    assert "\x1b[1;32ma" in text


def test_markup_and_control_characters_are_shown_not_obeyed():
    hostile = example(BYTES, "[bold]q[/bold]\x1b[31m\x07\u202e\r\t|", ["[/]\x9b"])
    hostile = TokenizedExample(hostile.input_ids, hostile.loss_mask, "[red]\x1b]0;x\x07.jsonl:1")
    text = show([hostile], BYTES)
    assert "[bold]q[/bold]\\x1b[31m\\x07\\u202e\\r" in text
    assert "⟦[/]\\x9b⟧" in text
    assert "[red]\\x1b]0;x\\x07.jsonl:1" in text
    assert not set("\x1b\x07\u202e\x9b\r") & set(text)


def test_ids_stand_after_their_tokens():
    ids = [*ids_of(BYTES, "the\n\n"), 4]
    text = show([tokenized(ids, [False, True, True, True])], BYTES, show_ids=True)
    the, line = ids[0], ids[1]
    assert f"the‹{the}›⟦↵‹{line}›\n↵‹{line}›\n<|end|>‹4›⟧" in text
    assert "token‹id›" in text
    assert "‹" not in show([tokenized(ids)], BYTES)


def test_template_is_named():
    assert "template [b]chat" in printed(render_inspected([], template="[b]chat"))


def test_limit():
    assert show([example(BYTES, "q", ["a"])] * 5, BYTES, limit=2).count("a.jsonl:3") == 2


def test_the_middle_of_a_long_stretch_is_left_out():
    inspected = inspect_example(example(BYTES, "b" + "q" * 9000 + "e", ["a"]), BYTES)
    texts = [token.text for token in inspected.tokens]
    assert (texts[0], texts[-2:]) == ("b", ["e", "a"])
    [hidden] = [token.num_hidden for token in inspected.tokens if token.num_hidden]
    assert hidden + len(texts) == inspected.num_tokens == 9003
    assert len(texts) <= 2000
    text = printed(render_inspected([inspected]), width=20_000)
    assert f"q […{hidden:,} tokens not shown…] q" in text
    assert "qe⟦a⟧" in text


def test_spaces_after_a_gap_are_kept():
    ids = ids_of(PIECES, "the question " * 3000)
    for stop in range(len(ids) - 8, len(ids)):  # one of them has a space first after the gap
        tokens = inspect_example(tokenized(ids[:stop]), PIECES).tokens
        rest = next(tokens[index:] for index, token in enumerate(tokens) if token.num_hidden)
        num_characters = len(PIECES.decode(ids[:stop])) - len(PIECES.decode(ids[: stop - len(rest)]))
        assert sum(len(token.text) for token in rest) == num_characters


def test_every_short_stretch_is_shown_whole():
    parts = ["q" * 300, ["a" * 5]] * 20
    inspected = inspect_example(example(BYTES, *parts), BYTES)
    borders = [a.trained != b.trained for a, b in zip(inspected.tokens, inspected.tokens[1:], strict=False)]
    assert sum(borders) == 39
    assert sum(token.trained for token in inspected.tokens) == 100 == inspected.num_supervised_tokens
    assert sum(1 + token.num_hidden for token in inspected.tokens) == 20 * 305


def test_a_long_token_is_shortened():
    tokenizer = byte_level()
    tokenizer.add_tokens(["x" * 1_000_000])
    text = show([example(tokenizer, "x" * 1_000_000)], tokenizer)
    assert "999,800 characters not shown" in text
    assert len(text) < 5000


def test_first_space_of_a_stretch_is_kept():
    ids = PIECES("the question answer")["input_ids"]
    mask = torch.arange(len(ids)) >= len(PIECES("the question")["input_ids"])
    text = show([TokenizedExample(torch.tensor(ids), mask, "x")], PIECES)
    assert "the question⟦ answer⟧" in text


def test_parts_of_a_character():
    assert shown_tokens(ids_of(BYTES, "the é – x"), BYTES) == [
        "the", " ", "⟨C3⟩", "é", "⟨20 E2⟩", "⟨80⟩", " –", " ", "x",
    ]  # fmt: skip
    assert shown_tokens(ids_of(PIECES, "the 👩!"), PIECES)[-5:] == ["⟨F0⟩", "⟨9F⟩", "⟨91⟩", "👩", "!"]
    text = show([example(BYTES, "é – 👩‍💻")], BYTES)
    assert "\né – 👩‍💻" in text  # no bytes between, where the characters are whole
    assert "⟨20 E2⟩‹" in show([example(BYTES, "é –")], BYTES, show_ids=True)


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"\xe2\x82", ["⟨E2⟩", "⟨82⟩"]),
        (b"\xe2a", ["⟨E2⟩", "a"]),
        (b"x\xffy", ["x", "⟨FF⟩", "y"]),
        (b"\xff\xff\xff\xc3\xa9", ["⟨FF⟩", "⟨FF⟩", "⟨FF⟩", "⟨C3⟩", "é"]),
        (b"\xe2\xe2\x82\xac", ["⟨E2⟩", "⟨E2⟩", "⟨82⟩", "€"]),
        (b"\xef\xbf\xbd!", ["⟨EF⟩", "⟨BF⟩", "\ufffd", "!"]),  # the replacement character itself
    ],
)
def test_damaged_characters_are_shown_as_bytes(raw, shown):
    assert shown_tokens(raw_ids(raw), BYTES) == shown


@pytest.mark.parametrize("tokenizer", [BYTES, PIECES], ids=["bytes", "pieces"])
@settings(max_examples=60)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_texts_join_to_what_the_tokenizer_decodes(tokenizer, text):
    ids = ids_of(tokenizer, text)
    tokens = inspect_example(tokenized(ids), tokenizer).tokens
    assert [token.id for token in tokens] == ids
    assert "".join(token.text for token in tokens) == tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    assert all(token.completed for token in tokens if token.raw)


@settings(max_examples=100)
@given(raw=st.binary(max_size=30))
def test_any_bytes_give_one_shown_token_each(raw):
    tokens = inspect_example(tokenized(raw_ids(raw)), BYTES).tokens
    assert len(tokens) == len(raw)
    read = b"".join(token.raw if token.raw else token.text.encode() for token in tokens if not token.completed)
    assert read == raw


def test_bytes_of_tokens():
    assert [token_bytes(BYTES, id_) for id_ in ids_of(BYTES, "the –")] == [b"the", b" \xe2", b"\x80", b"\x93"]
    assert b"".join(token_bytes(PIECES, id_) for id_ in ids_of(PIECES, "😊")[1:]) == "😊".encode()
    assert token_bytes(PIECES, ids_of(PIECES, "the")[0]) == "▁".encode()


def test_rejected_answers():
    chosen, rejected = example(BYTES, "q?\n", ["yes"]), example(BYTES, "q?\n", ["yet!"])
    inspected = inspect_example(chosen, BYTES, rejected)
    assert inspected.num_shared == 3  # the answers begin alike: they are shown whole all the same
    text = printed(render_inspected([inspected]))
    assert "q?\n⟦yes⟧" in text
    assert "── rejected answer\n⟦yet!⟧" in text
    assert "rejected" not in printed(render_inspected([inspect_example(chosen, BYTES)]))


def test_rejected_with_another_prompt():
    inspected = inspect_example(example(BYTES, "ab", ["x"]), BYTES, example(BYTES, "ac", ["x"]))
    assert inspected.num_shared == 1
    assert inspect_example(example(BYTES, "ab", ["x"]), BYTES, example(BYTES, "ab", ["x!"])).num_shared == 2
    same = example(BYTES, "ab", ["x"])
    assert inspect_example(same, BYTES, same).num_shared == 2


def test_nothing_to_show():
    assert "trained" in show([], BYTES)
    assert inspect_example(tokenized([]), BYTES).tokens == ()
