"""One measured run of TRL's SFTTrainer, by the Python of its own environment: `worker_trl.py request.json result.json`.

Ids, labels, order, weights, adapter, batch size, optimizer and rate are those of the other side; everything that
the variant's settings do not name stays as SFTConfig has it.
"""

import json
import resource
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, set_peft_model_state_dict
from peft.utils.save_and_load import load_peft_weights
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, TrainerCallback
from trl import SFTConfig, SFTTrainer
from workload import read_examples


class Stopwatch(TrainerCallback):
    """Notes the end of every step, and what the trainer logs."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.cpu_ends: list[float] = []
        self.logs: list[dict[str, float]] = []

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Read the clock."""
        del args, kwargs
        self.ends.append(time.perf_counter())
        self.cpu_ends.append(time.process_time())

    def on_log(self, *args: Any, logs: dict[str, float], **kwargs: Any) -> None:
        """Keep the figures."""
        del args, kwargs
        self.logs.append(logs)


def main() -> None:
    request_path, result_path = map(Path, sys.argv[1:])
    request = json.loads(request_path.read_text())
    torch.set_num_threads(request["threads"])
    examples = read_examples(Path(request["examples"]))
    ordered = [examples[index] for step in request["order"] for index in step]
    config = SFTConfig(
        output_dir=str(result_path.with_suffix("")),
        per_device_train_batch_size=request["batch_size"],
        max_steps=request["num_steps"],
        learning_rate=request["lr"],
        train_sampling_strategy="sequential",
        use_cpu=True,  # without it SFTConfig's own default, bf16=True, is refused on a machine without a GPU
        logging_first_step=True,
        save_strategy="no",
        disable_tqdm=True,
        seed=request["seed"],
        **request["settings"],
    )
    model = AutoModelForCausalLM.from_pretrained(request["model"], dtype=torch.float32)
    stopwatch = Stopwatch()
    trainer = SFTTrainer(
        model=model,
        args=config,
        train_dataset=Dataset.from_list([{"input_ids": e.ids, "labels": e.labels} for e in ordered]),
        processing_class=stand_in_tokenizer(model.config.vocab_size),
        peft_config=LoraConfig(task_type="CAUSAL_LM", **request["lora"]),
        callbacks=[stopwatch],
    )
    set_peft_model_state_dict(trainer.model, load_peft_weights(request["adapter"], device="cpu"))
    trainer.train()
    losses = [log for log in stopwatch.logs if "loss" in log]
    result = {
        "ends": stopwatch.ends,
        "cpu_ends": stopwatch.cpu_ends,
        "first_loss": losses[0]["loss"],
        "first_grad_norm": losses[0]["grad_norm"],
        "mean_loss": next(log["train_loss"] for log in stopwatch.logs if "train_loss" in log),
        "computed_per_real_token": computed_per_real_token([len(e.ids) for e in ordered], request["batch_size"]),
        "peak_memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "versions": {name: version(name) for name in request["packages"]},
    }
    result_path.write_text(json.dumps(result))


def stand_in_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """SFTTrainer asks for a tokenizer; the ids are drawn, so it has nothing to do."""
    ids = {"<pad>": 0, "<s>": 1, "</s>": 2, **{f"t{index}": index for index in range(3, vocabulary)}}
    tokenizer = Tokenizer(WordLevel(ids, unk_token="<pad>"))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>")


def computed_per_real_token(lengths: list[int], batch_size: int) -> float:
    """Positions computed over positions that hold a token: rows are padded to the longest of their batch."""
    batches = [lengths[i : i + batch_size] for i in range(0, len(lengths), batch_size)]
    return sum(len(batch) * max(batch) for batch in batches) / sum(lengths)


if __name__ == "__main__":
    main()
