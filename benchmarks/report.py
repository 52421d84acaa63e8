"""How long `python -m tunelab report` takes over many runs: synthetic folders, the whole command, as a person waits.

python benchmarks/report.py            # 200 runs, three repetitions; goal: under 10 s
python benchmarks/report.py --quick    # a smoke run; its figures mean nothing
"""

import argparse
import json
import math
import random
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any

METHODS = {"lora": 0.010, "dora": 0.012, "vera": -0.020, "ia3": -0.050, "miss": 0.004}
RATES = (1e-4, 3e-4, 1e-3, 3e-3)
RANKS = (8, 32)
NUM_EXAMPLES = 300


def write_run(folder: Path, method: str, rate: float, rank: int, seed: int, **changes: Any) -> Path:
    """A run folder as train.py leaves it, with made-up results.

    `changes`: `status`, `reason`, `commit`, `data`, `test_data`, `accuracy`.
    """
    draw = random.Random(f"{method} {rate} {rank} {seed}")
    accuracy = 0.93 + METHODS.get(method, 0.0) - 0.04 * (math.log10(rate) + 3.2) ** 2 + 0.003 * (rank == 32)
    accuracy = changes.get("accuracy", accuracy + 0.004 * (seed % 3 - 1) + draw.gauss(0, 0.006))
    right = [draw.random() < accuracy for _ in range(NUM_EXAMPLES)]
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(_config(method, rate, rank, seed))
    typed = [f"peft={method}", f"optim.lr={rate}", f"peft.r={rank}", f"seed={seed}"]
    (folder / "overrides.yaml").write_text("".join(f"- {each}\n" for each in typed))
    (folder / "provenance.json").write_text(json.dumps(_provenance(changes)))
    (folder / "data_report.json").write_text(json.dumps({"splits": {"train": {"mean_length_tokens": 113.5}}}))
    (folder / "metrics.jsonl").write_text("".join(_lines(draw, rate, accuracy)))
    if changes.get("status") == "no summary":
        return folder
    (folder / "predictions.jsonl").write_text("".join(map(_prediction, range(NUM_EXAMPLES), right)))
    status = changes.get("status", "finished")
    summary: dict[str, Any] = {
        "schema_version": 1, "status": status, "reason": changes.get("reason"), "seed": seed,
        "num_trainable_parameters": rank * {"lora": 14592, "dora": 15200, "vera": 900, "ia3": 300}.get(method, 14592),
        "num_steps": 60, "peak_lr": rate,
        "times_seconds": {"train": 30 + 8 * (method == "dora") + draw.random(), "total": 60.0},
        "metrics": {}, "intervals": {},
    }  # fmt: skip
    if status == "finished":
        rate_right = sum(right) / NUM_EXAMPLES
        loss = 0.02 + 0.6 * (1 - accuracy) + draw.gauss(0, 0.002)
        summary["metrics"] = {
            "base/test/exact_match": 0.0, "base/test/loss": 1.0885, "test/num_examples": float(NUM_EXAMPLES),
            "test/loss": loss, "test/exact_match": rate_right, "test/field_f1": 1 - 0.3 * (1 - rate_right),
        }  # fmt: skip
        half = 1.96 * math.sqrt(rate_right * (1 - rate_right) / NUM_EXAMPLES)
        summary["intervals"] = {
            "test/exact_match": [rate_right - half, rate_right + half],
            "test/loss": [loss * 0.9, loss * 1.1],
        }
    (folder / "summary.json").write_text(json.dumps(summary, indent=2))
    return folder


def _config(method: str, rate: float, rank: int, seed: int) -> str:
    filler = "".join(f"  setting_{number}: {number}\n" for number in range(80))  # as long as a real one
    dora = "  use_dora: true\n" if method == "dora" else ""
    return (
        f"defaults:\n- run_schema\nname: run\noutput_dir: outputs\nseed: {seed}\n"
        f"model:\n  path: embedded:tiny\npeft:\n  _target_: peft.{method.capitalize()}Config\n  r: {rank}\n{dora}"
        f"data:\n  batch_size: 16\n  test_path: test.jsonl\n  choices: []\n{filler}"
        f"optim:\n  lr: {rate}\n  schedule: cosine\n"
    )


def _provenance(changes: dict[str, Any]) -> dict[str, Any]:
    return {
        "git": {"commit": changes.get("commit", "3f7e8e6ae5bc5f03"), "diff": ""},
        "packages": {"tunelab": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0", "peft": "0.21.2"},
        "hardware": {"machine": "x86_64", "cpu_capability": "AVX2", "cuda_devices": []},
        "device": "cpu",
        "num_devices": 1,
        "data_sha256": {
            "train.jsonl": {"train.jsonl": changes.get("data", "337a60")},
            "test.jsonl": {"test.jsonl": changes.get("test_data", "c00bc6")},
        },
        "base_model": {"path": "embedded:tiny", "revision": None, "sha256": {"model.safetensors": "2b88cc"}},
    }


def _lines(draw: random.Random, rate: float, accuracy: float) -> list[str]:
    lines: list[dict[str, float]] = []
    for step in range(1, 61):
        loss = 1.1 * math.exp(-step * 60 * rate**0.6 / 20) + 0.02 + 0.5 * (1 - accuracy)
        lines.append({"step": step, "train/loss": loss * (1 + draw.gauss(0, 0.05)), "perf/peak_memory_gib": 0.75})
        if step % 12 == 0:
            lines.append({"step": step, "val/loss": loss * (1.05 + draw.gauss(0, 0.02))})
    return [json.dumps(line) + "\n" for line in lines]


def _prediction(number: int, right: bool) -> str:
    text = "the completion of an example, about as long as those of tickets are, with a few fields in it " * 2
    common = {"id": f"test.jsonl:{number}", "prompt": text, "reference": text, "completion": text, "finished": True}
    models = {"base": 0.0, "tuned": float(right)}
    return "".join(
        json.dumps({**common, "model": name, "scores": {"exact_match": score}}) + "\n" for name, score in models.items()
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    seeds, repetitions = (range(1), 1) if arguments.quick else (range(1, 6), 3)
    with tempfile.TemporaryDirectory() as name:
        jobs = list(product(METHODS, RATES, RANKS, seeds))
        for method, rate, rank, seed in jobs:
            write_run(Path(name) / f"{method}_{rate}_{rank}_{seed}", method, rate, rank, seed)
        seconds = [_report(name) for _ in range(repetitions)]
    result = {"num_runs": len(jobs), "seconds": seconds, "median_seconds": statistics.median(seconds)}
    print(json.dumps(result))
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")


def _report(folder: str) -> float:
    start = time.perf_counter()
    command = [sys.executable, "-m", "tunelab", "report", folder]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
