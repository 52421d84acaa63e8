"""Run folders with made-up results, as the benchmark of the report writes them."""

import importlib.util
import json
from pathlib import Path
from typing import Any

_PATH = Path(__file__).resolve().parents[2] / "benchmarks" / "report.py"
_SPEC = importlib.util.spec_from_file_location("report_benchmark", _PATH)
assert _SPEC
assert _SPEC.loader
benchmark = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(benchmark)
write_run = benchmark.write_run


def write_small(folder: Path, seed: int = 1, metrics: dict[str, float] | None = None, **changes: Any) -> Path:
    """A run of a few lines: `config` and `typed` say what it was, `metrics` what it measured."""
    folder.mkdir(parents=True)
    config = {"seed": seed, "optim.lr": 1e-3, "model.path": "tiny", **changes.pop("config", {})}
    (folder / "config.yaml").write_text(_as_yaml(config))
    typed = {"seed": seed, **changes.pop("typed", {})}
    (folder / "overrides.yaml").write_text("".join(f"- '{key}={value}'\n" for key, value in typed.items()))
    (folder / "provenance.json").write_text(json.dumps(changes.pop("provenance", {})))
    summary = {"status": "finished", "metrics": {"test/loss": 1.0} if metrics is None else metrics, **changes}
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def _as_yaml(flat: dict[str, Any]) -> str:
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *sections, name = key.split(".")
        branch = tree
        for section in sections:
            branch = branch.setdefault(section, {})
        branch[name] = value
    return json.dumps(tree)  # which is YAML too
