"""Every tuning method of conf/peft on `tiny`/`tickets` under equal steps: the table of docs/methods.md.

    python benchmarks/methods.py                              # what results/methods.json lacks, then the table
    python benchmarks/methods.py --methods=lora,dora --again  # these once more
    python benchmarks/methods.py --table                      # the table alone
    python benchmarks/methods.py --quick                      # 5 steps, 20 test examples: the figures mean nothing

Each method is a run of train.py in a process of its own, one after another, a minute or two each. The results are
written after each: the same command goes on after a kill, and tries again what failed.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from environments import machine
from methods_table import is_doubtful, rewrite, table

from tunelab.atomic import write_json

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent
RESULTS = HERE / "results" / "methods.json"
PAGE = REPOSITORY / "docs" / "methods.md"
WORK = REPOSITORY / "outputs" / "benchmarks" / "methods"

WARM_UP_STEPS = 10  # which the speed leaves out
NUM_TEST_EXAMPLES = 300  # all of tickets'
BASE = "base"  # the untrained model, beside the methods
# What a method cannot do without: ids of the tokens that the chat template and the answers are made of.
NEEDED = {"trainable_tokens": ["peft.token_indices=[" + ",".join(map(str, range(64))) + "]"]}


def main() -> None:
    options = parse_arguments()
    path = WORK / "quick.json" if options.quick else RESULTS
    results = {"setting": setting(options), "machine": machine(), "methods": {}}
    if options.table:
        rewrite(PAGE, table(json.loads(path.read_text(encoding="utf-8"))))
        return
    if path.is_file() and not options.quick:
        results = resumed(json.loads(path.read_text(encoding="utf-8")), results, path.name)
    resident = resident_before_weights(options)
    for name in options.methods:
        if not options.again and "error" not in results["methods"].get(name, {"error": ""}):
            continue
        found = measure(name, options) | {"resident_before_weights_bytes": resident}
        results["methods"][name] = found
        busy = "NOT A QUIET MACHINE: " if is_doubtful(found) else ""
        print(name, busy + json.dumps(found), flush=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, results)
    if options.quick:
        print(table(results))
    else:
        rewrite(PAGE, table(results))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--methods", default="", help=f"names, separated by commas; default: all, and {BASE}")
    parser.add_argument("--steps", type=int, default=60, help="optimizer steps of each; a pass over the data is 187.5")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--again", action="store_true", help="measure also what the results hold")
    parser.add_argument("--table", action="store_true", help="measure nothing, write the table of what there is")
    parser.add_argument("--quick", action="store_true", help="a smoke run, whose figures are kept nowhere")
    options = parser.parse_args()
    known = [BASE, *sorted(each.stem for each in (REPOSITORY / "conf" / "peft").glob("*.yaml"))]
    options.methods = [each for each in options.methods.split(",") if each] or known
    if unknown := set(options.methods) - set(known):
        parser.error(f"unknown methods: {', '.join(sorted(unknown))}")
    options.steps = 5 if options.quick else options.steps
    options.num_test_examples = 20 if options.quick else NUM_TEST_EXAMPLES
    return options


def setting(options: argparse.Namespace) -> dict[str, Any]:
    """What all methods have in common."""
    sizes = {"num_steps": options.steps, "warm_up_steps": WARM_UP_STEPS, "num_test_examples": options.num_test_examples}
    return {**sizes, "threads": options.threads, "seed": 0}


def resumed(before: dict[str, Any], now: dict[str, Any], name: str) -> dict[str, Any]:
    """The earlier results, to be added to; ends the program where they were measured otherwise."""
    for key in ("setting", "machine"):
        if before[key] != now[key]:
            sys.exit(f"{name} was made with other {key}: {before[key]}, now {now[key]}; delete it, or use the same")
    return before


# --- one method ------------------------------------------------------------------------------------------------------


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train and measure one method; its figures, or the sentence that it ended with."""
    folder, is_base = WORK / "runs" / name, name == BASE
    shutil.rmtree(folder, ignore_errors=True)
    num_steps = 1 if is_base else options.steps
    overrides = [f"peft={'lora' if is_base else name}", *NEEDED.get(name, []), f"output_dir={WORK}", f"name={name}"]
    overrides += [f"trainer.max_steps={num_steps}", f"trainer.val_every_steps={num_steps}", "trainer.accelerator=cpu"]
    overrides += ["trainer.num_sample_completions=0", "trainer.log_every_steps=1", "logger=none"]
    overrides += [f"evaluation.base={is_base}", f"evaluation.max_examples={options.num_test_examples}"]
    done = watched([sys.executable, str(REPOSITORY / "train.py"), *overrides], options.threads)
    returncode, stderr = done.pop("returncode"), done.pop("stderr")
    if returncode:
        return {"error": stderr.strip().rpartition("\n")[2][:300]}
    return figures(next(folder.iterdir()), "base/" if is_base else "") | done


def watched(command: list[str], threads: int) -> dict[str, Any]:
    """Run a command to its end: exit code, standard error, seconds, and how many cores others kept busy meanwhile."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "NO_COLOR": "1"}
    busy, start, own = busy_seconds(), time.perf_counter(), sum(os.times()[2:4])
    done = subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    seconds, own = time.perf_counter() - start, sum(os.times()[2:4]) - own
    others = None if busy is None else max(0.0, (busy_seconds() or 0.0) - busy - own) / seconds
    return {
        "returncode": done.returncode,
        "stderr": done.stderr,
        "seconds": round(seconds, 1),
        "cores_of_others": None if others is None else round(others, 2),
    }


def busy_seconds() -> float | None:
    """Processor time that this machine has spent on anything, all cores together; None where there is no /proc/stat."""
    path = Path("/proc/stat")
    if not path.exists():
        return None
    ticks = [int(number) for number in path.read_text(encoding="ascii").splitlines()[0].split()[1:9]]
    idle = ticks[3] + ticks[4]  # idle, waiting for input or output
    return (sum(ticks) - idle) / os.sysconf("SC_CLK_TCK")


def figures(folder: Path, of: str = "") -> dict[str, Any]:
    """The figures of a run folder; with "base/" those of its base model, where there are two."""
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    origin = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [line for line in lines if "perf/tokens_per_second" in line]
    timed = [line["perf/tokens_per_second"] for line in steps if line["step"] > WARM_UP_STEPS] or [0.0]
    return {
        "num_trainable_parameters": summary["num_trainable_parameters"],
        "peak_lr": summary["peak_lr"],
        "validation_loss": next(line["val/loss"] for line in reversed(lines) if "val/loss" in line),
        "test_loss": summary["metrics"][f"{of}test/loss"],
        "test_exact_match": summary["metrics"][f"{of}test/exact_match"],
        "tokens_per_second": statistics.median(timed),
        "peak_resident_bytes": round(steps[-1]["perf/peak_memory_gib"] * 2**30),
        "export_bytes": sum(file.stat().st_size for file in (folder / "adapter").glob("*.safetensors")),
        "times_seconds": summary["times_seconds"],
        "commit": (origin["git"] or {}).get("commit"),
        "uncommitted": bool((origin["git"] or {}).get("diff")),
        "packages": origin["packages"],
    }


def resident_before_weights(options: argparse.Namespace) -> int:
    """Bytes that a process holds which has imported everything and read the data, and has no weights yet.

    The second of two processes: the first may have to prepare the data, which takes memory of its own.
    """
    command = [sys.executable, str(HERE / "worker_resident.py"), str(WORK)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads), "HF_HUB_OFFLINE": "1"}
    for _ in range(2):
        done = subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(done.stderr)
    return int(done.stdout)


if __name__ == "__main__":
    main()
