"""How long a sweep takes from start to last result, beside as many separate `python train.py` calls.

    python benchmarks/sweep.py [--jobs 12] [--steps 60] [--to benchmarks/results/sweep.json] [key=value ...]

Both do the same work: the same configurations, on the same cores, with the usual evaluation of base and tuned model;
`key=value` are overrides for both. The two must end with the same adapters, bit for bit, where OMP_NUM_THREADS is set.
`stage_seconds`: the mean over the runs of what summary.json says of each stage; a run's start is in none of them.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
METHODS, RATES = ("lora", "dora", "ia3"), ("3e-4", "1e-3")


def main() -> None:
    """Run both, print the table, and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=12)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--to", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    arguments = parser.parse_args()
    result = measure(arguments.jobs, arguments.steps, arguments.overrides)
    print(json.dumps(result, indent=2))
    if arguments.to:
        arguments.to.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def measure(num_jobs: int, num_steps: int, overrides: list[str]) -> dict[str, object]:
    """Seconds of the sweep and of the separate calls, each with its own cache, and whether the adapters are equal."""
    num_seeds = -(-num_jobs // (len(METHODS) * len(RATES)))
    seeds = [str(seed) for seed in range(1, num_seeds + 1)]
    fixed = [f"trainer.max_steps={num_steps}", "trainer.accelerator=cpu", *overrides]
    swept = [f"peft={','.join(METHODS)}", f"optim.lr={','.join(RATES)}", f"seed={','.join(seeds)}"]
    combinations = list(itertools.product(METHODS, RATES, seeds))
    with tempfile.TemporaryDirectory() as place:
        alone, together = Path(place) / "alone", Path(place) / "together"
        separate = timed(
            [[*fixed, f"output_dir={alone}", f"peft={p}", f"optim.lr={r}", f"seed={s}"] for p, r, s in combinations]
        )
        sweep = timed([["-m", *fixed, f"output_dir={together}", *swept]])
        return {
            "num_jobs": len(combinations),
            "num_steps": num_steps,
            "overrides": overrides,
            "num_cores": os.cpu_count(),
            "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
            "separate_seconds": round(separate, 1),
            "sweep_seconds": round(sweep, 1),
            "times_shorter": round(separate / sweep, 2),
            "stage_seconds": {"separate": stages(alone), "sweep": stages(together)},
            "same_adapters": adapters(alone) == adapters(together),
        }


def timed(calls: list[list[str]]) -> float:
    """Seconds that `python train.py` takes for these arguments, one call after another."""
    start = time.perf_counter()
    for arguments in calls:
        subprocess.run(
            [sys.executable, str(REPOSITORY / "train.py"), *arguments], check=True, stdout=subprocess.DEVNULL
        )
    return time.perf_counter() - start


def stages(outputs: Path) -> dict[str, float]:
    """The mean seconds of each stage of the runs below a folder."""
    summaries = [json.loads(path.read_text(encoding="utf-8")) for path in outputs.rglob("summary.json")]
    times = [summary["times_seconds"] for summary in summaries]
    return {stage: round(statistics.mean(each[stage] for each in times), 2) for stage in times[0]}


def adapters(outputs: Path) -> set[bytes]:
    """The weights of all adapters below a folder."""
    return {path.read_bytes() for path in outputs.rglob("adapter/adapter_model.safetensors")}


if __name__ == "__main__":
    main()
