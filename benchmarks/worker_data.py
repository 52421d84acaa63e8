"""One measured preparation by tunelab or by `tokenizers` alone: `worker_data.py request.json result.json`.

`raw` and `encode` start from rendered text that lies ready; `prepare` starts from the file, by `prepare_data`.
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

CHUNK = 1024  # examples a call, as `tunelab.data.building` has it
Measure = Callable[[dict[str, Any], PreTrainedTokenizerBase], dict[str, Any]]


def read_texts(request: dict[str, Any]) -> list[tuple[str, str]]:
    """What a ChatML template writes before the answer, and the answer."""
    with Path(request["data"]).open(encoding="utf-8") as file:
        rows = [json.loads(line)["messages"] for line in file]
    opened = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
    return [(opened.format(user["content"]), answer["content"]) for user, answer in rows]


def measure_raw(request: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """`encode_batch`, all texts at once or in chunks, whichever is asked, and the ids as lists."""
    texts = [f"{prompt}{answer}<|im_end|>\n" for prompt, answer in read_texts(request)]
    backend, size = tokenizer.backend_tokenizer, request["chunk"] or len(texts)
    start, num_tokens = time.perf_counter(), 0
    for first in range(0, len(texts), size):
        ids = [each.ids for each in backend.encode_batch(texts[first : first + size], add_special_tokens=False)]
        num_tokens += sum(map(len, ids))
    return {"seconds": time.perf_counter() - start, "num_tokens": num_tokens}


def measure_encode(request: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Ids and masks from rendered text, proved in two ways, cut to length."""
    from tunelab.config import OverLength
    from tunelab.data.fitting import fit
    from tunelab.data.records import RenderedExample, Segment
    from tunelab.data.tokenizing import encode_stream

    rendered = [
        RenderedExample(
            (Segment(prompt, False), Segment(f"{answer}<|im_end|>", True), Segment("\n", False)),
            prompt,
            answer,
            f"rows.jsonl:{number}",
            (answer,),
            "<|im_end|>",
        )
        for number, (prompt, answer) in enumerate(read_texts(request), 1)
    ]
    start, num_tokens = time.perf_counter(), 0
    chunks = (rendered[first : first + CHUNK] for first in range(0, len(rendered), CHUNK))
    for chunk in encode_stream(chunks, tokenizer, False):
        for example in chunk:
            fitted = fit(example, request["max_length"], OverLength.truncate_prompt, None)
            num_tokens += sum(each.num_tokens for each in fitted.examples)
    return {"seconds": time.perf_counter() - start, "num_tokens": num_tokens}


def measure_prepare(request: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """From the file to arrays on disk; `cache` names the folder where prepared data lies or is put, if any."""
    from tunelab.config import DataConfig, QualityConfig
    from tunelab.data.preparing import prepare_data

    config = DataConfig(
        path=request["data"],
        validation_fraction=0.0,
        test_fraction=0.0,
        max_length=request["max_length"],
        quality=QualityConfig(enabled=request["quality"]),
        cache=request["cache"] is not None,
    )
    start = time.perf_counter()
    prepared = prepare_data(config, tokenizer, Path(request["cache"] or "unused"))
    seconds = time.perf_counter() - start
    train = prepared.report.splits["train"]
    return {"seconds": seconds, "num_tokens": train.num_tokens, "num_examples": len(prepared.train)}


MEASURES: dict[str, Measure] = {"raw": measure_raw, "encode": measure_encode, "prepare": measure_prepare}


def main() -> None:
    request_path, result_path = map(Path, sys.argv[1:])
    request = json.loads(request_path.read_text())
    tokenizer = AutoTokenizer.from_pretrained(request["tokenizer"])
    cpu = time.process_time()
    result = MEASURES[request["measure"]](request, tokenizer)
    result |= {
        "cpu_seconds": time.process_time() - cpu,
        "peak_memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "versions": {name: version(name) for name in request["packages"]},
    }
    result_path.write_text(json.dumps(result))


if __name__ == "__main__":
    main()
