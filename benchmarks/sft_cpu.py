"""Real tokens a second of tunelab and of TRL's SFTTrainer on the CPU: same weights, same adapter, same batches.

    python benchmarks/sft_cpu.py            # all variants, 3 repetitions in turn; about 15 minutes on 2 cores
    python benchmarks/sft_cpu.py --quick    # a smoke run of a minute or two; its figures mean nothing

TRL gets an environment of its own under outputs/benchmarks/. See benchmarks/README.md.
"""

import argparse
import json
import os
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from environments import TrlEnvironment, machine, run_worker
from workload import GSM8K, DrawnExample, describe, draw_examples, write_examples

HERE = Path(__file__).resolve().parent
WORK = HERE.parent / "outputs" / "benchmarks"
PACKAGES = ("torch", "transformers", "peft", "accelerate")

# 25.0 million parameters: embedding and head of 6.3 million each, seven layers of 1.77 million.
SHAPE = {
    "vocab_size": 16384,
    "hidden_size": 384,
    "intermediate_size": 1024,
    "num_hidden_layers": 7,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
    "max_position_embeddings": 2048,
}
LORA = {"r": 8, "lora_alpha": 16, "lora_dropout": 0.0, "target_modules": "all-linear", "bias": "none"}
BATCH_SIZE = 8
LR = 2e-4
SEED = 0
LOSS_TOLERANCE = {"fp32": 1e-3, "bf16": 1e-2}  # relative, of the first step's loss
GRAD_NORM_TOLERANCE = {"fp32": 1e-3, "bf16": 5e-2}


@dataclass(frozen=True, slots=True)
class Variant:
    """One contestant: whose trainer, what it is told beyond the common workload, and its arithmetic."""

    trainer: str
    settings: dict[str, Any]
    precision: str
    meaning: str
    goal: float | None = None  # how many times its speed `ours` is to reach


VARIANTS = {
    "ours": Variant("tunelab", {}, "fp32", "tunelab, defaults"),
    "trl-default": Variant("trl", {}, "bf16", "TRL, defaults (bf16, checkpointing)", goal=4.0),
    "trl-chunked": Variant("trl", {"loss_type": "chunked_nll"}, "bf16", "TRL, loss_type=chunked_nll", goal=2.5),
    "trl-fp32": Variant("trl", {"bf16": False}, "fp32", "TRL, bf16=False"),
    "trl-tuned": Variant(
        "trl", {"bf16": False, "gradient_checkpointing": False}, "fp32", "TRL, bf16=False, no checkpointing"
    ),
    "trl-tuned-bf16": Variant("trl", {"gradient_checkpointing": False}, "bf16", "TRL, bf16, no checkpointing"),
    "ours-bf16": Variant("tunelab", {"precision": "bf16"}, "bf16", "tunelab, trainer.precision=bf16"),
}


@dataclass(slots=True)
class Measured:
    """The repetitions of one variant."""

    variant: Variant
    runs: list[dict[str, Any]] = field(default_factory=list)

    def median(self, key: str) -> float:
        """Median over the repetitions of one figure."""
        return statistics.median(run[key] for run in self.runs)


def main() -> None:
    arguments = parse_arguments()
    folder = WORK / "sft_cpu"
    folder.mkdir(parents=True, exist_ok=True)
    environment = TrlEnvironment.prepare(WORK, arguments.trl_version, PACKAGES)
    before = os.getloadavg()[0]
    request, examples = prepare_workload(folder, arguments)
    show_head(arguments, describe(examples), before)
    measured = measure(arguments, request, examples, environment, folder)
    failures = disagreements(measured)
    report = {
        "command": " ".join(["python", *sys.argv]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine() | {"threads": arguments.threads, "load_before": before},
        "workload": {"shape": SHAPE, "lora": LORA, "batch_size": BATCH_SIZE, "data": describe(examples)},
        "steps": {"warm_up": arguments.warmup, "timed": arguments.steps},
        "quick": arguments.quick,
        "variants": {name: summary(one) for name, one in measured.items()},
        "disagreements": failures,
    }
    show_table(measured)
    path = Path(arguments.out) if arguments.out else HERE / "results" / "sft_cpu.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(f"\nwritten to {path}")
    if failures:
        sys.exit("the contestants did not compute the same thing: " + "; ".join(failures))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--steps", type=int, default=20, help="timed optimizer steps of a repetition")
    parser.add_argument("--warmup", type=int, default=3, help="steps before them")
    parser.add_argument("--repeats", type=int, default=3, help="repetitions, the variants in turn")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of either side; default all cores")
    parser.add_argument("--variants", default=",".join(VARIANTS), help="comma-separated; default %(default)s")
    parser.add_argument("--trl-version", default="1.16", help="major.minor; default %(default)s")
    parser.add_argument("--out", help="where the figures go; default benchmarks/results/sft_cpu.json")
    parser.add_argument("--quick", action="store_true", help="smoke run: 2 steps, once, results not kept")
    arguments = parser.parse_args()
    arguments.variants = arguments.variants.split(",")
    unknown = set(arguments.variants) - VARIANTS.keys()
    if unknown or arguments.steps < 1 or arguments.warmup < 1:
        parser.error(f"unknown variants {sorted(unknown)}" if unknown else "--steps and --warmup: at least 1")
    if arguments.quick:
        arguments.steps, arguments.warmup, arguments.repeats = 2, 1, 1
        arguments.out = arguments.out or str(WORK / "sft_cpu" / "quick.json")
    return arguments


def prepare_workload(folder: Path, arguments: argparse.Namespace) -> tuple[dict[str, Any], list[DrawnExample]]:
    """Write weights, adapter, ids and the order of examples; return the request that every worker gets."""
    from tunelab.data.datamodule import StepPlan

    num_steps = arguments.warmup + arguments.steps
    examples = draw_examples(GSM8K, num_steps * BATCH_SIZE, SHAPE["vocab_size"], SEED)
    plan = StepPlan.create(len(examples), BATCH_SIZE, SEED, 0, num_steps)
    write_examples(examples, folder / "examples.jsonl")
    make_model(folder)
    request = {
        "model": str(folder / "model"),
        "adapter": str(folder / "adapter"),
        "examples": str(folder / "examples.jsonl"),
        "order": [plan.indices(step) for step in range(num_steps)],
        "num_steps": num_steps,
        "batch_size": BATCH_SIZE,
        "lora": LORA,
        "lr": LR,
        "seed": SEED,
        "threads": arguments.threads,
    }
    return request, examples


def make_model(folder: Path) -> None:
    """Save random weights, and an adapter whose B is not zero: what it adds shows in the first loss."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(SEED)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE, pad_token_id=0, bos_token_id=1, eos_token_id=2))
    model.save_pretrained(folder / "model")
    config = LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False, **LORA)
    get_peft_model(model, config).save_pretrained(folder / "adapter", save_embedding_layers=False)


def measure(
    arguments: argparse.Namespace,
    request: dict[str, Any],
    examples: Sequence[DrawnExample],
    environment: TrlEnvironment,
    folder: Path,
) -> dict[str, Measured]:
    """Run the variants in turn, `repeats` times, each run in its own process."""
    measured = {name: Measured(VARIANTS[name]) for name in arguments.variants}
    tokens = [sum(len(examples[index].ids) for index in step) for step in request["order"]]
    pythons = {"tunelab": Path(sys.executable), "trl": environment.python}
    for repetition in range(arguments.repeats):
        for name, one in measured.items():
            packages = [*PACKAGES, *(["trl"] if one.variant.trainer == "trl" else ["pytorch-lightning"])]
            result = run_worker(
                pythons[one.variant.trainer],
                HERE / f"worker_{one.variant.trainer}.py",
                request | {"settings": one.variant.settings, "packages": packages},
                folder / f"{name}.{repetition}",
            )
            one.runs.append(rates(result, tokens, arguments.warmup))
            speed = one.runs[-1]["tokens_per_second"]
            print(f"  {repetition + 1}/{arguments.repeats} {name:16} {speed:8.0f} tokens/s", flush=True)
    return measured


def rates(result: dict[str, Any], tokens: Sequence[int], warmup: int) -> dict[str, Any]:
    """Real tokens of the timed steps over the time from the end of the warm-up to the end of the last step."""
    num_tokens = sum(tokens[warmup:])
    ends, cpu_ends = result.pop("ends"), result.pop("cpu_ends")
    return result | {
        "tokens_per_second": num_tokens / (ends[-1] - ends[warmup - 1]),
        "tokens_per_cpu_second": num_tokens / (cpu_ends[-1] - cpu_ends[warmup - 1]),
        "step_seconds": [after - before for before, after in pairwise(ends)],
    }


def disagreements(measured: dict[str, Measured]) -> list[str]:
    """Say where a variant's first loss or gradient norm is not that of the first variant; print all of them."""
    reference = next(iter(measured.values())).runs[0]
    failures: list[str] = []
    print("\nthe same computation? first step, relative to the first row")
    for name, one in measured.items():
        precision = one.variant.precision
        limits = {"first_loss": LOSS_TOLERANCE[precision], "first_grad_norm": GRAD_NORM_TOLERANCE[precision]}
        shown: list[str] = []
        for key, limit in limits.items():
            found, expected = one.median(key), reference[key]
            deviation = abs(found - expected) / abs(expected)
            shown.append(f"{key[6:]} {found:.6f} ({deviation:.1e})")
            if not deviation <= limit:
                failures.append(f"{name}: {key} is {found:.6f}, expected {expected:.6f} within {limit:g}")
        print(f"  {name:16} {precision}  {'  '.join(shown)}  mean loss {one.median('mean_loss'):.6f}")
    return failures


def summary(one: Measured) -> dict[str, Any]:
    """What the JSON file keeps of a variant."""
    return asdict(one.variant) | {"median_tokens_per_second": one.median("tokens_per_second"), "runs": one.runs}


def show_head(arguments: argparse.Namespace, data: dict[str, float], load: float) -> None:
    print(f"{machine()['cpu']}, {arguments.threads} threads, load before {load:.2f}")
    if load > 0.5:
        print("  NOT A QUIET MACHINE: other processes compute; the figures are a trial only")
    print(", ".join(f"{key} {value:.4g}" for key, value in data.items()))


def show_table(measured: dict[str, Measured]) -> None:
    """Speed, spread, what we are ahead by, positions computed for one real token, memory."""
    heads = f"{'real tokens/s':>20} {'ours is':>8} {'goal':>5} {'same precision':>15} {'computed':>9}"
    heads += f" {'tok/CPU-s':>10} {'GiB':>5}"
    print(f"\n{'variant':36} {heads}")
    for one in measured.values():
        speeds = [run["tokens_per_second"] for run in one.runs]
        spread = f"{statistics.median(speeds):.0f} ({min(speeds):.0f}-{max(speeds):.0f})"
        goal = f"{one.variant.goal:.1f}x" if one.variant.goal else ""
        alike = "ours" if one.variant.precision == "fp32" else "ours-bf16"
        print(
            f"{one.variant.meaning:36} {spread:>20} {ahead(measured, 'ours', one):>8} {goal:>5} "
            f"{ahead(measured, alike, one):>15} {one.median('computed_per_real_token'):9.2f} "
            f"{one.median('tokens_per_cpu_second'):10.0f} {one.median('peak_memory_gib'):5.1f}"
        )
    versions = {name: one.runs[0]["versions"] for name, one in measured.items()}
    for text in {json.dumps(found, sort_keys=True) for found in versions.values()}:
        print("versions: " + ", ".join(f"{package} {found}" for package, found in json.loads(text).items()))


def ahead(measured: dict[str, Measured], name: str, one: Measured) -> str:
    """How many times as fast as `one` the variant `name` is, as text; empty where it was not measured."""
    if name not in measured:
        return ""
    return f"{measured[name].median('tokens_per_second') / one.median('tokens_per_second'):.2f}x"


if __name__ == "__main__":
    main()
