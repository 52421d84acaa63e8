"""`python -m tunelab <command>`: what is done with data and results besides training and measuring."""

import sys
from collections.abc import Callable

from tunelab.compose import Invocation, command, load_config
from tunelab.config import ChatConfig, ExportConfig, InspectConfig, PrepareConfig


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
    from tunelab.run import open_run_folder

    folder = open_run_folder(config.run) if config.run else None
    run = load_config(folder.path / "config.yaml") if folder else None
    export(config, run, folder, invocation.overrides)


@command("chat", ChatConfig)
def chat(config: ChatConfig, invocation: Invocation) -> None:
    """Talk to the base model and to what was trained."""
    from tunelab.chat.conversing import chat
    from tunelab.run import open_run_folder

    folder = open_run_folder(config.run) if config.run else None
    run = load_config(folder.path / "config.yaml") if folder else None
    chat(config, run, folder, invocation.overrides)


COMMANDS: dict[str, tuple[Callable[[], None], str]] = {
    "inspect": (inspect, "the data as a run would see it: report, examples, trained and masked tokens"),
    "prepare": (prepare, "the cleaned and split rows as JSONL and Arrow, with a data card"),
    "export": (export, "an adapter or a merged model as other programs read it, with a model card"),
    "chat": (chat, "a conversation with the base model and what was trained, side by side"),
}


def main() -> None:
    """Run the command that is named first; the rest of the line is its configuration."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in COMMANDS:
        sys.argv[1:] = sys.argv[2:]
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
