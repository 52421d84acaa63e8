"""Learning curves from metrics.jsonl: one for each run, and mean and spread over the seeds of a configuration."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from tunelab.report.reading import read_lines

TRAIN, VALIDATION = "train/loss", "val/loss"
_MEMORY = ("perf/peak_cuda_memory_gib", "perf/peak_memory_gib")  # that of the device, where there is one


@dataclass(frozen=True, slots=True)
class Figures:
    """What metrics.jsonl says of a run: step → loss, for training and validation; and the highest memory in GiB."""

    losses: Mapping[str, Mapping[int, float]]
    peak_memory_gib: float | None


@dataclass(frozen=True, slots=True)
class Band:
    """A curve over the steps that all runs of a configuration logged. `deviations`: over seeds; None for one run."""

    steps: list[int]
    means: list[float]
    deviations: list[float] | None


def read_figures(folder: Path) -> Figures:
    """Read one metrics.jsonl; a step that was logged again after a resume counts as logged last."""
    losses: dict[str, dict[int, float]] = {TRAIN: {}, VALIDATION: {}}
    memory: dict[str, float] = {}
    for record in read_lines(folder / "metrics.jsonl"):
        step = record.get("step")
        if not isinstance(step, int):
            continue
        for name in losses:
            if isinstance(value := record.get(name), (int, float)):
                losses[name][step] = float(value)
        for name in _MEMORY:
            if isinstance(value := record.get(name), (int, float)):
                memory[name] = max(float(value), memory.get(name, 0.0))
    return Figures(losses, next((memory[name] for name in _MEMORY if name in memory), None))


def band_of(runs: Sequence[Figures], name: str) -> Band | None:
    """The mean curve of some runs; None where they share no step."""
    curves = [run.losses[name] for run in runs]
    steps = sorted(set(curves[0]).intersection(*curves[1:])) if curves else []
    if not steps:
        return None
    columns = [[curve[step] for curve in curves] for step in steps]
    deviations = [stdev(column) for column in columns] if len(curves) > 1 else None
    return Band(steps, [fmean(column) for column in columns], deviations)
