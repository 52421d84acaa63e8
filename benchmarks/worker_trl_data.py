"""TRL's dataset preparation, by the Python of its own environment: `worker_trl_data.py request.json result.json`.

A conversational prompt and completion a row, so that SFTTrainer's default is to train on the completion alone.
"""

import json
import resource
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from datasets import load_dataset
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from trl import SFTConfig, SFTTrainer

seconds: list[float] = []


class TimedTrainer(SFTTrainer):
    """Reads the clock around the preparation of the data set, and changes nothing."""

    def _prepare_dataset(self, *args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        prepared = super()._prepare_dataset(*args, **kwargs)
        seconds.append(time.perf_counter() - start)
        return prepared


def main() -> None:
    request_path, result_path = map(Path, sys.argv[1:])
    request = json.loads(request_path.read_text())
    tokenizer = AutoTokenizer.from_pretrained(request["tokenizer"])
    with tempfile.TemporaryDirectory(dir=result_path.parent) as folder:
        start = time.perf_counter()
        dataset = load_dataset("json", data_files=request["data"], split="train", cache_dir=folder)
        read_seconds = time.perf_counter() - start
        config = SFTConfig(output_dir=folder, use_cpu=True, report_to="none", **request["settings"])
        trainer = TimedTrainer(
            model=tiny_model(len(tokenizer)), args=config, train_dataset=dataset, processing_class=tokenizer
        )
        columns = trainer.train_dataset.column_names
        num_tokens = sum(map(len, trainer.train_dataset["input_ids"]))
    result = {
        "seconds": seconds[0],
        "read_seconds": read_seconds,
        "num_tokens": num_tokens,
        "columns": columns,
        "peak_memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "versions": {name: version(name) for name in (*request["packages"], "trl")},
    }
    result_path.write_text(json.dumps(result))


def tiny_model(vocabulary: int) -> LlamaForCausalLM:
    """SFTTrainer asks for a model; it has nothing to do."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
        )
    )


if __name__ == "__main__":
    main()
