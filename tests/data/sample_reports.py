"""Reports whose every figure is another number, so that a page or table that lacks one is found out."""

from dataclasses import replace
from itertools import count
from typing import Any

from tunelab.data.reporting import DataReport, SourceReport, SplitReport

HOSTILE = (
    '</style></title><script>alert(1)</script><img src=x onerror=alert(2)>"\' onmouseover="x" {{ 7*7 }} {% raw %} '
    "[red]rich[/red] [/] \x1b[31m\x07\x00\x9b \u202egnp.exe\u2066 \u2028 \ud800 &lt; ]]> --> <!--"
)


def make_split(numbers: Any, **changes: Any) -> SplitReport:
    split = SplitReport(
        num_rows=next(numbers),
        num_examples=next(numbers),
        num_kept=next(numbers) + 5000,
        num_dropped={"too_long": next(numbers), "no_supervised_tokens": next(numbers)},
        num_truncated=next(numbers),
        num_windows=next(numbers),
        num_tokens=next(numbers) * 1000,
        num_supervised_tokens=next(numbers) * 500,
        num_supervised_tokens_lost=next(numbers),
        num_seams_encoded_apart=next(numbers),
        max_length_tokens=next(numbers),
        mean_length_tokens=next(numbers) + 0.5,
        median_length_tokens=next(numbers) + 0.5,
        length_histogram=[(50, next(numbers)), (100, 0), (150, next(numbers))],
        supervised_histogram=[(20, next(numbers)), (40, next(numbers))],
    )
    return replace(split, **changes)


def make_finding(numbers: Any, check: str, action: str, **changes: Any) -> dict[str, Any]:
    return {
        "check": check,
        "split": "train",
        "action": action,
        "num_examples": next(numbers),
        "num_dropped": next(numbers) if action == "drop" else 0,
        "origins": [f"{check}.jsonl:{next(numbers)}" for _ in range(5)],
        "detail": f"Sentence {next(numbers)}.",
        **changes,
    }


def make_report(**changes: Any) -> DataReport:
    numbers = count(1103, 7)
    findings = [make_finding(numbers, "exact_duplicates", "drop"), make_finding(numbers, "secrets", "report")]
    report = DataReport(
        sources=[
            SourceReport(
                f"{name}.jsonl", "alpaca", f"auto: columns of {name}", weight, next(numbers), next(numbers),
                [f"unused_{name}"], {f"{name}.jsonl": "ab" * 32},
            )
            for name, weight in (("first", 1.0), ("second", 0.25))
        ],
        template="chatml",
        template_policy=["The tokenizer has no pad token, so its end token pads."],
        end_of_turn="<|im_end|>",
        train_on="last_response",
        max_length=1024,
        over_length="truncate_prompt",
        bad_rows=[f"first.jsonl:{line}: expected an object, found a list." for line in range(1, 6)],
        num_bad=next(numbers),
        splits={name: make_split(numbers) for name in ("train", "validation", "test")},
        quality={
            "checks": {"exact_duplicates": "drop", "secrets": "report", "encoding_damage": "report"},
            "findings": findings,
            "label_balance": {"train": {"yes": next(numbers), "no": next(numbers)}},
            "scripts": {"train": {"Latin": 0.987, "Greek": 0.013}},
            "num_checked": {"train": next(numbers)},
        },
        preparation_seconds=12.34,
    )  # fmt: skip
    return replace(report, **changes)


def hostile_report() -> DataReport:
    """A report in which everything that data or configuration can name is hostile."""
    report = make_report()
    finding = {
        **report.quality["findings"][0],
        "origins": [HOSTILE],
        "detail": HOSTILE,
        "check": HOSTILE,
        "split": HOSTILE,
    }
    source = SourceReport(HOSTILE, HOSTILE, HOSTILE, 1.0, 1, 1, [HOSTILE], {HOSTILE: HOSTILE})
    split = replace(report.splits["train"], num_dropped={HOSTILE: 3})
    quality = {
        "checks": {HOSTILE + "!": "drop"},
        "findings": [finding, {**finding, "action": HOSTILE}],
        "label_balance": {HOSTILE: {HOSTILE: 3}},
        "scripts": {HOSTILE: {HOSTILE: 0.5}},
        "num_checked": {HOSTILE: 1},
    }
    return replace(
        report, sources=[source], template=HOSTILE, template_policy=[HOSTILE], end_of_turn=HOSTILE, train_on=HOSTILE,
        over_length=HOSTILE, bad_rows=[HOSTILE], splits={"train": split, HOSTILE: split}, quality=quality,
    )  # fmt: skip


def figures_of(split: SplitReport) -> list[str]:
    """The figures of a split as a person reads them."""
    whole = [
        split.num_rows, split.num_examples, split.num_kept, *split.num_dropped.values(), split.num_truncated,
        split.num_windows, split.num_tokens, split.num_supervised_tokens, split.num_supervised_tokens_lost,
        split.num_seams_encoded_apart, split.max_length_tokens,
    ]  # fmt: skip
    lengths = [split.mean_length_tokens, split.median_length_tokens]
    return [f"{number:,}" for number in whole] + [f"{length:,.1f}" for length in lengths]
