"""Writes the small files that the tests of readers and sources read."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq


def write(folder, name, content):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(compressed(name, content if isinstance(content, bytes) else content.encode()))
    return path


def compressed(name, content):
    if name.endswith(".gz"):
        return gzip.compress(content)
    if name.endswith(".zst"):
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, "zstd") as stream:
            stream.write(content)
        return sink.getvalue().to_pybytes()
    return content


def lines(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write_parquet(path, columns, **options):
    pq.write_table(pa.table(columns), path, **options)
    return path


def write_arrow(path, table, new, chunk):
    with pa.OSFile(str(path), "wb") as sink, new(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=chunk)
    return path
