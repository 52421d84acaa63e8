import io

import torch
from rich.console import Console
from tiny_tokenizers import byte_level, sentencepiece_like

from tunelab.data.inspecting import render_examples
from tunelab.data.records import TokenizedExample


def example(tokenizer, *parts):
    """Stretches of text; those in a list are supervised."""
    ids, mask = [], []
    for part in parts:
        new = tokenizer(part[0] if isinstance(part, list) else part, add_special_tokens=False)["input_ids"]
        ids += new
        mask += [isinstance(part, list)] * len(new)
    return TokenizedExample(torch.tensor(ids), torch.tensor(mask), "a.jsonl:3")


def show(examples, tokenizer, limit=3, **options):
    console = Console(file=io.StringIO(), width=200, **options)
    console.print(render_examples(examples, tokenizer, limit))
    return console.file.getvalue()


def test_trained_stretches_are_marked_without_colour():
    tokenizer = byte_level()
    text = show([example(tokenizer, "<s>q\n", ["a</s>"], "\nr", ["b</s>"])], tokenizer, no_color=True)
    assert "<s>q\n⟦a</s>⟧\nr⟦b</s>⟧" in text
    assert "a.jsonl:3 · 9 tokens, 4 trained" in text
    assert text.startswith("⟦trained⟧ supervised tokens")
    assert "\x1b" not in text


def test_colours_differ():
    tokenizer = byte_level()
    text = show([example(tokenizer, "q", ["a"])], tokenizer, force_terminal=True, color_system="standard")
    assert "\x1b[1;32m⟦a⟧" in text
    assert "\x1b[2mq" in text


def test_markup_and_control_characters_are_shown_not_obeyed():
    tokenizer = byte_level()
    text = show([example(tokenizer, "[bold]q[/bold]\x1b[31m\x07\u202e\r\t|", ["[/]\x9b"])], tokenizer)
    assert "[bold]q[/bold]\\x1b[31m\\x07\\u202e\\r" in text
    assert "⟦[/]\\x9b⟧" in text


def test_limit_and_long_text():
    tokenizer = byte_level()
    text = show([example(tokenizer, "q" * 5000, ["a"])] * 5, tokenizer, limit=2)
    assert text.count("a.jsonl:3") == 2
    assert "[…3,000 characters not shown…]" in text.replace("\n", "")


def test_first_space_of_a_stretch_is_kept():
    tokenizer = sentencepiece_like(["the question", "the answer"] * 5)
    ids = tokenizer("the question answer")["input_ids"]
    mask = torch.arange(len(ids)) >= len(tokenizer("the question")["input_ids"])
    text = show([TokenizedExample(torch.tensor(ids), mask, "x")], tokenizer)
    assert "the question⟦ answer⟧" in text


def test_nothing_to_show():
    assert "trained" in show([], byte_level())
