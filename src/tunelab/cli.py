"""`python -m tunelab <command>`: what is done with data and results besides training and measuring."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tunelab.compose import Invocation, command, open_one, open_run
from tunelab.config import (
    ChatConfig,
    ExportConfig,
    InspectConfig,
    JudgeConfig,
    NoiseConfig,
    PrepareConfig,
    RatingsConfig,
    ReportConfig,
    ReproduceConfig,
    ReviewConfig,
)
from tunelab.explaining import TAKE_A_WORD


@command("inspect", InspectConfig)
def inspect(config: InspectConfig, invocation: Invocation) -> None:
    """Show the data as a run would see it, in the terminal and as pages."""
    from tunelab.inspect import inspect_data  # composing and help need no torch

    inspect_data(config, invocation.overrides)


@command("prepare", PrepareConfig)
def prepare(config: PrepareConfig, invocation: Invocation) -> None:
    """Write the cleaned and split rows to a folder."""
    from tunelab.prepare import prepare_files

    prepare_files(config, invocation.overrides)


@command("export", ExportConfig)
def export(config: ExportConfig, invocation: Invocation) -> None:
    """Write what was trained as other programs read it."""
    from tunelab.export.exporting import export

    run, folder = open_run(config.run)
    export(config, run, folder, invocation.overrides)


@command("chat", ChatConfig)
def chat(config: ChatConfig, invocation: Invocation) -> None:
    """Talk to the base model and to what was trained."""
    from tunelab.chat.conversing import chat

    run, folder = open_run(config.run)
    chat(config, run, folder, invocation.overrides)


@command("review", ReviewConfig)
def review(config: ReviewConfig, invocation: Invocation) -> None:
    """Show completions side by side, and make a blind sheet to rate them."""
    from tunelab.review.command import review

    review(config, invocation.overrides)


@command("ratings", RatingsConfig)
def ratings(config: RatingsConfig, _: Invocation) -> None:
    """Say what filled-in sheets say."""
    from tunelab.review.command import rate

    rate(config)


@command("judge", JudgeConfig)
def judge(config: JudgeConfig, invocation: Invocation) -> None:
    """Let a model choose between completions."""
    from tunelab.review.judge import judge

    judge(config, invocation.overrides)


@command("report", ReportConfig)
def report(config: ReportConfig, invocation: Invocation) -> None:
    """Compare runs: tables with statistics, figures, and what may not be compared."""
    from tunelab.report.command import report

    report(config, invocation.overrides)


@command("noise", NoiseConfig)
def noise(config: NoiseConfig, invocation: Invocation) -> None:
    """Repeat a run: how much do its figures move by luck alone?"""
    from tunelab.noise import study_noise

    study_noise(config, *open_one(config.run), invocation.overrides)


@command("reproduce", ReproduceConfig)
def reproduce(config: ReproduceConfig, invocation: Invocation) -> None:
    """Do runs again, and say which of their figures agree."""
    from tunelab.reproduce import reproduce

    reproduce(config, invocation.overrides)


COMMANDS: dict[str, tuple[Callable[[], None], str]] = {
    "inspect": (inspect, "the data as a run would see it: report, examples, trained and masked tokens"),
    "prepare": (prepare, "the cleaned and split rows as JSONL and Arrow, with a data card"),
    "export": (export, "an adapter or a merged model as other programs read it, with a model card"),
    "chat": (chat, "a conversation with the base model and what was trained, side by side"),
    "review": (review, "completions of several models as a page, and a blind sheet for people to rate them"),
    "ratings": (ratings, "what people chose: win rate, interval, and how far they agree"),
    "judge": (judge, "what a judge model chooses, behind any OpenAI-compatible address, in both orders"),
    "report": (report, "a sweep or any runs as tables with statistics over seeds, figures, and a page"),
    "noise": (noise, "a run repeated with the same seed and with others: the noise floor of its figures"),
    "reproduce": (reproduce, "the runs of a table done again: which of its figures agree"),
}
POSITIONAL = {"report": "runs", "reproduce": "runs"}  # command → the key that folders fill which are named without one


def main() -> None:
    """Run the command that is named first; the rest of the line is its configuration."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in COMMANDS:
        sys.argv[1:] = with_named_folders(sys.argv[2:], POSITIONAL.get(name))
        COMMANDS[name][0]()
        return
    lines = [f"  {known:<10} {meaning}" for known, (_, meaning) in COMMANDS.items()]
    page = "\n".join(["Usage: python -m tunelab <command> [key=value …]", "", *lines, "", "  <command> --help"])
    if name in ("--help", "-h"):
        print(page)
        return
    found = f"found {name!r}" if name else "found none"
    print(f"error: expected a command ({', '.join(COMMANDS)}), {found}.\n\n{page}", file=sys.stderr)
    sys.exit(1)


def with_named_folders(words: Sequence[str], key: str | None) -> list[str]:
    """`a b to=c` as `to=c runs=["a","b"]` for the key `runs`; a folder may have `=` in its name."""
    folders = [
        word
        for before, word in zip(["", *words], words, strict=False)
        if key and not word.startswith("-") and before not in TAKE_A_WORD and ("=" not in word or Path(word).is_dir())
    ]
    if not folders:
        return list(words)
    quoted = ",".join('"' + folder.replace('"', '\\"') + '"' for folder in folders)
    return [*(word for word in words if word not in folders), f"{key}=[{quoted}]"]
