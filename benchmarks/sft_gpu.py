"""LoRA and QLoRA of a random-weight Mistral-7B on one CUDA device: real tokens a second, against what it could do.

    PYTHONPATH=src python benchmarks/sft_gpu.py --out results.json
    python benchmarks/sft_gpu.py --shape tiny --device cpu        # does it work? no figures of interest

No network, no weights on disk, no Hydra: torch, transformers, peft and pytorch_lightning are enough (bitsandbytes for
QLoRA). See benchmarks/README.md.
"""

import argparse
import gc
import importlib.util
import json
import logging
import statistics
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from typing import Any

if importlib.util.find_spec("pytorch_lightning") is None:
    others = "only `lightning`" if importlib.util.find_spec("lightning") else "not even `lightning`"
    sys.exit(f"expected the package pytorch_lightning, found {others}; pip install pytorch-lightning")

import torch
from environments import machine
from transformers import AutoModelForCausalLM, MistralConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging
from tunelab_steps import StepTimes, time_steps, tokenized
from workload import ALPACA, DrawnExample, describe, draw_examples

from tunelab.config import ModelConfig, Precision, Quantization, TrainerConfig
from tunelab.data.datamodule import StepPlan
from tunelab.model import loading, quantizing
from tunelab.model.adapter import attach_adapter, build_peft_config, count_parameters, skip_input_casts
from tunelab.training.trainer import resolve_precision

PACKAGES = ("torch", "transformers", "peft", "pytorch-lightning", "bitsandbytes")
# The defaults of MistralConfig are those of Mistral-7B-v0.1.
SHAPES: dict[str, dict[str, int]] = {
    "mistral7b": {},
    "tiny": {
        "vocab_size": 512,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
}
LR = 2e-4
SEED = 0
NUM_PROFILED_STEPS = 2


@dataclass(frozen=True, slots=True)
class Floor:
    """Floating-point operations that LoRA cannot do without, in one step; derived in `floor_of`."""

    linear_parameters: int  # of the frozen linear layers, without the head
    head_parameters: int
    lora_parameters: int
    attention_per_squared_token: int

    def operations(self, examples: Sequence[DrawnExample]) -> float:
        """Of a step on `examples`."""
        tokens = sum(len(example.ids) for example in examples)
        supervised = sum(len(example.ids) - example.num_prompt_tokens for example in examples)
        squares = sum(len(example.ids) ** 2 for example in examples)
        per_token = 4 * self.linear_parameters + 6 * self.lora_parameters
        return per_token * tokens + 4 * self.head_parameters * supervised + self.attention_per_squared_token * squares


def main() -> None:
    arguments = parse_arguments()
    quiet_libraries()
    device = torch.device(arguments.device)
    config = MistralConfig(**SHAPES[arguments.shape])
    ceiling = matmul_ceiling(device, arguments.ceiling_size)
    num_steps = arguments.warmup + arguments.steps + (NUM_PROFILED_STEPS if arguments.profile else 0)
    examples = draw_examples(ALPACA, num_steps * arguments.batch_size, config.vocab_size, SEED)
    print(f"{device_name(device)}, matmul ceiling {ceiling / 1e12:.3g} TFLOP/s")
    print(", ".join(f"{key} {value:.4g}" for key, value in describe(examples).items()), flush=True)
    rows: dict[str, dict[str, Any]] = {}
    for method in arguments.methods:
        rows[method] = measure(method, config, examples, num_steps, ceiling, arguments)
        show(method, rows[method])
    report = {
        "command": " ".join(["python", *sys.argv]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine() | {"device": device_name(device)},
        "versions": {name: package_version(name) for name in PACKAGES},
        "shape": arguments.shape,
        "data": describe(examples),
        "settings": vars(arguments),
        "matmul_ceiling_tflops": ceiling / 1e12,
        "methods": rows,
    }
    if arguments.out:
        Path(arguments.out).parent.mkdir(parents=True, exist_ok=True)
        Path(arguments.out).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        print(f"written to {arguments.out}")


def quiet_libraries() -> None:
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    transformers_logging.disable_progress_bar()


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--shape", choices=SHAPES, default="mistral7b")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--methods", default="lora,qlora", help="comma-separated; default %(default)s")
    parser.add_argument("--steps", type=int, default=20, help="timed optimizer steps")
    parser.add_argument("--warmup", type=int, default=3, help="steps before them")
    parser.add_argument("--batch-size", type=int, default=64, help="examples of one optimizer step")
    parser.add_argument("--micro-batch-tokens", type=int, default=16384)
    parser.add_argument("--rank", type=int, default=16, help="of the adapter, on all linear layers")
    parser.add_argument("--checkpointing", action="store_true", help="recompute activations")
    parser.add_argument("--profile", action="store_true", help="print where two further steps spend their time")
    parser.add_argument("--ceiling-size", type=int, help="matmul of the ceiling; default 8192, on a CPU 1024")
    parser.add_argument("--out", help="JSON file for the figures")
    arguments = parser.parse_args()
    arguments.methods = arguments.methods.split(",")
    if set(arguments.methods) - {"lora", "qlora"}:
        parser.error(f"--methods: expected lora and qlora, found {','.join(arguments.methods)}")
    if arguments.ceiling_size is None:
        arguments.ceiling_size = 1024 if arguments.device == "cpu" else 8192
    return arguments


def measure(
    method: str,
    config: MistralConfig,
    examples: Sequence[DrawnExample],
    num_steps: int,
    ceiling: float,
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    """Train `num_steps` steps by one method; return its row, or why there is none."""
    device = torch.device(arguments.device)
    if method == "qlora" and importlib.util.find_spec("bitsandbytes") is None:
        return {"error": "not measured: bitsandbytes is not installed"}
    trainer = TrainerConfig(max_steps=num_steps, micro_batch_tokens=arguments.micro_batch_tokens)
    plan = StepPlan.create(len(examples), arguments.batch_size, SEED, 0, num_steps)
    start = time.perf_counter()
    model = make_model(method, config, trainer, arguments)
    floor = floor_of(config, count_parameters(model).trainable)
    free_memory(device)
    load_seconds, loaded_bytes = time.perf_counter() - start, allocated(device)
    with Profile(arguments.profile, num_steps - NUM_PROFILED_STEPS) as profile:
        folder = Path(arguments.out or "outputs/benchmarks/sft_gpu/run").with_suffix("") / method
        times = time_steps(model, tokenized(examples), plan, trainer, lr=LR, folder=folder, on_end=profile.on_step_end)
    steps = [[examples[index] for index in plan.indices(step)] for step in range(num_steps)]
    row = {"load_seconds": load_seconds, "loaded_gib": loaded_bytes / 2**30, **peak_memory(device)}
    del model
    free_memory(device)
    return row | figures(times, steps, floor, ceiling, arguments)


def figures(
    times: StepTimes,
    steps: Sequence[Sequence[DrawnExample]],
    floor: Floor,
    ceiling: float,
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    """Medians over the timed steps, each of which has its own tokens and its own floor."""
    timed = slice(arguments.warmup, arguments.warmup + arguments.steps)
    seconds = [after - before for before, after in pairwise(times.ends)]  # of steps 1, 2, …
    tokens = [sum(len(example.ids) for example in step) for step in steps][timed]
    operations = [floor.operations(step) for step in steps][timed]
    taken = seconds[timed.start - 1 : timed.stop - 1]
    rates = [count / second for count, second in zip(tokens, taken, strict=True)]
    return {
        "tokens_per_second": statistics.median(rates),
        "tokens_per_second_min": min(rates),
        "tokens_per_second_max": max(rates),
        "tokens_per_step": statistics.mean(tokens),
        "step_seconds": statistics.median(taken),
        "floor_gflop_per_token": sum(operations) / sum(tokens) / 1e9,
        "floor_tokens_per_second": ceiling * sum(tokens) / sum(operations),
        "share_of_ceiling": statistics.median(o / s / ceiling for o, s in zip(operations, taken, strict=True)),
        "padding_fraction": times.padding_fraction,
        "micro_batch_tokens": times.micro_batch_tokens,
        "first_loss": times.losses[0],
        "last_loss": times.losses[-1],
        "all_step_seconds": seconds,
    }


def make_model(method: str, config: MistralConfig, trainer: TrainerConfig, arguments: argparse.Namespace) -> Any:
    """Random weights made on the device in bfloat16 (float32 on a CPU), quantised by the usual loader, adapted."""
    device = torch.device(arguments.device)
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    torch.manual_seed(SEED)
    with torch.device(device):
        base = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    if method == "qlora":
        base = quantised(base, device, dtype)
    base.config.use_cache = False
    base.train()
    if arguments.checkpointing:
        loading.enable_checkpointing(base)
    lora = {"r": arguments.rank, "lora_alpha": 2 * arguments.rank, "lora_dropout": 0.0, "target_modules": "all-linear"}
    model = attach_adapter(base, build_peft_config({"_target_": "peft.LoraConfig", **lora}), SEED)
    if resolve_precision(trainer.precision, device) is not Precision.fp32:
        skip_input_casts(model)
    return model


def quantised(model: PreTrainedModel, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    """The same weights as transformers loads them for `peft=qlora`."""
    options = quantizing.quantization_config(ModelConfig(path="", quantization=Quantization.nf4), device)
    result = type(model).from_pretrained(
        None,
        config=model.config,
        state_dict=model.state_dict(),
        quantization_config=options,
        dtype=dtype,
        device_map={"": device},
        attn_implementation="sdpa",
    )
    # Else, on a CPU, no gradient would pass them after an evaluation.
    quantizing.compute_with_stored_weights(result, device)
    return result


def floor_of(config: MistralConfig, lora_parameters: int) -> Floor:
    """Count what a step of LoRA must compute at least (shared/research/performance.md, section 3).

    A frozen weight takes part in the forward pass and in the gradient of its input: 4 operations a token; a trained
    one in its own gradient too: 6. The head is needed at supervised positions only. Causal attention computes half of
    two length x length products forward, and 2.5 times that backward, where the scores are computed again: 7 times
    length squared times the width of all heads, a layer.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    linear = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear))
    head = model.get_output_embeddings().weight.numel()
    width = config.num_attention_heads * (config.head_dim or config.hidden_size // config.num_attention_heads)
    return Floor(linear - head, head, lora_parameters, 7 * width * config.num_hidden_layers)


def matmul_ceiling(device: torch.device, size: int, seconds: float = 2.0) -> float:
    """Operations a second of a size x size x size product in bfloat16 (float32 on a CPU), after as long a warm-up."""
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(left)
    rate = 0.0
    for _ in range(2):
        count, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            for _ in range(10):
                torch.mm(left, right, out=out)
            synchronise(device)
            count += 10
        rate = 2 * size**3 * count / (time.perf_counter() - start)
    return rate


class Profile(ExitStack):
    """Profiles the steps after `last_timed`, and prints the operations that took longest."""

    def __init__(self, wanted: bool, num_steps_before: int) -> None:
        super().__init__()
        self._starts_after = num_steps_before - 1 if wanted else None

    def on_step_end(self, step: int) -> None:
        """Begin when the last timed step has ended."""
        if step == self._starts_after:
            self.enter_context(printed_profile())


@contextmanager
def printed_profile() -> Iterator[None]:
    activities = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profile:
        yield
    order = "self_device_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
    print(profile.key_averages().table(sort_by=order, row_limit=30, max_name_column_width=60))


def show(method: str, row: dict[str, Any]) -> None:
    """Print one row."""
    if "error" in row:
        print(f"{method:6} {row['error']}", flush=True)
        return
    print(
        f"{method:6} {row['tokens_per_second']:8.0f} real tokens/s "
        f"({row['tokens_per_second_min']:.0f}-{row['tokens_per_second_max']:.0f}), "
        f"{row['share_of_ceiling']:.1%} of the ceiling (floor {row['floor_gflop_per_token']:.3g} GFLOP/token, at best "
        f"{row['floor_tokens_per_second']:.0f} tokens/s), padding {row['padding_fraction']:.1%}, "
        f"peak {row['peak_allocated_gib']:.2f} GiB allocated, {row['peak_reserved_gib']:.2f} reserved "
        f"({row['loaded_gib']:.2f} loaded in {row['load_seconds']:.0f} s), loss {row['first_loss']:.3f}",
        flush=True,
    )


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def free_memory(device: torch.device) -> None:
    """Give memory back and begin a new peak."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def allocated(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def peak_memory(device: torch.device) -> dict[str, float]:
    """Peaks since `free_memory`, in GiB; 0 on a CPU."""
    cuda = device.type == "cuda"
    return {
        "peak_allocated_gib": torch.cuda.max_memory_allocated(device) / 2**30 if cuda else 0.0,
        "peak_reserved_gib": torch.cuda.max_memory_reserved(device) / 2**30 if cuda else 0.0,
    }


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(machine()["cpu"])


def package_version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
