"""Reads metrics.jsonl while a run writes it: each figure of a validation once, as soon as its line is whole."""

import json
import math
import os
from pathlib import Path
from typing import Any


class Follower:
    """The figures of one name in one file."""

    def __init__(self, path: Path, name: str) -> None:
        self._path, self._name = path, name
        self._inode, self._offset = 0, 0
        self._seen: set[int] = set()

    def news(self) -> list[tuple[int, float]]:
        """(step, value) of what was written since the last call, a step once; a value that is no number is nan."""
        figures = [figure for line in self._new_lines() if (figure := self._figure(line)) is not None]
        fresh = [(step, value) for step, value in figures if step not in self._seen]
        self._seen.update(step for step, _ in fresh)
        return list(dict(fresh).items())

    def _new_lines(self) -> list[bytes]:
        try:
            with self._path.open("rb") as file:
                status = os.fstat(file.fileno())  # of this file: another may have its name by now
                if status.st_ino != self._inode or status.st_size < self._offset:
                    self._inode, self._offset = status.st_ino, 0  # a resumed run drops what it will write again
                file.seek(self._offset)
                whole, newline, _ = file.read().rpartition(b"\n")
        except FileNotFoundError:
            return []
        self._offset += len(whole) + len(newline)
        return whole.splitlines()

    def _figure(self, line: bytes) -> tuple[int, float] | None:
        try:
            record: Any = json.loads(line)
        except ValueError:  # cut short by a kill, and written on to
            return None
        if not isinstance(record, dict) or self._name not in record or not isinstance(record.get("step"), int):
            return None
        value = record[self._name]
        return record["step"], float(value) if isinstance(value, (int, float)) else math.nan
