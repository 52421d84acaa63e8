import dataclasses
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytest

from tunelab.config import Action, QualityConfig, forget_reads, read_keys, to_plain
from tunelab.data.quality import survey as survey_module
from tunelab.data.quality.findings import Finding, QualityReport
from tunelab.data.quality.rules import read_rules
from tunelab.data.quality.survey import Survey
from tunelab.data.quality.wording import Parts, overlap_detail
from tunelab.data.records import Conversation, Example, Message, Passage, Role, Segment, TokenSequence
from tunelab.errors import DataError

SPECIAL = ["<|end|>", "<pad>"]
LONG = "the lamp in the hall of the old house near the river went out again last night and nobody came to mend it"


def ask(prompt: str, response: str, origin: str = "train.jsonl:1", system: str = "", **changes: Any) -> Conversation:
    opening = (Message(Role.SYSTEM, system),) if system else ()
    messages = (*opening, Message(Role.USER, prompt), Message(Role.ASSISTANT, response, trained=True))
    return Conversation(messages, origin, **changes)


def numbered(split: str, examples: Iterable[Example]) -> list[Example]:
    return [dataclasses.replace(example, origin=f"{split}.jsonl:{i}") for i, example in enumerate(examples, 1)]


def run(
    config: QualityConfig,
    train: Sequence[Example],
    validation: Sequence[Example] = (),
    test: Sequence[Example] = (),
    fields: Sequence[Mapping[str, Any]] = (),
) -> tuple[QualityReport, list[str | None]]:
    """Both passes over the splits; the reasons are those of the training examples."""
    survey = Survey(config, SPECIAL)
    splits = {"test": test, "train": train, "validation": validation}
    for split, examples in splits.items():
        for i, example in enumerate(examples):
            survey.add(split, example, fields[i] if fields and split == "train" else {})
    verdict = survey.conclude()
    reasons = {split: [verdict.reason(split, i, e) for i, e in enumerate(es)] for split, es in splits.items()}
    assert not any(reasons["validation"] + reasons["test"])  # never dropped from
    return verdict.report(), reasons["train"]


def findings(report: QualityReport) -> dict[tuple[str, str], Finding]:
    return {(finding.check, finding.split): finding for finding in report.findings}


BAD: dict[str, tuple[Example, str]] = {
    "empty_responses": (ask("question", " \n"), "empty_response"),
    "short_responses": (ask("question", "y "), "short_response"),
    "encoding_damage": (ask("question", "a\ufffdb"), "encoding_damage"),
    "special_tokens": (ask("why <|end|>", "no reason"), "special_tokens"),
    "secrets": (ask("use", "the key AKIA2E0A8F3B244C9986", system="be nice"), "secrets"),
    "personal_data": (ask("who", "nobody", system="I am jane@company.org"), "personal_data"),
}
GOOD = [ask(f"what is the {word}", f"it is the {word} of the day", system="answer") for word in ("sun", "moon", "star")]


@pytest.mark.parametrize("action", list(Action))
@pytest.mark.parametrize("check", BAD)
def test_checks_of_one_example(check: str, action: Action) -> None:
    bad, reason = BAD[check]
    train, test = numbered("train", [GOOD[0], bad, GOOD[1]]), numbered("test", [GOOD[2], bad])
    settings: dict[str, Any] = {check: action}
    config = QualityConfig(**settings)
    if action is Action.error:
        with pytest.raises(DataError, match=rf"^train\.jsonl:2: expected .* data\.quality\.{check}=report"):
            run(config, train, (), test)
        with pytest.raises(DataError, match=r"^test\.jsonl:2: "):
            run(config, numbered("train", GOOD), (), test)
        return
    report, reasons = run(config, train, (), test)
    found = findings(report)
    dropped = action is Action.drop
    assert reasons == [None, reason if dropped else None, None]
    assert found[check, "train"].num_examples == found[check, "test"].num_examples == 1
    assert found[check, "train"].num_dropped == int(dropped)
    assert found[check, "test"].num_dropped == 0
    assert found[check, "test"].action == "report"
    assert found[check, "train"].origins == ("train.jsonl:2",)
    assert found[check, "test"].origins == ("test.jsonl:2",)
    assert found[check, "train"].detail.startswith("1 of 3 train examples: ")
    assert {name for name, _ in found} == {check, "overlap"}
    assert "AKIA" not in json.dumps(dataclasses.asdict(report))
    assert "jane" not in json.dumps(dataclasses.asdict(report))


def test_clean_data_has_no_findings_and_the_checks_are_listed() -> None:
    report, reasons = run(QualityConfig(), GOOD, (), [ask("another thing", "entirely")])
    assert report.findings == []
    assert reasons == [None] * 3
    assert len(report.checks) == 10
    assert set(report.checks.values()) == {"report"}
    assert report.num_checked == {"train": 3, "test": 1}
    assert report.label_balance == {}
    assert report.scripts["train"] == {"Latin": 1.0}
    assert json.loads(json.dumps(dataclasses.asdict(report)))["num_checked"] == report.num_checked


def test_the_first_of_exact_duplicates_stays_and_what_differs_is_no_duplicate() -> None:
    tool = {"type": "function"}
    call = Message(Role.ASSISTANT, "", True, extra={"tool_calls": [{"name": "f"}]})
    examples = [
        *(
            ask("a b", "c d"),
            ask(" a b\n", "c d "),
            ask("a", "b c d"),
            ask("a b", "c d", system="s"),
            ask("a b", "c d"),
        ),
        *(ask("a b", "c d", tools=(tool,)), ask("a b", "c d", desirable=False)),
        ask("a b", "c d", rejected=(Message(Role.ASSISTANT, "no"),)),
        *(Conversation((Message(Role.USER, "a b"), call), "x"), Conversation((Message(Role.USER, "a b"), call), "y")),
        *(Passage((Segment("a b", False), Segment("c d", True)), "x"), Passage((Segment("a bc d", True),), "x", True)),
        *(Passage((Segment("a b", False), Segment("c d", True)), "y"), Passage((Segment("a bc d", True),), "y", True)),
        *(TokenSequence((1, 2), (False, True), "x"), TokenSequence((1, 2), (True, True), "x")),
        TokenSequence((1, 2), (False, True), "y"),
    ]
    train = numbered("train", examples)
    report, reasons = run(QualityConfig(exact_duplicates=Action.drop), train)
    dropped = [i for i, reason in enumerate(reasons, 1) if reason == "exact_duplicate"]
    assert dropped == [2, 5, 10, 13, 14, 17]
    assert findings(report)["exact_duplicates", "train"].num_dropped == 6
    assert findings(report)["exact_duplicates", "train"].origins == tuple(f"train.jsonl:{i}" for i in dropped[:5])
    assert ("empty_responses", "train") not in findings(report)  # a call is an answer


def test_near_duplicates() -> None:
    near = [ask(f"{LONG} {LONG[::-1]}", f"so it was {end}") for end in ("said", "told", "said")]
    train = [GOOD[0], *near, GOOD[1]]
    report, reasons = run(QualityConfig(near_duplicates=Action.drop), train)
    assert reasons == [None, None, "near_duplicate", None, None]  # the fourth is an exact duplicate, and only that
    assert "5 words of 0.8 or more" in findings(report)["near_duplicates", "train"].detail
    _, reasons = run(QualityConfig(near_duplicates=Action.drop, near_duplicate_similarity=1.0), train)
    assert not any(reasons)


def test_a_shared_system_message_makes_nothing_near() -> None:
    system = " ".join(f"rule{i}" for i in range(300))
    train = [dataclasses.replace(e, messages=(Message(Role.SYSTEM, system), *e.messages[1:])) for e in GOOD]
    report, _ = run(QualityConfig(), train, (), [ask("quite another thing", "entirely", system=system)])
    assert report.findings == []


@pytest.mark.parametrize("action", list(Action))
def test_overlap_in_any_way_and_order(action: Action) -> None:
    words = " ".join(LONG.split()[:13])
    exact, near, ngram = ask("apples and pears", "plums"), ask(LONG, f"{LONG} x"), f"but {LONG[::-1]} {words}"
    test = numbered("test", [exact, near, ask("a far away place", "is here")])
    train = [GOOD[0], exact, ask(LONG, f"{LONG} y"), ask(ngram, "and so on"), ask(" ".join(LONG.split()[:12]), "on")]
    config = QualityConfig(overlap=action)
    if action is Action.error:
        with pytest.raises(DataError, match=r"^train\.jsonl:2: expected no finding of data\.quality\.overlap=error"):
            run(config, numbered("train", train), (), test)
        with pytest.raises(DataError, match=r"^train\.jsonl:2: .* found 13 words in a row"):
            run(config, numbered("train", [GOOD[0], train[3]]), (), test)
        assert run(config, GOOD, (), test)[1] == [None] * 3
        return
    report, reasons = run(config, numbered("train", train), (), test)
    drop = action is Action.drop
    assert reasons == [None, *(["overlap" if drop else None] * 3), None]
    ours, theirs = findings(report)["overlap", "train"], findings(report)["overlap", "test"]
    assert (ours.num_examples, ours.num_dropped, theirs.num_examples) == (3, 3 * drop, 2)
    assert ours.origins == ("train.jsonl:2", "train.jsonl:3", "train.jsonl:4")
    assert theirs.origins == ("test.jsonl:1", "test.jsonl:2")
    by_words = 1 if drop else 2  # what left for another reason was not compared
    assert f"(1 exactly, 1 nearly, {by_words} only 13 words in a row)" in ours.detail


def test_words_alone_are_not_called_a_leak() -> None:
    rules, remark = read_rules(QualityConfig()), "may be a phrase that different examples repeat"
    assert remark in overlap_detail("train", (2, 9), Parts(0, 0, 2), rules)
    assert remark not in overlap_detail("train", (3, 9), Parts(1, 0, 2), rules)
    assert remark not in overlap_detail("test", (0, 9), Parts(0, 0), rules)


def test_ngram_length_is_the_configured_one() -> None:
    test, train = [ask("one two three four", "five six")], [ask("well: two three four five", "then twelve")]
    assert run(QualityConfig(overlap_ngram_words=5), train, (), test)[0].findings == []
    found = findings(run(QualityConfig(overlap_ngram_words=4), train, (), test)[0])
    assert {key: finding.num_examples for key, finding in found.items()} == {
        ("overlap", s): 1 for s in ("train", "test")
    }


def test_validation_and_test_are_compared_with_each_other() -> None:
    shared = [ask("one", "and only"), ask(LONG, LONG + " x")]
    validation, test = numbered("validation", [GOOD[1], *shared]), [ask("one", "and only"), ask(LONG, LONG + " y")]
    found = findings(run(QualityConfig(overlap=Action.error), GOOD[:1], validation, test)[0])
    assert set(found) == {("validation_test_overlap", "validation")}
    finding = found["validation_test_overlap", "validation"]
    assert finding.detail == "2 of 3 validation examples: in test too (1 exactly, 1 nearly)."
    assert finding.origins == ("validation.jsonl:2", "validation.jsonl:3")


def test_contradictions() -> None:
    rejected = (Message(Role.ASSISTANT, "no"),)
    train = [
        *(ask("capital of France", "it is Paris"), ask("capital of Italy", "it is Rome")),
        *(ask("capital of France", "it is Lyon"), ask("capital of Italy", "it is Rome")),
        *(ask("pairs", "good", rejected=rejected), ask("pairs", "better", rejected=rejected)),
        *(ask("judged", answer, desirable=good) for answer, good in (("a good one", True), ("a bad one", False))),
        *(ask("judged", "both ways", desirable=good) for good in (True, False)),
        *(Passage((Segment("q: ", False), Segment(a, True)), "x") for a in ("one thing", "another")),
        *(Passage((Segment(text, True),), "x", windowed=True) for text in ("document one", "document two")),
    ]
    report, reasons = run(QualityConfig(contradictions=Action.drop), train)
    assert [i for i, reason in enumerate(reasons) if reason == "contradiction"] == [0, 2, 8, 9, 10, 11]
    assert findings(report)["contradictions", "train"].num_examples == 6


def test_an_example_is_left_out_for_the_first_reason_and_counted_once() -> None:
    bad = ask("who", "jane@company.org \ufffd")
    config = QualityConfig(exact_duplicates=Action.drop, encoding_damage=Action.drop, personal_data=Action.drop)
    report, reasons = run(config, [bad, bad])
    assert reasons == ["encoding_damage", "exact_duplicate"]
    assert {check: f.num_dropped for (check, _), f in findings(report).items()} == {
        "exact_duplicates": 1,
        "encoding_damage": 1,
        "personal_data": 0,
    }


def labelled(counts: Mapping[str, int]) -> tuple[list[Conversation], list[dict[str, Any]]]:
    rows = [(label, i) for label, count in counts.items() for i in range(count)]
    return [ask(f"sentence {label} {i}", label) for label, i in rows], [{"label": label} for label, _ in rows]


def test_label_balance_where_there_are_labels() -> None:
    train, _ = labelled({"pos": 70, "neg": 30})
    test, _ = labelled({"pos": 1, "odd": 2})
    report, _ = run(QualityConfig(), train, (), test)
    assert report.label_balance == {"train": {"pos": 70, "neg": 30}, "test": {"odd": 2, "pos": 1}}
    assert run(QualityConfig(), train[1:])[0].label_balance == {}  # 99 examples
    many, _ = labelled({f"label{i}": 2 for i in range(51)})
    assert run(QualityConfig(), many)[0].label_balance == {}
    assert len(run(QualityConfig(), many[2:])[0].label_balance["train"]) == 50


def test_balance_keeps_as_many_of_each_value_whatever_the_order() -> None:
    train, fields = labelled({"pos": 12, "neg": 5, "mixed": 7})
    config = QualityConfig(balance_by="label")
    kept: list[set[str]] = []
    order = list(range(len(train)))
    for seed in range(3):
        random.Random(seed).shuffle(order)
        _, reasons = run(config, [train[i] for i in order], fields=[fields[i] for i in order])
        stay = [i for i, reason in zip(order, reasons, strict=True) if reason is None]
        kept.append({train[i].messages[-2].content for i in stay})
        assert sorted(fields[i]["label"] for i in stay) == ["mixed"] * 5 + ["neg"] * 5 + ["pos"] * 5
        assert set(reasons) == {None, "balanced"}
    assert kept[0] == kept[1] == kept[2]
    report, _ = run(config, train, fields=fields)
    assert findings(report)["balance_by", "train"].num_dropped == 9
    assert report.label_balance == {"train": {"pos": 12, "mixed": 7, "neg": 5}}


def test_balance_counts_what_other_checks_keep() -> None:
    train, fields = labelled({"pos": 6, "neg": 3})
    train, fields = [*train, train[-1], train[-1]], [*fields, fields[-1], fields[-1]]
    config = QualityConfig(balance_by="label", exact_duplicates=Action.drop)
    reasons = run(config, train, fields=fields)[1]
    assert reasons.count("balanced") == 3
    assert reasons.count("exact_duplicate") == 2


def test_balance_needs_its_column() -> None:
    survey = Survey(QualityConfig(balance_by="label"), [])
    survey.add("test", GOOD[0], {})
    survey.add("train", GOOD[0], {"label": None})
    with pytest.raises(DataError, match=r"^train\.jsonl:1: expected the column 'label' .* found 'prompt';"):
        survey.add("train", GOOD[0], {"prompt": "x"})


def test_switched_off_nothing_is_read_computed_or_dropped() -> None:
    config = QualityConfig(enabled=False, exact_duplicates=Action.error)
    forget_reads(config)
    report, reasons = run(config, [GOOD[0]] * 3, (), GOOD)
    assert reasons == [None] * 3
    assert report == QualityReport({}, [], {}, {}, {})
    assert read_keys(config) == {"enabled"}


def test_switched_on_every_key_is_read() -> None:
    config = QualityConfig()
    forget_reads(config)
    Survey(config, [])
    assert read_keys(config) == set(to_plain(QualityConfig()))


def random_set(seed: int, size: int) -> list[Example]:
    """Examples of all kinds: copies, near copies, contradictions, bad ones."""
    generator = random.Random(seed)
    bad = [example for example, _ in BAD.values()]
    words = [f"word{i}" for i in range(500)]
    examples: list[Example] = []
    for _ in range(size):
        choice = generator.randrange(6)
        if choice == 0 and examples:
            examples.append(generator.choice(examples))
        elif choice == 1:
            examples.append(generator.choice(bad))
        elif choice == 2:
            examples.append(ask(f"prompt {generator.randrange(20)}", generator.choice(words)))
        else:
            examples.append(ask(" ".join(generator.choices(words, k=30)), " ".join(generator.choices(words, k=10))))
    return examples


def test_the_size_of_the_batches_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = numbered("train", random_set(1, 300)), numbered("test", random_set(2, 100))
    test[:10] = train[:10]
    expected = run(QualityConfig(), train, (), test)
    assert len(expected[0].findings) > 10
    monkeypatch.setattr(survey_module, "_BATCH_EXAMPLES", 7)
    monkeypatch.setattr("tunelab.data.quality.sharing._BATCH_EXAMPLES", 1)
    assert run(QualityConfig(), train, (), test) == expected


def test_the_order_of_the_rows_changes_no_count() -> None:
    train, test = random_set(3, 300), random_set(4, 50)
    test[:10] = train[:10]
    counts: list[dict[tuple[str, str], int]] = []
    for seed in range(3):
        random.Random(seed).shuffle(train)
        report, _ = run(QualityConfig(), train, (), test)
        counts.append({key: finding.num_examples for key, finding in findings(report).items()})
    assert counts[0] == counts[1] == counts[2]


def test_dropping_leaves_a_set_without_findings() -> None:
    every: dict[str, Any] = dict.fromkeys(
        ("exact_duplicates", "near_duplicates", "overlap", "contradictions", *BAD), Action.drop
    )
    config = QualityConfig(**every)
    train, test = random_set(5, 300), random_set(6, 50)
    test[:10] = train[:10]
    _, reasons = run(config, train, (), test)
    kept = [example for example, reason in zip(train, reasons, strict=True) if reason is None]
    assert 50 < len(kept) < 250
    report, _ = run(config, kept, (), test)
    assert [finding for finding in report.findings if finding.split == "train"] == []
    assert ("overlap", "test") not in findings(report)
