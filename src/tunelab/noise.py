"""`tunelab noise`: one run repeated with its own seed and with others, and how much its figures move."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tunelab import atomic
from tunelab.config import NoiseConfig, RunConfig
from tunelab.errors import ConfigError, DataError
from tunelab.provenance import differences
from tunelab.repeating import (
    Original,
    refuse_failed,
    refuse_unused,
    repeat,
    require_new_or_own,
    run_again,
    typed_for,
    weights_sha256,
    with_threads_of,
)
from tunelab.report.formatting import decimals_for, fixed, plural
from tunelab.report.metrics import metric_of, values_of
from tunelab.report.noise import FILE
from tunelab.report.reading import Run, read_run
from tunelab.report.repeats import Deviation, Noise, noise_of
from tunelab.run import RunFolder
from tunelab.sweeping.jobs import Job

MOST_NAMED = 3


def study_noise(config: NoiseConfig, run: RunConfig, folder: RunFolder, overrides: Sequence[str]) -> None:
    """Repeat a run, write noise.json beside the repeats, and print what it says.

    Raises:
        TunelabError: the run cannot be repeated as asked, or repeats failed; noise.json is over the others.
        Interrupted: a signal came; the same command goes on.
    """
    original = Original(folder.path.resolve(), run, typed_for(folder))
    jobs = repeats(config, original)
    place = Path(config.to or Path(run.output_dir) / "sweeps" / f"noise_{original.folder.name}")
    refuse_unused(config, config.sweep, overrides)
    require_new_or_own(place, "study", ("seed", "repeat"))
    _require_finished(read_run(original.folder))
    with_threads_of([folder.read_json("provenance.json")])
    sweep, outcomes = run_again(jobs, place, config.sweep, overrides)
    found = [run for run in (read_run(sweep.job(job).path) for job in jobs) if run.is_finished]
    if not found:
        refuse_failed(outcomes)
    runs, left_out = comparable(read_run(original.folder), found)
    study = noise_by_metric(runs, run.seed)
    identical = are_identical(runs, run.seed)
    atomic.write_json(place / FILE, record(runs, study, left_out, identical))
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
    """The runs that were made by the same code, of the same data, in the same environment as the last of them.

    The original is one of them where that holds; of the others, what differs.
    """
    newest = max(found, key=lambda run: str(run.provenance.get("started", "")))
    kept: list[Run] = []
    left_out: dict[Path, str] = {}
    for run in (original, *found):
        changed = differences(run.provenance, newest.provenance)
        if not run.is_finished:
            left_out[run.folder] = run.status
        elif changed:
            said = [f"{name} {old}, now {new}" for name, (old, new) in changed.items()]
            more = f" and {len(said) - MOST_NAMED} more" if len(said) > MOST_NAMED else ""
            left_out[run.folder] = "; ".join(said[:MOST_NAMED]) + more
        else:
            kept.append(run)
    return kept, left_out


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


def record(
    runs: Sequence[Run], study: dict[str, Noise], left_out: dict[Path, str], identical: bool | None
) -> dict[str, Any]:
    """The content of noise.json: a mapping for each metric, as a report reads it; all else is no mapping."""
    return {
        **{name: each.to_dict() for name, each in study.items()},
        "schema_version": 1,
        "same_seed_is_bit_identical": identical,
        "runs": [
            {"folder": str(run.folder), "seed": run.seed, "weights_sha256": weights_sha256(run.folder)} for run in runs
        ],
        "left_out": [{"folder": str(folder), "reason": reason} for folder, reason in left_out.items()],
    }


def show(
    runs: Sequence[Run], study: dict[str, Noise], left_out: dict[Path, str], seed: int, identical: bool | None
) -> None:
    """Print the table, and in words what the same seed gave."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    for folder, reason in left_out.items():
        console.print(f"left out: {folder.name} ({reason})")
    table = Table(box=None, pad_edge=False)
    table.add_column("metric")
    for column in ("mean", "sd, same seed", "n", "sd, other seeds", "n"):
        table.add_column(column, justify="right")
    for name, each in study.items():
        if metric_of(name).better is not None:
            table.add_row(name, *_columns(each))
    console.print(table)
    count = sum(run.seed == seed for run in runs)
    console.print("[95 % interval of the standard deviation]; n: runs of the seed, and seeds")
    console.print(_of_the_same_seed(seed, count, identical))


def _of_the_same_seed(seed: int, count: int, identical: bool | None) -> str:
    said = f"seed {seed}, {plural(count, 'run')}: "
    if identical is None:
        return said + "too few with weights to compare"
    if identical:
        return said + "bit-identical, adapter and figures; the floor of the same seed is 0"
    return said + "not bit-identical"


def _columns(noise: Noise) -> list[str]:
    both = [each for each in (noise.same_seed, noise.other_seeds) if each]
    decimals = decimals_for([each.value for each in both], [noise.mean])
    return [fixed(noise.mean, decimals), *_cells(noise.same_seed, decimals), *_cells(noise.other_seeds, decimals)]


def _cells(deviation: Deviation | None, decimals: int) -> list[str]:
    if deviation is None:
        return ["–", "–"]
    bounds = deviation.interval
    interval = f" [{', '.join(fixed(bound, decimals) for bound in bounds)}]" if bounds else ""
    value = "0" if not deviation.value else fixed(deviation.value, decimals)
    return [f"{value}{interval}", str(deviation.count)]
