"""`tunelab noise`: one run repeated with its own seed and with others, and how much its figures move."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Never

from tunelab import atomic
from tunelab.config import NoiseConfig, RunConfig
from tunelab.errors import ConfigError, DataError
from tunelab.provenance import differences, require_same_inputs
from tunelab.repeating import (
    Original,
    provenance_now,
    refuse_failed,
    refuse_unused,
    repeat,
    require_new_or_own,
    run_again,
    weights_sha256,
    with_threads_of,
)
from tunelab.report.metrics import values_of
from tunelab.report.noise import FILE
from tunelab.report.noise_table import show
from tunelab.report.reading import Run, read_run
from tunelab.report.repeats import Noise, noise_of
from tunelab.run import RunFolder
from tunelab.sweeping.jobs import Job

MOST_NAMED = 3


def study_noise(config: NoiseConfig, run: RunConfig, folder: RunFolder, overrides: Sequence[str]) -> None:
    """Repeat a run, write noise.json beside the repeats, and print what it says.

    Raises:
        TunelabError: the run cannot be repeated as it was, or repeats failed; noise.json is over the others.
        Interrupted: a signal came; the same command goes on.
    """
    original = Original(folder.path.resolve(), run, folder.read_overrides())
    jobs = repeats(config, original)
    place = Path(config.to or Path(run.output_dir) / "sweeps" / f"noise_{original.folder.name}")
    refuse_unused(config, config.sweep, overrides)
    require_new_or_own(place, "study", ("seed", "repeat"))
    before = read_run(original.folder)
    _require_finished(before)
    require_same_inputs(before.provenance, provenance_now(run, before), before.folder.name)
    with_threads_of([before.provenance])
    sweep, outcomes = run_again(jobs, place, config.sweep, overrides)
    found = [run for run in (read_run(sweep.job(job).path) for job in jobs) if run.is_finished]
    runs, left_out = comparable(before, found)
    if len(runs) < 2:
        refuse_failed(outcomes)
        _refuse_alone(left_out)
    study = noise_by_metric(runs, run.seed)
    identical = are_identical(runs, run.seed)
    atomic.write_json(place / FILE, {**record(study, identical), **origins(runs, left_out, place)})
    show(runs, study, left_out, run.seed, identical)
    print(f"study        {place / FILE}\nuse it       python -m tunelab report <sweep> noise={place}")
    refuse_failed(outcomes, place / FILE)


def _require_finished(run: Run) -> None:
    """Raise a ConfigError for a run that has failed or was stopped: its repeats would fail too, or go further."""
    if not run.is_finished:
        reason = f" ({run.reason})" if run.reason else ""
        raise ConfigError(
            f"run: expected a finished run, found one that is {run.status}{reason}: {run.folder}; repeat another, or "
            f"go on with it first: python train.py resume={run.folder}."
        )


def repeats(config: NoiseConfig, original: Original) -> list[Job]:
    """The jobs of a study: the run's own seed several times, and other seeds once each.

    Raises:
        ConfigError: one of `seeds` is the run's own.
    """
    own = original.config.seed
    if own in config.seeds:
        raise ConfigError(
            f"seeds: expected seeds other than the run's own, found {own}, which it is; repeat that with same_seed=<n>."
        )
    others = config.seeds or [(own + number) % 2**32 for number in range(1, config.other_seeds + 1)]
    plan = [(own, number) for number in range(1, config.same_seed + 1)] + [(seed, 1) for seed in others]
    return [repeat(original, {"seed": str(seed), "repeat": str(number)}, seed, number) for seed, number in plan]


def comparable(original: Run, found: Sequence[Run]) -> tuple[list[Run], dict[Path, str]]:
    """Most runs that were made by one code, of the same data, in one environment; of the others, what differs.

    Of two sets of equal size it is that of the newest run.
    """
    runs = [original, *found]

    def standing(run: Run) -> tuple[int, str]:
        alike = sum(not differences(each.provenance, run.provenance) for each in runs)
        return alike, str(run.provenance.get("started", ""))

    first = max(runs, key=standing)
    kept: list[Run] = []
    left_out: dict[Path, str] = {}
    for run in runs:
        changed = differences(run.provenance, first.provenance)
        if changed:
            said = [f"{name} {old}, of the others {new}" for name, (old, new) in changed.items()]
            more = f" and {len(said) - MOST_NAMED} more" if len(said) > MOST_NAMED else ""
            left_out[run.folder] = "; ".join(said[:MOST_NAMED]) + more
        else:
            kept.append(run)
    return kept, left_out


def _refuse_alone(left_out: Mapping[Path, str]) -> Never:
    """Raise a DataError where no two runs can be compared: what an earlier call has found stays."""
    others = "; ".join(f"{folder.name}: {reason}" for folder, reason in left_out.items())
    raise DataError(
        f"run: expected two runs or more that were made alike, found one; others differ ({others}). Set "
        "sweep.rerun=all to do all repeats anew, or ask for more of them (same_seed, other_seeds)."
    )


def noise_by_metric(runs: Sequence[Run], own_seed: int) -> dict[str, Noise]:
    """The noise of every figure that all runs have.

    Raises:
        DataError: they have none.
    """
    measured = [(run.seed, values_of(run)) for run in runs]
    names = [name for name in measured[0][1] if all(name in values for _, values in measured)]
    if not names:
        raise DataError(
            f"run: expected runs with results, found none measured in {runs[0].folder}; repeat a run that has a test "
            "split (data.test_path or data.test_fraction)."
        )
    noise: dict[str, Noise] = {}
    for name in names:
        by_seed: dict[int, list[float]] = {}
        for seed, values in measured:
            by_seed.setdefault(seed, []).append(values[name])
        noise[name] = noise_of(by_seed, own_seed)
    return noise


def are_identical(runs: Sequence[Run], seed: int) -> bool | None:
    """Whether all runs of a seed ended with the same bits and figures; None where there is one, or nothing exported."""
    own = [run for run in runs if run.seed == seed]
    weights = [weights_sha256(run.folder) for run in own]
    if len(own) < 2 or not all(weights):
        return None
    return all(each == weights[0] for each in weights) and all(values_of(run) == values_of(own[0]) for run in own)


def record(study: Mapping[str, Noise], identical: bool | None) -> dict[str, Any]:
    """The content of noise.json: a mapping for each metric, as a report reads it; all else is no mapping."""
    return {
        **{name: each.to_dict() for name, each in study.items()},
        "schema_version": 1,
        "same_seed_is_bit_identical": identical,
    }


def origins(runs: Sequence[Run], left_out: Mapping[Path, str], place: Path) -> dict[str, Any]:
    """The runs that noise.json in `place` is over, and those that it is not; folders are relative to it."""

    def relative(folder: Path) -> str:
        return os.path.relpath(folder.resolve(), place.resolve())

    return {
        "runs": [
            {"folder": relative(run.folder), "seed": run.seed, "weights_sha256": weights_sha256(run.folder)}
            for run in runs
        ],
        "left_out": [{"folder": relative(folder), "reason": reason} for folder, reason in left_out.items()],
    }
