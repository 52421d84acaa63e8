import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch
from sample_reports import HOSTILE, figures_of, hostile_report, make_report
from tiny_tokenizers import byte_level

from tunelab.data.inspecting import inspect_example
from tunelab.data.pages import inspect_page, report_page
from tunelab.data.records import TokenizedExample

BYTES = byte_level(merges=(("t", "h"), ("th", "e")))
VOID = {"meta", "input", "line", "rect"}
ATTRIBUTES = {
    "aria-hidden", "aria-label", "charset", "class", "content", "data-id", "data-label", "fill", "height",
    "http-equiv", "id", "lang", "name", "role", "scope", "style", "text-anchor", "type", "viewbox", "width", "x",
    "x1", "x2", "y", "y1", "y2",
}  # fmt: skip
TAGS = {
    "article", "bdi", "body", "code", "dd", "details", "div", "dl", "dt", "figure", "footer", "g", "h1", "h2", "h3",
    "head", "header", "html", "i", "input", "label", "li", "line", "main", "mark", "meta", "p", "rect", "section",
    "small", "span", "style", "summary", "svg", "table", "tbody", "td", "text", "th", "thead", "title", "tr", "ul",
}  # fmt: skip


class Page(HTMLParser):
    """What a browser reads: the tags with their attributes, and the text outside of style elements."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.open, self.text, self.errors = [], [], "", []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, attrs))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID and (not self.open or self.open.pop() != tag):
            self.errors.append(tag)

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data

    def named(self, tag):
        return [dict(attrs) for name, attrs in self.tags if name == tag]


def tokenized(text, trained=0, origin="a.jsonl:3"):
    ids = BYTES(text, add_special_tokens=False)["input_ids"]
    return TokenizedExample(torch.tensor(ids), torch.arange(len(ids)) >= len(ids) - trained, origin)


def inspected(text, trained=0, origin="a.jsonl:3", rejected=None):
    return inspect_example(tokenized(text, trained, origin), BYTES, rejected)


def hostile_examples():
    hostile = "".join(c for c in HOSTILE if c != "\ud800")  # no tokenizer takes half a character
    tokenizer = byte_level()
    tokenizer.add_tokens([hostile])  # a token whose text is all of it
    one = TokenizedExample(torch.tensor(tokenizer(hostile)["input_ids"]), torch.tensor([True]), HOSTILE)
    return [inspected(hostile, 30, HOSTILE, tokenized(hostile + "x", 31)), inspect_example(one, tokenizer)]


PAGES = {
    "report": lambda: report_page(make_report()),
    "hostile report": lambda: report_page(hostile_report()),
    "examples": lambda: inspect_page([inspected("the question\n\tthe answer é", 12)], "chatml", 7000),
    "hostile examples": lambda: inspect_page(hostile_examples(), HOSTILE),
}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_well_formed_and_without_anything_active(name):
    page = Page(PAGES[name]())
    assert (page.errors, page.open) == ([], [])
    assert {tag for tag, _ in page.tags} <= TAGS  # no script, img, iframe, link, form, a
    assert {attribute for _, attrs in page.tags for attribute, _ in attrs} <= ATTRIBUTES  # no on…, src, href
    styles = [value for _, attrs in page.tags for attribute, value in attrs if attribute == "style"]
    assert all(re.fullmatch(r"(flex|width):[\d.]+%?", style) for style in styles)
    assert Counter(tag for tag, _ in page.tags)["style"] == 1


@pytest.mark.parametrize("name", PAGES)
def test_a_page_asks_for_nothing(name):
    html = PAGES[name]()
    [policy] = [meta["content"] for meta in Page(html).named("meta") if "http-equiv" in meta]
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline';")
    css = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in css
    assert "@import" not in css


@pytest.mark.parametrize("name", ["hostile report", "hostile examples"])
def test_hostile_text_is_shown_literally(name):
    html = PAGES[name]()
    page = Page(html)
    assert not set("\x1b\x07\x00\x9b\u202e\u2066\u2028\ud800\r") & set(html)
    assert html.encode()
    assert "</style></title><script>alert(1)</script><img src=x onerror=alert(2)>\"' onmouseover" in page.text
    assert "{{ 7*7 }} {% raw %} [red]rich[/red] [/] \\x1b[31m\\x07\\x00\\x9b \\u202egnp.exe\\u2066 \\u2028" in page.text
    assert "&lt; ]]> --> <!--" in page.text  # the data's own entity is no character
    assert html.count("<html") == 1


def test_the_hostile_report_is_shown_everywhere():
    report = hostile_report()
    text = Page(report_page(report)).text
    assert text.count("<script>alert(1)</script>") >= 18  # names, columns, findings, sentences, labels …


def test_report_has_every_figure():
    report = make_report()
    text = Page(report_page(report)).text
    for split in report.splits.values():
        bins = [f"{count:,}" for _, count in split.length_histogram + split.supervised_histogram]
        for figure in figures_of(split) + bins:
            assert figure in text
        assert f"{split.num_kept - split.num_truncated:,}" in text
        assert f"{100 * split.num_supervised_tokens / split.num_tokens:.1f}" in text
    for source in report.sources:
        figures = [source.name, source.format, source.remark, f"{source.num_rows:,}", f"{source.num_bad:,}"]
        for part in [*figures, f"{source.weight:g}", *source.unused_columns, *source.sha256, *source.sha256.values()]:
            assert part in text
    for sentence in [*report.template_policy, *report.bad_rows]:
        assert sentence in text
    for part in (report.template, report.end_of_turn, "last response", "1,024 tokens", "truncate prompt", "12.34 s"):
        assert part in text
    assert f"{report.num_bad:,}" in text
    assert f"and {report.num_bad - 5:,} more" in text


def test_report_has_every_finding():
    quality = make_report().quality
    text = Page(report_page(make_report())).text
    for finding in quality["findings"]:
        figures = [f"{finding['num_examples']:,}", f"{finding['num_dropped']:,}"]
        for part in [finding["check"].replace("_", " "), finding["detail"], *finding["origins"], *figures]:
            assert part in text
    assert "Looked for and not found: encoding damage." in text
    balance = quality["label_balance"]["train"]
    for label, number in balance.items():
        assert label in text
        assert f"{number:,}" in text
        assert f"{100 * number / sum(balance.values()):.1f}%" in text
    assert "98.7%" in text
    assert f"{quality['num_checked']['train']:,} in train" in text


def test_plots_have_text_and_bars_to_scale():
    report = make_report()
    page = Page(report_page(report))
    drawings = page.named("svg")
    assert len(drawings) == 6
    bins = report.splits["train"].length_histogram
    assert f"Length in train: {sum(c for _, c in bins):,} examples" in drawings[0]["aria-label"]
    assert "have 101–150 tokens" in drawings[0]["aria-label"]
    bars = [rect for rect in page.named("rect") if rect.get("class") == "bar"][:2]
    assert float(bars[0]["height"]) / float(bars[1]["height"]) == pytest.approx(bins[0][1] / bins[2][1], rel=1e-3)
    assert [float(bar["width"]) for bar in bars] == pytest.approx([(390 - 48) / 3] * 2)
    assert float(bars[1]["x"]) - float(bars[0]["x"]) == pytest.approx((390 - 48) * 2 / 3, rel=1e-3)
    assert f"1–50 tokens: {bins[0][1]:,} examples" in page.text.replace("0–50", "1–50")


def test_fates_are_shares_of_all_examples():
    split = replace(make_report().splits["train"], num_kept=75, num_truncated=25, num_dropped={"too_long": 25})
    text = " ".join(Page(report_page(make_report(splits={"train": split}))).text.split())
    for part in ("kept whole: 50 (50.0%)", "kept, truncated: 25 (25.0%)", "dropped: too long: 25 (25.0%)"):
        assert part in text


def test_a_report_of_nothing():
    empty = dict.fromkeys(("num_rows", "num_examples", "num_kept", "num_truncated", "num_tokens"), 0)
    split = replace(
        make_report().splits["train"], **empty, num_dropped={}, length_histogram=[], supervised_histogram=[]
    )
    page = Page(report_page(make_report(splits={"train": split}, quality={}, sources=[], bad_rows=[], num_bad=0)))
    assert page.errors == []
    assert not page.named("svg")
    full = make_report().splits["train"]
    page = Page(report_page(make_report(splits={"train": full, "validation": split})))
    assert "validation" not in page.text


def test_huge_strings_are_shortened():
    huge = "h" * 1_000_000
    source = replace(make_report().sources[0], name=huge, remark=huge)
    html = report_page(make_report(sources=[source], bad_rows=[huge]))
    assert len(html) < 150_000
    assert "characters not shown" in html
    tokenizer = byte_level()
    tokenizer.add_tokens([huge])
    token = TokenizedExample(torch.tensor(tokenizer(huge)["input_ids"]), torch.tensor([True]), "a")
    html = inspect_page([inspected("h" * 100_000, origin=huge), inspect_example(token, tokenizer)])
    assert len(html) < 200_000
    assert "999,800 characters not shown" in html


def spans(html, attribute="data-id"):
    return [attrs for tag, attrs in Page(html).tags if attribute in dict(attrs)]


def test_examples_show_their_tokens():
    example = inspected("the q\nthe é", 3, "b.jsonl:9")
    html = inspect_page([example], "chatml", 7473)
    text = Page(html).text
    assert [int(dict(attrs)["data-id"]) for attrs in spans(html)] == [token.id for token in example.tokens]
    assert "the q\nthe ⟨C3⟩é" in text
    for part in ("b.jsonl:9", "8 tokens, 3 trained", "1 of 7,473 examples", "template chatml"):
        assert part in text
    trained = re.findall(r"<mark>(.*?)</mark>", html, re.DOTALL)[1:]  # the first is the legend
    assert [re.sub("<[^>]*>", "", part) for part in trained] == [" ⟨C3⟩é"]
    assert html.count('<i class="line"></i>') == 1


def test_parts_of_characters_wait_for_the_ids():
    html = inspect_page([inspected("é")])
    classes = [dict(attrs)["class"] for attrs in spans(html)]
    assert classes == ["token part bytes", "token"]
    assert ".part { display: none; }" in html


def test_gaps_are_named():
    html = inspect_page([inspected("q" * 9000)])
    assert "7,000 tokens not shown" in Page(html).text


def test_rejected_answers_stand_beside_the_chosen():
    html = inspect_page([inspected("q?yes", 3, rejected=tokenized("q?no", 2))])
    text = Page(html).text
    order = [text.index(part) for part in ("q?", "Chosen answer", "yes", "Rejected answer", "no\n")]
    assert order == sorted(order)
    assert text.count("q?") == 1
    assert "Rejected" not in Page(inspect_page([inspected("q?yes", 3)])).text


def test_no_examples():
    assert "There are no examples." in Page(inspect_page([])).text
