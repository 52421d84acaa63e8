"""How much shorter the sweep of `sweep.py` could be at most than separate runs, were there nothing but products.

    OMP_NUM_THREADS=1 python benchmarks/sweep_floor.py [--measured benchmarks/results/sweep.json] [--to …]

Counts the matrix products of one job of each method besides the base model's, with torch's own counter, and takes the
speed of one core at the products of `tiny`; seven minutes in all. A separate run then takes its start, the base model,
and these products on all cores; a sweep has start and base once. What a job does besides lowers the factor further.
"""

import argparse
import contextlib
import io
import json
import runpy
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from sweep import METHODS, REPOSITORY
from torch.utils.flop_counter import FlopCounterMode

SHAPES = ((1808, 192, 192), (1808, 192, 512), (1808, 512, 192))  # tokens of a step, inputs, outputs of tiny's layers


def main() -> None:
    """Count, time, and print the bound."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measured", type=Path, default=REPOSITORY / "benchmarks/results/sweep.json")
    parser.add_argument("--to", type=Path)
    arguments = parser.parse_args()
    result = bound(json.loads(arguments.measured.read_text(encoding="utf-8")))
    print(json.dumps(result, indent=2))
    if arguments.to:
        arguments.to.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def bound(measured: dict) -> dict[str, object]:
    """The most that the factor can be, from what `sweep.py` measured."""
    stages, num_jobs = measured["stage_seconds"]["separate"], measured["num_jobs"]
    start = measured["separate_seconds"] / num_jobs - stages["total"]
    once = start + stages["prepare"] + stages["load"] + stages["evaluate_base"]
    operations = {method: operations_of(method, measured["num_steps"]) for method in METHODS}
    speed = core_speed()
    own = statistics.mean(operations.values()) / speed / measured["num_cores"]
    return {
        "operations_of_a_job": operations,
        "operations_a_second_and_core": round(speed),
        "seconds_that_a_sweep_has_once": round(once, 1),
        "seconds_of_products_of_a_job_on_all_cores": round(own, 1),
        "times_shorter_at_most": round((once + own) / (once / num_jobs + own), 2),
        "times_shorter_measured": measured["times_shorter"],
    }


def operations_of(method: str, num_steps: int) -> int:
    """Floating-point operations of the products of one run, without those of measuring the base model."""
    with tempfile.TemporaryDirectory() as place, contextlib.redirect_stdout(io.StringIO()):
        sys.argv = ["train.py", f"peft={method}", f"trainer.max_steps={num_steps}", "trainer.accelerator=cpu"]
        sys.argv += ["seed=1", "evaluation.base=false", f"output_dir={place}"]
        with FlopCounterMode(display=False) as counter:
            runpy.run_path(str(REPOSITORY / "train.py"), run_name="__main__")
    return counter.get_total_flops()


def core_speed() -> float:
    """Floating-point operations a second of one core: the mean over `SHAPES`, of each the best of 100."""
    torch.set_num_threads(1)
    return statistics.mean(2 * tokens * width * out / best(tokens, width, out) for tokens, width, out in SHAPES)


def best(tokens: int, width: int, out: int) -> float:
    """The least seconds of one product."""
    x, weight, seconds = torch.randn(tokens, width), torch.randn(out, width), []
    for _ in range(100):
        start = time.perf_counter()
        torch.nn.functional.linear(x, weight)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


if __name__ == "__main__":
    main()
