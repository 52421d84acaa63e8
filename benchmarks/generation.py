"""Greedy completions of the `tickets` test prompts on the CPU: ours beside transformers' own `generate`.

    python benchmarks/generation.py                        # 300 prompts, three repetitions in turn; about 10 minutes
    python benchmarks/generation.py --adapter=<PEFT folder>    # of a tuned model, which ends its answers by itself
    python benchmarks/generation.py --quick                # 12 prompts, once: a smoke run; its figures mean nothing

transformers is measured one prompt at a time, and in padded batches of the prompts in the order of the file.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from environments import machine

from tunelab.config import DataConfig, ModelConfig
from tunelab.data.preparing import prepare_data
from tunelab.evaluation.decoding import Decoding
from tunelab.evaluation.generating import generate
from tunelab.model.adapter import load_adapter, ready_for_adapter
from tunelab.model.loading import load_base_model
from tunelab.model.tokenizer import end_token_ids, load_tokenizer

HERE = Path(__file__).resolve().parent
MAX_NEW_TOKENS = 96  # as conf/data/tickets.yaml
BATCH_TOKENS = 16384  # as evaluation.generation_batch_tokens
GOALS = {"one by one": 4.0, "batches": 1.5}
DIFFERENT = 0.01  # of the completions may be others: float32 rounds otherwise in batches of another shape
PACKAGES = ("torch", "transformers", "peft")

Prompts = Sequence[list[int]]
Tokens = list[list[int]]


def ours(model: torch.nn.Module, prompts: Prompts, ends: Sequence[int], pad: int) -> Tokens:
    return [done.token_ids for done in generate(model, prompts, Decoding(MAX_NEW_TOKENS, BATCH_TOKENS, ends, pad))]


def theirs(model: Any, prompts: Prompts, ends: Sequence[int], pad: int, rows: int) -> Tokens:
    """transformers' `generate` on `rows` prompts at a time, padded on the left, in the given order."""
    found: Tokens = []
    for start in range(0, len(prompts), rows):
        batch = prompts[start : start + rows]
        width = max(map(len, batch))
        ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in batch])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in batch])
        with torch.inference_mode():
            output = model.eval().generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=MAX_NEW_TOKENS,
                do_sample=False, eos_token_id=list(ends), pad_token_id=pad,
            )  # fmt: skip
        found += [_until_end(row, ends) for row in output[:, width:].tolist()]
    return found


def _until_end(tokens: list[int], ends: Sequence[int]) -> list[int]:
    return tokens[: next((place for place, token in enumerate(tokens) if token in ends), len(tokens))]


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    load = os.getloadavg()[0]
    model, prompts, ends, pad = prepare(arguments)
    show_head(arguments, prompts, load)
    variants: dict[str, Callable[[Prompts], Tokens]] = {
        "ours": partial(ours, model, ends=ends, pad=pad),
        "one by one": partial(theirs, model, ends=ends, pad=pad, rows=1),
        **{f"batches of {n}": partial(theirs, model, ends=ends, pad=pad, rows=n) for n in arguments.rows},
    }
    runs, completions = measure(variants, prompts, arguments.repeats)
    num_different = {
        name: sum(a != b for a, b in zip(completions["ours"], completions[name], strict=True)) for name in runs
    }
    report = {
        "command": " ".join(["python", *sys.argv]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine() | {"threads": arguments.threads, "load_before": load},
        "versions": {name: version(name) for name in PACKAGES},
        "quick": arguments.quick,
        "num_prompts": len(prompts),
        "num_prompt_tokens": sum(map(len, prompts)),
        "num_new_tokens": sum(map(len, completions["ours"])),
        "max_new_tokens": MAX_NEW_TOKENS,
        "variants": {name: {"runs": each, "num_different": num_different[name]} for name, each in runs.items()},
    }
    show_table(runs, num_different, len(prompts))
    path = Path(arguments.out)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(f"\nwritten to {path}")
    if max(num_different.values()) > DIFFERENT * len(prompts):
        sys.exit("the contestants did not write the same completions")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--prompts", type=int, default=300, help="first prompts of the test split")
    parser.add_argument("--rows", default="16,64", help="rows of transformers' batches; default %(default)s")
    parser.add_argument("--repeats", type=int, default=3, help="repetitions, the variants in turn")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default all cores")
    parser.add_argument("--adapter", help="a PEFT folder trained on the embedded base model")
    parser.add_argument("--out", default=str(HERE / "results" / "generation.json"), help="default %(default)s")
    parser.add_argument("--quick", action="store_true", help="smoke run: 12 prompts, once; not kept with the results")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.prompts, arguments.repeats, arguments.rows = 12, 1, "4"
        if arguments.out == parser.get_default("out"):
            arguments.out = str(HERE.parent / "outputs" / "benchmarks" / "generation" / "quick.json")
    arguments.rows = [int(rows) for rows in arguments.rows.split(",")]
    if min(arguments.prompts, arguments.repeats, *arguments.rows) < 1:
        parser.error("--prompts, --repeats and --rows: at least 1")
    return arguments


def prepare(arguments: argparse.Namespace) -> tuple[torch.nn.Module, Tokens, list[int], int]:
    """The model, the prompts, the end tokens and the pad token."""
    config = ModelConfig(path="embedded:tiny")
    tokenizer = load_tokenizer(config)
    paths = {f"{split}path": f"embedded:tickets/{name}.jsonl" for split, name in SPLITS.items()}
    data = prepare_data(DataConfig(**paths, format="messages", max_length=512), tokenizer)
    model: Any = ready_for_adapter(load_base_model(config, torch.device("cpu")))
    ends = end_token_ids(tokenizer, model.generation_config)
    if arguments.adapter:
        model = load_adapter(model, Path(arguments.adapter))
    prompts = [example.prompt_ids for example in data.test[: arguments.prompts]]
    return model, prompts, ends, int(tokenizer.pad_token_id)


SPLITS = {"": "train", "validation_": "validation", "test_": "test"}


def measure(
    variants: dict[str, Callable[[Prompts], Tokens]], prompts: Prompts, repeats: int
) -> tuple[dict[str, list[dict[str, float]]], dict[str, Tokens]]:
    """Seconds, and seconds of the processor, of each repetition; and what each variant wrote."""
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in variants}
    completions: dict[str, Tokens] = {}
    for write in variants.values():
        write(prompts[:2])  # the first call of anything is slow
    for repetition in range(repeats):
        for name, write in variants.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            completions[name] = write(prompts)
            seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
            runs[name].append({"seconds": seconds, "cpu_seconds": cpu_seconds})
            print(f"  {repetition + 1}/{repeats} {name:16} {seconds:8.1f} s", flush=True)
    return runs, completions


def show_head(arguments: argparse.Namespace, prompts: Prompts, load: float) -> None:
    print(f"{machine()['cpu']}, {arguments.threads} threads, load before {load:.2f}")
    if load > 0.5:
        print("  NOT A QUIET MACHINE: other processes compute; the figures are a trial only")
    print(f"{len(prompts)} prompts of {min(map(len, prompts))} to {max(map(len, prompts))} tokens")


def show_table(runs: dict[str, list[dict[str, float]]], num_different: dict[str, int], num_prompts: int) -> None:
    """Median seconds and their range, and how many times as fast ours is, by the clock and by the processor's time."""
    medians = {
        name: {key: statistics.median(run[key] for run in each) for key in each[0]} for name, each in runs.items()
    }
    print(f"\n{'variant':20} {'seconds':>24} {'ours is':>9} {'by CPU time':>12} {'goal':>6} {'other completions':>18}")
    for name, each in runs.items():
        seconds = [run["seconds"] for run in each]
        spread = f"{statistics.median(seconds):.1f} ({min(seconds):.1f}-{max(seconds):.1f})"
        faster, by_cpu = (medians[name][key] / medians["ours"][key] for key in ("seconds", "cpu_seconds"))
        goal = next((f"{goal}x" for start, goal in GOALS.items() if name.startswith(start)), "")
        others = f"{num_different[name]} of {num_prompts}"
        print(f"{name:20} {spread:>24} {faster:>8.2f}x {by_cpu:>11.2f}x {goal:>6} {others:>18}")


if __name__ == "__main__":
    main()
