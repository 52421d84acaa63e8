"""The cleaned and split examples as ordinary files for any other tool: JSONL, Arrow, and a card about them."""

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tunelab.data.building import SPLITS, KeptExamples, Stage, survey_examples
from tunelab.data.records import IGNORE_INDEX, Conversation, Example, Message, Passage, Role
from tunelab.errors import DataError


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written: rows by split, how many the checks left out and why, and what was found in them."""

    num_rows: dict[str, int]
    num_dropped: dict[str, int]  # by split and reason, as "train: exact_duplicate"
    num_bad: int
    sources: list[dict[str, Any]]
    quality: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def export_rows(stage: Stage, folder: Path) -> Exported:
    """Write `<split>.jsonl` and the folder `arrow` (a `datasets` DatasetDict) into `folder`.

    Written are the examples that every check left in, augmented and repeated as configured, before any template. Raises
    DataError for data that cannot be used.
    """
    verdict = survey_examples(stage)
    counts = Counter[str](dict.fromkeys(SPLITS, 0))
    kept = KeptExamples(stage, verdict)
    with ExitStack() as stack:
        files = {
            split: stack.enter_context((folder / f"{split}.jsonl").open("w", encoding="utf-8")) for split in SPLITS
        }
        for item in kept:
            for example in item.examples:
                files[item.split].write(json.dumps(to_row(example), ensure_ascii=False) + "\n")
                counts[item.split] += 1
    if not counts["train"]:
        raise DataError("data.path: expected training examples, found none after the checks; see data.quality.")
    _write_arrow(folder, [split for split in SPLITS if counts[split]])
    return Exported(
        num_rows=dict(counts),
        num_dropped={f"{split}: {reason}": count for (split, reason), count in sorted(kept.num_dropped.items())},
        num_bad=kept.tally.num_bad.total(),
        sources=[
            {"name": feed.source.name, "format": feed.layout.format, "sha256": feed.source.fingerprints()}
            for feed in stage.feeds
        ],
        quality=asdict(verdict.report()),
    )


def to_row(example: Example) -> dict[str, Any]:
    """Return the example as a row that `format: auto` reads back to the same example (with `train_on: responses`).

    But for one thing: the input of an alpaca row is joined to its instruction, as a chat template shows them.
    """
    if isinstance(example, Conversation):
        return _conversation(example)
    if isinstance(example, Passage):
        if example.windowed:
            return {"text": "".join(segment.text for segment in example.segments)}
        return {"segments": [{"label": segment.supervised, "text": segment.text} for segment in example.segments]}
    labels = [i if kept else IGNORE_INDEX for i, kept in zip(example.input_ids, example.loss_mask, strict=True)]
    return {"input_ids": list(example.input_ids), "labels": labels}


def _conversation(example: Conversation) -> dict[str, Any]:
    tools = {"tools": [dict(tool) for tool in example.tools]} if example.tools else {}
    if example.choices:
        *before, question, answer = (message.content for message in example.messages)
        system = {"system": before[0]} if before else {}
        return {"question": question, "choices": list(example.choices), "answer": answer, **system}
    if not example.rejected and example.desirable is None:
        return {"messages": [_turn(message) | _flag(message) for message in example.messages], **tools}
    turns = [_turn(message) for message in example.messages]
    answer = next((i for i, message in enumerate(example.messages) if message.trained), len(turns) - 1)
    prompt, chosen = turns[:answer], turns[answer:]  # of these formats the answer alone is trained, all of it
    if example.rejected:
        return {"prompt": prompt, "chosen": chosen, "rejected": [_turn(m) for m in example.rejected], **tools}
    return {"prompt": prompt, "completion": chosen, "label": example.desirable, **tools}


def _turn(message: Message) -> dict[str, Any]:
    return {"role": message.role.value, "content": message.content, **message.extra}


def _flag(message: Message) -> dict[str, Any]:
    """`train` where it is not what `train_on: responses` would say."""
    return {} if message.trained == (message.role is Role.ASSISTANT) else {"train": message.trained}


def _write_arrow(folder: Path, splits: Sequence[str]) -> None:
    from datasets import DatasetDict, disable_progress_bars, load_dataset  # slow to import

    disable_progress_bars()
    files = {split: str(folder / f"{split}.jsonl") for split in splits}
    cache = folder / ".arrow-cache"
    loaded = load_dataset("json", data_files=files, cache_dir=str(cache))
    assert isinstance(loaded, DatasetDict)
    loaded.save_to_disk(str(folder / "arrow"))
    shutil.rmtree(cache, ignore_errors=True)


def data_card(title: str, exported: Exported, command: str) -> str:
    """Return the README.md of an exported data set, with the front matter that the Hugging Face hub reads."""
    counts = exported.num_rows
    table = "\n".join(f"| {split} | {count:,} | `{split}.jsonl` |" for split, count in counts.items())
    configs = "\n".join(f"      - split: {split}\n        path: {split}.jsonl" for split, n in counts.items() if n)
    facts = [
        *(f"source `{source['name']}` (format {source['format']}): {_hashes(source)}" for source in exported.sources),
        *(f"left out, {reason}: {count:,}" for reason, count in exported.num_dropped.items()),
        f"rows that could not be read: {exported.num_bad:,}",
        *(f"{found['check']} in {found['split']}: {found['detail']}" for found in exported.quality["findings"]),
    ]
    return (
        f"---\nconfigs:\n  - config_name: default\n    data_files:\n{configs}\n---\n\n# {title}\n\n"
        f"| split | rows | file |\n|---|---|---|\n{table}\n\n"
        '`arrow/` holds the same as a `datasets` DatasetDict: `datasets.load_from_disk("arrow")`.\n\n'
        f"## How it was made\n\n    {command}\n\n" + "\n".join(f"- {fact}" for fact in facts) + "\n\n"
        "`data_report.json` holds every figure. The licence is that of the sources; the tool does not know it.\n"
    )


def _hashes(source: dict[str, Any]) -> str:
    return ", ".join(f"`{name}` SHA-256 `{digest}`" for name, digest in source["sha256"].items())
