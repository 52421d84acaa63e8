"""The two ends of a conversation: a terminal, or pipes that carry questions in and answers out."""

import contextlib
import importlib
import sys
from collections.abc import Callable, Generator, Iterator

from rich.console import Console
from rich.text import Text

from tunelab.errors import Interrupted
from tunelab.escaping import printable

PROMPT = "you    › "
STYLES = {"base": "yellow", "tuned": "green"}


class Screen:
    """Shows answers as they come. Where it is not `interactive`, standard output has the answers and nothing else."""

    def __init__(self, interactive: bool) -> None:
        self.interactive = interactive
        self._console = Console(highlight=False, markup=False, soft_wrap=True)
        if interactive:
            with contextlib.suppress(ImportError):  # not on every system; input() edits lines with it
                importlib.import_module("readline")

    def lines(self) -> Iterator[str]:
        """What is typed, line by line, until Ctrl-D; Ctrl-C forgets the line."""
        while True:
            try:
                if self.interactive:
                    yield input(PROMPT)
                else:
                    line = sys.stdin.readline()
                    if not line:
                        return
                    yield line
            except EOFError:
                self._write("\n")
                return
            except (KeyboardInterrupt, Interrupted) as error:
                if not self.interactive or getattr(error, "exit_code", 130) != 130:
                    raise
                self._write("\n")
                self.note("Ctrl-D or /quit ends")

    def note(self, text: str) -> None:
        """Something that is no answer: for a person only."""
        if self.interactive:
            self._console.print(Text(text, style="dim"))

    def problem(self, text: str) -> None:
        """Why there is no answer, in a sentence."""
        if self.interactive:
            self._console.print(Text(printable(text), style="red"))
        else:
            print(printable(text), file=sys.stderr)

    @contextlib.contextmanager
    def speaking(self, name: str) -> Generator[Callable[[str], None]]:
        """Yields what shows a piece of the answer of `name`; the line ends afterwards."""
        style = STYLES[name] if self.interactive else ""
        if self.interactive:
            self._write(f"{name:<6} › ", f"bold {style}")
        try:
            yield lambda piece: self._write(printable(piece, keep="\n\t"), style)
        finally:
            self._write("\n")

    def _write(self, text: str, style: str = "") -> None:
        if self.interactive:
            self._console.print(Text(text, style=style), end="")
        else:
            sys.stdout.write(text)
        sys.stdout.flush()
