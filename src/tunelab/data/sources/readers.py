"""Which reader reads which kind of file: decided by the ending of the file's name."""

from collections.abc import Callable, Iterator
from pathlib import PurePath

from tunelab.data.records import BadRow, Row
from tunelab.data.sources.delimited import read_csv, read_text, read_tsv
from tunelab.data.sources.json_records import read_json, read_jsonl
from tunelab.data.sources.streams import DataFile
from tunelab.data.sources.tables import read_arrow, read_parquet

Reader = Callable[[DataFile], Iterator[Row | BadRow]]

READERS: dict[str, Reader] = {
    "json": read_json,
    "jsonl": read_jsonl,
    "csv": read_csv,
    "tsv": read_tsv,
    "txt": read_text,
    "parquet": read_parquet,
    "arrow": read_arrow,
}
_OTHER_NAMES = {"ndjson": "jsonl", "feather": "arrow"}
_COMPRESSED = ("gz", "zst")
_COMPRESSIBLE = ("json", "jsonl", "csv", "tsv", "txt")
ENDINGS = ".json, .jsonl, .ndjson, .csv, .tsv, .txt (each also with .gz or .zst), .parquet, .arrow, .feather"


def kind_of(name: str) -> str | None:
    """The key of `READERS` for a file's name (`a.jsonl.gz` → "jsonl"); None for a name that no reader knows."""
    path = PurePath(name.lower())
    compressed = path.suffix[1:] in _COMPRESSED
    ending = PurePath(path.stem if compressed else path.name).suffix[1:]
    kind = _OTHER_NAMES.get(ending, ending)
    return kind if kind in READERS and (not compressed or kind in _COMPRESSIBLE) else None
