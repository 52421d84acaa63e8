"""What a measurement runs in: TRL's own virtual environment, a process for each worker, a machine with a name."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class TrlEnvironment:
    """A virtual environment with TRL and the very versions of the other packages that this process has."""

    python: Path

    @classmethod
    def prepare(cls, folder: Path, trl_version: str, shared_packages: Sequence[str]) -> "TrlEnvironment":
        """Make the environment below `folder`, or take the one that is there and complete."""
        place = folder / f"trl-{trl_version}"
        python = place / "bin" / "python"
        # Without torch's local part (+cpu): which build it is, pip's configuration decides for both sides.
        pins = [f"{package}=={version(package).partition('+')[0]}" for package in shared_packages]
        wanted = [f"trl=={trl_version}.*", *pins]
        record = place / "installed.json"
        if not record.exists() or json.loads(record.read_text()) != wanted:
            print(f"making an environment with {', '.join(wanted)} in {place} (about 2 minutes)", flush=True)
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(place)], check=True)
            torch = [pin for pin in pins if pin.startswith("torch==")]
            for requirements in (torch, wanted):
                subprocess.run([str(python), "-m", "pip", "install", "--quiet", *requirements], check=True)
            record.write_text(json.dumps(wanted))
        return cls(python)


def run_worker(python: Path, script: Path, request: dict[str, Any], stem: Path) -> dict[str, Any]:
    """Run `script` on `request` with `request["threads"]` threads and no network; return what it measured.

    Raises:
        RuntimeError: the worker failed; its last output is quoted.
    """
    request_path, result_path = stem.with_suffix(f"{stem.suffix}.request"), stem.with_suffix(f"{stem.suffix}.json")
    request_path.write_text(json.dumps(request))
    result_path.unlink(missing_ok=True)
    threads = str(request["threads"])
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "HF_HUB_OFFLINE": "1"}
    finished = subprocess.run(
        [str(python), str(script), str(request_path), str(result_path)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    stem.with_suffix(f"{stem.suffix}.log").write_text(finished.stdout)
    if finished.returncode or not result_path.exists():
        raise RuntimeError(f"{script.name} failed with exit code {finished.returncode}:\n{finished.stdout[-3000:]}")
    return json.loads(result_path.read_text())


def machine() -> dict[str, Any]:
    """Processor, its instruction sets that matter for the figures, cores, system."""
    cpu, flags = platform.processor(), set[str]()
    if Path("/proc/cpuinfo").exists():
        fields = [line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line]
        known = {key.strip(): value.strip() for key, value in reversed(fields)}
        cpu, flags = known.get("model name", cpu), set(known.get("flags", "").split())
    return {
        "cpu": cpu,
        "instruction_sets": sorted(flags & {"avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16"}),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
    }
