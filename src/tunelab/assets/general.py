"""The general set of the embedded base model: documents of its own language that no training has seen.

    python -m tunelab.assets.general [--out FOLDER]

Measured before and after fine-tuning it tells what was forgotten.
"""

import argparse
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from tunelab.assets.corpus import documents

SEED = "general"  # the corpus is of another
NUM_DOCUMENTS = 300


def rows() -> Iterator[str]:
    """Yield the JSON lines: documents without marks of the chat layout, which in plain text are no tokens."""
    plain = (text for text in documents(SEED) if "<|" not in text)
    for text in islice(plain, NUM_DOCUMENTS):
        yield json.dumps({"text": text}, ensure_ascii=False)


def write(folder: Path) -> None:
    """Write text.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "text.jsonl").write_text("".join(f"{row}\n" for row in rows()), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "general")
    write(parser.parse_args().out)
