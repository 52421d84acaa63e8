"""Seconds to prepare chat examples: tunelab's, TRL's SFTTrainer's, and `tokenizers` alone, on the same rows.

    python benchmarks/data_preparation.py                 # 100,000 rows, 3 repetitions in turn
    python benchmarks/data_preparation.py --quick         # a smoke run; its figures mean nothing
    python benchmarks/data_preparation.py --memory-gib 2  # peak memory for a file of 2 GiB

TRL gets an environment of its own under outputs/benchmarks/. See benchmarks/README.md.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from chat_rows import train_tokenizer, write_rows
from environments import TrlEnvironment, machine, run_worker

HERE = Path(__file__).resolve().parent
WORK = HERE.parent / "outputs" / "benchmarks"
PACKAGES = ("torch", "transformers", "peft", "accelerate")  # as in sft_cpu.py: the environment is the same
REPORTED = (*PACKAGES, "tokenizers", "datasets")
VOCABULARY = 32_768
TOKENIZER_ROWS = 20_000  # rows that the tokenizer is trained on
SEED = 0
MAX_LENGTH = 1024  # the default of both


@dataclass(frozen=True, slots=True)
class Variant:
    """One contestant: its worker, what it is told, and the goal, in the speed of another variant."""

    meaning: str
    request: dict[str, Any]
    worker: str = "worker_data.py"
    goal: tuple[float, str] | None = None


VARIANTS = {
    "raw": Variant("tokenizers, encode_batch, rendered text at once", {"measure": "raw", "chunk": None}),
    "raw-chunks": Variant("tokenizers, encode_batch, 1,024 texts a call", {"measure": "raw", "chunk": 1024}),
    "encode": Variant("tunelab, rendered text to ids and masks", {"measure": "encode"}, goal=(0.8, "raw")),
    "ours": Variant(
        "tunelab, file to ids and masks",
        {"measure": "prepare", "quality": False, "cache": None},
        goal=(5.0, "trl"),
    ),
    "ours-quality": Variant(
        "tunelab, file to ids and masks, quality checks", {"measure": "prepare", "quality": True, "cache": None}
    ),
    "ours-warm": Variant("tunelab, again from its cache", {"measure": "prepare", "quality": True, "cache": "cache"}),
    "trl": Variant("TRL, SFTTrainer's preparation", {"settings": {}}, "worker_trl_data.py"),
}


@dataclass(slots=True)
class Measured:
    """The repetitions of one variant."""

    variant: Variant
    runs: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    @property
    def seconds(self) -> float:
        """Median over the repetitions."""
        return statistics.median(run["seconds"] for run in self.runs)


def main() -> None:
    arguments = parse_arguments()
    folder = WORK / "data_preparation"
    folder.mkdir(parents=True, exist_ok=True)
    # One number of threads for all; `true` keeps `tokenizers` from switching its threads off in a process that forked.
    os.environ |= {"RAYON_NUM_THREADS": str(arguments.threads), "TOKENIZERS_PARALLELISM": "true"}
    load = os.getloadavg()[0]
    print(f"{machine()['cpu']}, {arguments.threads} threads, load before {load:.2f}")
    if load > 0.5:
        print("  NOT A QUIET MACHINE: other processes compute; the figures are a trial only")
    request = {
        "tokenizer": str(prepare_tokenizer(folder)),
        "threads": arguments.threads,
        "max_length": MAX_LENGTH,
        "packages": REPORTED,
    }
    report = {
        "command": " ".join(["python", *sys.argv]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine() | {"threads": arguments.threads, "load_before": load},
        "tokenizer": {"kind": "byte-level BPE, trained on such rows", "vocabulary": VOCABULARY},
        "quick": arguments.quick,
    }
    path = Path(arguments.out) if arguments.out else HERE / "results" / "data_preparation.json"
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if arguments.memory_gib is not None:
        kept["memory"] = report | measure_memory(arguments.memory_gib, request, folder)
    else:
        kept["speed"] = report | measure_speed(arguments, request, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
    print(f"\nwritten to {path}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--variants", default=",".join(VARIANTS), help="in the order in which they are measured")
    parser.add_argument("--memory-gib", type=float, help="measure peak memory for a file of this size instead")
    parser.add_argument("--trl-version", default="1.16")
    parser.add_argument("--out", help="JSON file for the figures; default benchmarks/results/data_preparation.json")
    parser.add_argument("--quick", action="store_true", help="1,000 rows, once: whether it works at all")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rows, arguments.repeats = 1000, 1
    arguments.variants = arguments.variants.split(",")
    if unknown := set(arguments.variants) - VARIANTS.keys():
        parser.error(f"unknown variants {sorted(unknown)}; there are {', '.join(VARIANTS)}")
    return arguments


def prepare_tokenizer(folder: Path) -> Path:
    """Train the tokenizer, or take the one that is there."""
    place = folder / f"tokenizer-{VOCABULARY}"
    if not (place / "tokenizer_config.json").exists():
        train_tokenizer(VOCABULARY, TOKENIZER_ROWS, SEED).save_pretrained(place)
    return place


def measure_speed(arguments: argparse.Namespace, request: dict[str, Any], folder: Path) -> dict[str, Any]:
    """All variants in turn, as often as asked."""
    messages, pairs = folder / "messages.jsonl", folder / "prompt_completion.jsonl"
    write_rows(messages, arguments.rows, SEED)
    write_rows(pairs, arguments.rows, SEED, as_pairs=True)
    measured = {name: Measured(VARIANTS[name]) for name in arguments.variants}
    pythons = {"worker_data.py": Path(sys.executable)}
    if "trl" in measured:
        pythons["worker_trl_data.py"] = TrlEnvironment.prepare(WORK, arguments.trl_version, PACKAGES).python
    if "ours-warm" in measured:
        shutil.rmtree(folder / "cache", ignore_errors=True)
        run_variant("ours-warm", request | {"data": str(messages)}, pythons, folder)  # fills the cache
    for repetition in range(arguments.repeats):
        for name, one in measured.items():
            data = pairs if name == "trl" else messages
            one.runs.append(run_variant(name, request | {"data": str(data)}, pythons, folder))
            print(f"  {repetition + 1}/{arguments.repeats} {name:12} {one.runs[-1]['seconds']:8.2f} s", flush=True)
    show_table(measured, arguments.rows)
    return {
        "rows": arguments.rows,
        "file_bytes": messages.stat().st_size,
        "variants": {
            name: {"meaning": one.variant.meaning, "median_seconds": one.seconds, "runs": one.runs}
            for name, one in measured.items()
        },
    }


def run_variant(name: str, request: dict[str, Any], pythons: dict[str, Path], folder: Path) -> dict[str, Any]:
    variant = VARIANTS[name]
    told = request | variant.request
    if told.get("cache"):
        told["cache"] = str(folder / told["cache"])
    return run_worker(pythons[variant.worker], HERE / variant.worker, told, folder / name)


def measure_memory(gib: float, request: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Peak resident memory of one process that prepares a file of this size, with the quality checks and without."""
    data, runs = folder / "large.jsonl", dict[str, Any]()
    rows = write_rows(data, sys.maxsize, SEED, num_bytes=int(gib * 2**30))
    print(f"{rows} rows, {data.stat().st_size / 2**30:.2f} GiB")
    for name in ("ours", "ours-quality"):
        runs[name] = run_variant(name, request | {"data": str(data)}, {"worker_data.py": Path(sys.executable)}, folder)
        print(f"  {name:12} {runs[name]['seconds']:8.1f} s, peak {runs[name]['peak_memory_gib']:.2f} GiB", flush=True)
    data.unlink()
    return {"rows": rows, "file_gib": gib, "runs": runs}


def show_table(measured: dict[str, Measured], rows: int) -> None:
    """Seconds, spread, speed against the goal's yardstick, memory."""
    print(f"\n{'variant':48} {'seconds':>24} {'examples/s':>11} {'speed':>14} {'goal':>5} {'tokens':>11} {'GiB':>5}")
    for one in measured.values():
        seconds = [run["seconds"] for run in one.runs]
        spread = f"{one.seconds:.2f} ({min(seconds):.2f} to {max(seconds):.2f})"
        print(
            f"{one.variant.meaning:48} {spread:>24} {rows / one.seconds:11.0f} {against(one, measured):>14} "
            f"{f'{one.variant.goal[0]}x' if one.variant.goal else '':>5} {one.runs[-1]['num_tokens']:11} "
            f"{max(run['peak_memory_gib'] for run in one.runs):5.2f}"
        )


def against(one: Measured, measured: dict[str, Measured]) -> str:
    """How many times as fast as the variant that its goal names; empty where that was not measured."""
    if one.variant.goal is None or (name := one.variant.goal[1]) not in measured:
        return ""
    return f"{measured[name].seconds / one.seconds:.2f}x {name}"


if __name__ == "__main__":
    main()
