"""`tunelab judge`: a model compares the completions of two others, in both orders, and what it says is counted."""

import itertools
import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from tunelab import atomic
from tunelab.audit import refuse_unread_keys
from tunelab.config import JudgeConfig, mark_read, to_plain
from tunelab.errors import ConfigError
from tunelab.escaping import printable
from tunelab.evaluation.preferences import Preference, preference
from tunelab.evaluation.statistics import Interval, wilson_interval
from tunelab.review.judge_client import Answered, JudgeClient
from tunelab.review.judge_prompts import Reply, judge_messages, read_reply
from tunelab.review.predictions import Reviewed, open_predictions
from tunelab.run import RunFolder
from tunelab.terminal import RunConsole

SETTINGS = "settings.json"
ASKED = ("base_url", "judge", "criteria", "show_reference", "max_tokens", "temperature")  # what makes a question
HOW = ("to", "api_key_env", "num_parallel", "timeout_seconds", "num_retries")


class Judgement(StrEnum):
    """What both orders say of an example. A model wins only where they agree; UNJUDGED: a reply had no verdict."""

    WIN = "win"
    LOSS = "loss"
    TIE = "tie"
    UNJUDGED = "unjudged"


@dataclass(frozen=True, slots=True)
class Judged:
    """One example: the verdict on the second model, and the two replies with the first model first, then second."""

    id: str
    judgement: Judgement
    replies: tuple[Reply, Reply]
    is_refused: bool
    extra_characters: int  # of the second model's completion


@dataclass(frozen=True, slots=True)
class JudgeReport:
    """What a judge says of the second of `models` against the first.

    `preference` is over the examples that were judged, with those that are alike as ties: as many of them as belong to
    the judged, where replies had no verdict. `num_disagreed`: examples
    whose two orders did not agree, ties here. `first_rate`: how often a reply chose the answer that stood first, of
    those that chose; `longer_rate`: how often a winner was the longer answer. Far from half they show a bias.
    """

    models: tuple[str, str]
    judge: str
    num_examples: int
    num_alike: int
    num_disagreed: int
    num_refused: int
    num_unreadable: int
    preference: Preference | None
    first_rate: float | None
    first_interval: Interval | None
    longer_rate: float | None
    longer_interval: Interval | None

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON can hold them."""
        return asdict(self)


def judge(config: JudgeConfig, overrides: Sequence[str]) -> None:
    """Ask about every example, write judgements.jsonl and judge.json, and print what they say.

    Raises:
        TunelabError: the predictions or the server cannot be used; replies that came are kept.
    """
    found = open_predictions(config)
    models, examples = found.models, found.examples
    if len(models) != 2:
        raise ConfigError(
            f"models: expected two models to compare, found {', '.join(models)}; set models=[<first>,<second>]."
        )
    if config.num_examples is not None:
        examples = random.Random(config.seed).sample(examples, min(config.num_examples, len(examples)))
    mark_read(config, *ASKED, *HOW)  # with the first question
    refuse_unread_keys(config, overrides)
    folder = _folder(config, found.folder, models)
    client = JudgeClient(config, folder / "replies.jsonl")
    console = RunConsole()
    different = [example for example in examples if not example.are_alike]
    with console.status(f"asking {printable(config.judge)} about {len(different):,} examples"):
        judged = _judge_all(config, client, (models[0], models[1]), different)
    report = summarise(judged, (models[0], models[1]), config.judge, len(examples))
    lines = [json.dumps(asdict(each), ensure_ascii=False) + "\n" for each in judged]
    atomic.write_text(folder / "judgements.jsonl", "".join(lines))
    atomic.write_json(folder / "judge.json", report.to_dict())
    _show(console, report)
    for line in found.said:
        console.print(line, soft_wrap=True)
    console.print(f"judgements   {folder}", soft_wrap=True)


def _folder(config: JudgeConfig, source: Path, models: Sequence[str]) -> Path:
    """Where what is asked is kept: judge, judge-2, … beside the predictions, the one that has asked the same before."""
    plain = to_plain(config)
    settings = {name: plain[name] for name in (*ASKED, "split", "predictions")} | {"models": list(models)}
    numbered = (source / (f"judge-{number}" if number > 1 else "judge") for number in itertools.count(1))
    for place in [Path(config.to)] if config.to else numbered:
        kept = RunFolder(place).read_json(SETTINGS)
        if kept in ({}, settings):
            place.mkdir(parents=True, exist_ok=True)
            atomic.write_json(place / SETTINGS, settings)
            return place
    raise ConfigError(
        f"to: {config.to!r} holds what another judge, or other models, were asked; set to=<another folder>."
    )


def summarise(judged: Sequence[Judged], models: tuple[str, str], judge: str, num_examples: int) -> JudgeReport:
    """Count what was judged; the examples of `num_examples` beyond it were alike, and alone say nothing of a judge."""
    counts = Counter(each.judgement for each in judged)
    num_alike = num_examples - len(judged)
    share = 1 - counts[Judgement.UNJUDGED] / len(judged) if judged else 1.0
    numbers = (counts[Judgement.WIN], counts[Judgement.LOSS], counts[Judgement.TIE] + round(num_alike * share))
    says_nothing = bool(judged) and counts[Judgement.UNJUDGED] == len(judged)
    replies = [reply for each in judged for reply in each.replies]
    winners = [each for each in judged if each.judgement in (Judgement.WIN, Judgement.LOSS) and each.extra_characters]
    num_longer = sum((each.judgement is Judgement.WIN) == (each.extra_characters > 0) for each in winners)
    first = _rate(replies.count(Reply.FIRST), replies.count(Reply.FIRST) + replies.count(Reply.SECOND))
    longer = _rate(num_longer, len(winners))
    num_refused = sum(each.is_refused for each in judged)
    return JudgeReport(
        models=models,
        judge=judge,
        num_examples=num_examples,
        num_alike=num_alike,
        num_disagreed=sum(_disagree(each) for each in judged),
        num_refused=num_refused,
        num_unreadable=counts[Judgement.UNJUDGED] - num_refused,
        preference=preference(*numbers) if sum(numbers) and not says_nothing else None,
        first_rate=first[0],
        first_interval=first[1],
        longer_rate=longer[0],
        longer_interval=longer[1],
    )


def verdict_of_both(forward: Reply, backward: Reply) -> Judgement:
    """The verdict on the second model: `forward` is the reply with it in second place, `backward` in first."""
    if Reply.NONE in (forward, backward):
        return Judgement.UNJUDGED
    if (forward, backward) == (Reply.SECOND, Reply.FIRST):
        return Judgement.WIN
    if (forward, backward) == (Reply.FIRST, Reply.SECOND):
        return Judgement.LOSS
    return Judgement.TIE


def _judge_all(
    config: JudgeConfig, client: JudgeClient, models: tuple[str, str], examples: Sequence[Reviewed]
) -> list[Judged]:
    orders = (models, models[::-1])
    answers = client.ask_all([judge_messages(config, example, *order) for example in examples for order in orders])
    pairs = zip(examples, answers[::2], answers[1::2], strict=True)
    return [_judged(example, models, pair) for example, *pair in pairs]


def _judged(example: Reviewed, models: tuple[str, str], answers: Sequence[Answered]) -> Judged:
    readable = [each for each in answers if not (each.is_refusal or each.is_cut)]
    forward, backward = (read_reply(each.text) if each in readable else Reply.NONE for each in answers)
    before, after = (len(example.written[model].completion) for model in models)
    refused = any(each.is_refusal for each in answers)
    return Judged(example.id, verdict_of_both(forward, backward), (forward, backward), refused, after - before)


def _disagree(judged: Judged) -> bool:
    return judged.judgement is Judgement.TIE and set(judged.replies) != {Reply.TIE}


def _rate(number: int, count: int) -> tuple[float | None, Interval | None]:
    return (number / count, wilson_interval(number, count)) if count else (None, None)


def _show(console: Console, report: JudgeReport) -> None:
    second, found = printable(report.models[1]), report.preference
    if found is None:
        console.print("no example was judged")
    else:
        low, high = found.interval
        console.print(
            Text(
                f"win rate of {second}: {found.win_rate:.1%} [{low:.1%}, {high:.1%}], {found.verdict.value} "
                f"(p {found.p_value:.2g}): {found.num_wins} better, {found.num_losses} worse, {found.num_ties} ties"
            )
        )
    lines = [
        f"{report.num_examples:,} examples, {report.num_alike:,} of them alike; ties where the two orders disagreed: "
        f"{report.num_disagreed:,}; left out: refused {report.num_refused:,}, no verdict {report.num_unreadable:,}",
        f"the answer that stood first was chosen in {_spell(report.first_rate, report.first_interval)}, "
        f"the longer one won in {_spell(report.longer_rate, report.longer_interval)}",
    ]
    console.print(Text("\n".join(lines), style="dim"))


def _spell(rate: float | None, interval: Interval | None) -> str:
    return f"{rate:.1%} [{interval[0]:.1%}, {interval[1]:.1%}]" if rate is not None and interval else "no case"
