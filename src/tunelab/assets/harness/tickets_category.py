"""The rows of `tickets` as documents of a task of lm-evaluation-harness, which loads this file by its path."""

import json
from pathlib import Path
from typing import Any

from datasets import Dataset

TICKETS = Path(__file__).parents[1] / "tickets"


def load(**_: Any) -> dict[str, Dataset]:
    """Split → documents of a `message` and its `category`; lm-eval passes the task's metadata, which is not needed."""
    return {split: Dataset.from_list(_documents(split)) for split in ("train", "test")}


def _documents(split: str) -> list[dict[str, str]]:
    lines = (TICKETS / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [[message["content"] for message in json.loads(line)["messages"]] for line in lines]
    return [{"message": message, "category": json.loads(record)["category"]} for message, record in rows]
