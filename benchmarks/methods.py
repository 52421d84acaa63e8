"""Every tuning method of conf/peft on `tiny`/`tickets` under equal steps: the table of docs/methods.md.

    python benchmarks/methods.py                         # all methods that results/methods.json lacks
    python benchmarks/methods.py --methods=lora,dora --again
    python benchmarks/methods.py --quick                 # 5 steps, 20 test examples, to another file: no figures

Each method is a run of train.py in a process of its own, one after another.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent
RESULTS = HERE / "results" / "methods.json"
PAGE = REPOSITORY / "docs" / "methods.md"
WORK = REPOSITORY / "outputs" / "benchmarks" / "methods"
BEGIN, END = "<!-- methods: begin -->", "<!-- methods: end -->"

# What a method cannot do without: ids of the tokens that the chat template and the answers are made of.
NEEDED = {"trainable_tokens": ["peft.token_indices=[" + ",".join(map(str, range(64))) + "]"]}
COLUMNS = ("trained", "test loss", "exact match", "tokens/s", "memory, GiB", "export, KB")


def all_methods() -> list[str]:
    return sorted(path.stem for path in (REPOSITORY / "conf" / "peft").glob("*.yaml"))


def measure(name: str, num_steps: int, threads: int, quick: bool) -> dict[str, Any]:
    """Train and evaluate one method; its figures, or the sentence that it ended with."""
    work = WORK / name
    shutil.rmtree(work, ignore_errors=True)
    overrides = [f"peft={name}", *NEEDED.get(name, []), f"output_dir={work}", f"trainer.max_steps={num_steps}"]
    overrides += ["evaluation.base=false", "logger=none", "trainer.num_sample_completions=0", "trainer.accelerator=cpu"]
    overrides += ["evaluation.max_examples=20"] if quick else []
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "NO_COLOR": "1"}
    command = [sys.executable, str(REPOSITORY / "train.py"), *overrides]
    done = subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1][:300]}
    return figures(next((work / "runs" / "run").iterdir()))


def figures(folder: Path) -> dict[str, Any]:
    """The figures of a run folder."""
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    speeds = sorted(line["perf/tokens_per_second"] for line in lines if "perf/tokens_per_second" in line)
    return {
        "num_trainable_parameters": summary["num_trainable_parameters"],
        "peak_lr": summary["peak_lr"],
        "test_loss": summary["metrics"]["test/loss"],
        "test_exact_match": summary["metrics"]["test/exact_match"],
        "tokens_per_second": speeds[len(speeds) // 2],
        "peak_memory_gib": max(line.get("perf/peak_memory_gib", 0.0) for line in lines),
        "export_bytes": sum(file.stat().st_size for file in (folder / "adapter").glob("*.safetensors")),
    }


def table(results: dict[str, Any]) -> str:
    """The Markdown table, best loss first; what failed stands below with its reason."""
    methods: dict[str, dict[str, Any]] = results["methods"]
    good = {name: found for name, found in methods.items() if "error" not in found}
    rows = [f"| method | {' | '.join(COLUMNS)} |", "|---|" + "--:|" * len(COLUMNS)]
    for name, found in sorted(good.items(), key=lambda item: item[1]["test_loss"]):
        cells = (
            f"{found['num_trainable_parameters']:,}", f"{found['test_loss']:.4f}", f"{found['test_exact_match']:.3f}",
            f"{found['tokens_per_second']:,.0f}", f"{found['peak_memory_gib']:.2f}",
            f"{found['export_bytes'] / 1000:,.0f}",
        )  # fmt: skip
        rows.append(f"| `{name}` | {' | '.join(cells)} |")
    failed = [f"`{name}` failed: {found['error']}" for name, found in sorted(methods.items()) if "error" in found]
    setting = f"{results['num_steps']} steps of 16 examples, {results['threads']} thread(s), one run each, seed 0."
    return "\n\n".join([setting, "\n".join(rows), *failed])


def rewrite(page: Path, text: str) -> None:
    """Put the table between the two marks of the page."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default="", help="names, separated by commas; default: all")
    parser.add_argument("--steps", type=int, default=187, help="optimizer steps of each; one pass over the data is 187")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--again", action="store_true", help="measure also what the results hold")
    parser.add_argument("--quick", action="store_true", help="a smoke run, whose figures are kept nowhere")
    options = parser.parse_args()
    num_steps = 5 if options.quick else options.steps
    path = WORK / "quick.json" if options.quick else RESULTS
    results: dict[str, Any] = {"num_steps": num_steps, "threads": options.threads, "methods": {}}
    if path.is_file() and not options.quick:
        before = json.loads(path.read_text(encoding="utf-8"))
        if {**before, "methods": {}} != results:
            sys.exit(f"{path.name} was made with other --steps or --threads: delete it, or use the same")
        results = before
    for name in [each for each in options.methods.split(",") if each] or all_methods():
        if name in results["methods"] and not options.again:
            continue
        results["methods"][name] = found = measure(name, num_steps, options.threads, options.quick)
        print(name, found, flush=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(results, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    if options.quick:
        print(table(results))
    else:
        rewrite(PAGE, table(results))


if __name__ == "__main__":
    main()
