"""The general set of `tiny`: determinism, and no document of the corpus."""

import json
from itertools import islice
from pathlib import Path

from tunelab.assets import general
from tunelab.assets.corpus import documents

FILE = Path(general.__file__).parent / "general" / "text.jsonl"


def test_the_committed_file_is_what_the_generator_writes(tmp_path: Path):
    general.write(tmp_path)
    assert (tmp_path / "text.jsonl").read_bytes() == FILE.read_bytes()


def test_no_document_is_one_of_the_corpus():
    texts = [json.loads(line)["text"] for line in FILE.read_text(encoding="utf-8").splitlines()]
    assert len(set(texts)) > 0.98 * len(texts)
    long = {text for text in texts if len(text.split()) > 12}
    assert len(long) > 100
    assert not long & set(islice(documents(0), 3000))
