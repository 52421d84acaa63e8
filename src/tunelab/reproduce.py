"""`tunelab reproduce`: the runs of a table done again, and which of its figures agree."""

import json
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunelab import atomic
from tunelab.compose import open_one
from tunelab.config import ReproduceConfig, to_plain
from tunelab.errors import ConfigError, TunelabError
from tunelab.escaping import printable
from tunelab.provenance import diff_name, differences, require_same_inputs
from tunelab.repeating import (
    Original,
    provenance_now,
    refuse_unused,
    repeat,
    require_new_or_own,
    run_again,
    weights_sha256,
    with_threads_of,
)
from tunelab.report.agreement import Verdict
from tunelab.report.formatting import joined, plural
from tunelab.report.metrics import values_of
from tunelab.report.noise import read_floors
from tunelab.report.published import Published, PublishedRow, chosen_runs, read_published
from tunelab.report.reading import Run, read_run
from tunelab.report.reproduction import Again, Reproduction, compare, reproduction_json, reproduction_markdown
from tunelab.sweeping.jobs import Job
from tunelab.sweeping.machine import plan_machine

RECORD, PAGE = "reproduction.json", "reproduction.md"
Changes = Mapping[str, tuple[str, str]]  # what is not as it was → then and now


@dataclass(frozen=True, slots=True)
class Task:
    """A run of the table, the job that does it again, and what differs from then."""

    row: PublishedRow
    run: Run
    job: Job
    changed: Changes


def reproduce(config: ReproduceConfig, overrides: Sequence[str]) -> None:
    """Do the runs again, write reproduction.json and reproduction.md, and print which figures agree.

    Raises:
        TunelabError: runs cannot be done again as they were, or a figure does not agree.
        Interrupted: a signal came; the same command goes on.
    """
    table = read_published(config.runs, config.metrics)
    chosen = chosen_runs(table, config.rows, config.max_runs)
    floors = read_floors(config.noise, [*config.runs, str(table.place)])
    folder = _folder(config, table)
    refuse_unused(config, config.sweep, overrides)
    require_new_or_own(folder, "reproduction", ("run",))
    with_threads_of([run.provenance for _, run in chosen])
    threads = plan_machine(config.sweep.workers, len(chosen)).num_threads
    tasks = _tasks(chosen, threads)
    folder.mkdir(parents=True, exist_ok=True)
    changed = [(task.run, task.changed) for task in tasks]
    write_patches(changed, folder)
    for line in changes_said(changed, folder):
        print(printable(line))
    jobs = list({task.job.id: task.job for task in tasks}.values())
    sweep, _ = run_again(jobs, folder, config.sweep, overrides)
    again = [_again(task, sweep.job(task.job).path) for task in tasks]
    found = compare(table, again, floors)
    atomic.write_json(folder / RECORD, reproduction_json(found, folder))
    changed = [(each.before, differences(each.before.provenance, each.now.provenance)) for each in again if each.values]
    write_patches(changed, folder)
    atomic.write_text(folder / PAGE, reproduction_markdown(found, changes_said(changed, folder)))
    _conclude(found, folder)


def write_patches(changed: Sequence[tuple[Run, Changes]], folder: Path) -> None:
    """Write the uncommitted changes of each other state of the code into `folder`."""
    for git in _other_code(changed):
        patch = _patch(git, folder)
        if patch is not None:
            atomic.write_text(patch, git["diff"])


def changes_said(changed: Sequence[tuple[Run, Changes]], folder: Path) -> list[str]:
    """A line for each thing that is not as it was, and the command that brings back the code (patches: in `folder`)."""
    counts = Counter(change for _, changes in changed for change in changes.items())
    lines = [
        f"not as it was: {name} {then}, now {now} ({count} of {plural(len(changed), 'run')})"
        for (name, (then, now)), count in counts.items()
    ]
    for git in _other_code(changed):
        patch = _patch(git, folder)
        applied = f" && git apply {shlex.quote(str(patch.resolve()))}" if patch is not None else ""
        lines.append(f"that code: git checkout {git['commit']}{applied}")
    return lines or ["code, versions, hardware, data and base model are as they were"]


def _other_code(changed: Sequence[tuple[Run, Changes]]) -> list[dict[str, Any]]:
    """The states of the code that is not as it was, each once."""
    states = [run.provenance.get("git") for run, changes in changed if "code" in changes]
    return list({json.dumps(git): git for git in states if git}.values())


def _folder(config: ReproduceConfig, table: Published) -> Path:
    if config.to is not None:
        return Path(config.to)
    if len(config.runs) > 1:
        raise ConfigError(
            f"to: expected a folder for what is done again of {len(config.runs)} places, found none; set to=<folder>."
        )
    return table.place.with_name(f"{table.place.name}_reproduction")


def _tasks(chosen: Sequence[tuple[PublishedRow, Run]], num_threads: int) -> list[Task]:
    """The jobs, once everything they need was found to be as it was.

    Raises:
        TunelabError: data, base model or adapter are gone, or others.
    """
    records: dict[str, dict[str, Any]] = {}
    tasks: list[Task] = []
    for row, run in chosen:
        config, folder = open_one(str(run.folder))
        own = [config.model, config.data, config.evaluation, config.peft.get("from_adapter")]
        inputs = json.dumps(to_plain([*own, config.trainer.accelerator]))
        if inputs not in records:
            now = provenance_now(config, run)
            records[inputs] = {**now, "hardware": {**now["hardware"], "num_threads": num_threads}}
        now = {**records[inputs], "memory_knobs": run.provenance.get("memory_knobs", {})}  # the configuration's
        require_same_inputs(run.provenance, now, run.folder.name)
        original = Original(run.folder, config, folder.read_overrides())
        job = repeat(original, {"run": run.folder.name}, run.seed)
        tasks.append(Task(row, run, job, differences(run.provenance, now)))
    return tasks


def _patch(git: Mapping[str, Any], folder: Path) -> Path | None:
    """Where `folder` has the uncommitted changes of a state of the code; None where there were none."""
    return folder / f"code-{diff_name(git)}.patch" if git.get("diff") else None


def _again(task: Task, folder: Path) -> Again:
    now = read_run(folder)
    weights = weights_sha256(task.run.folder)
    same = None if not weights or not now.is_finished else weights == weights_sha256(folder)
    return Again(task.row, task.run, now, values_of(now) if now.is_finished else {}, same)


def _conclude(found: Reproduction, folder: Path) -> None:
    """Print the verdicts.

    Raises:
        TunelabError: a figure does not agree.
    """
    for each in found.runs:
        run = each.again
        print(printable(f"{each.verdict.value}: {run.row.label}, seed {run.before.seed} ({run.before.folder.name})"))
    bad = [cell for cell in found.cells if not cell.figure.verdict.agrees]
    identical = sum(each.verdict is Verdict.identical for each in found.runs)
    print(
        f"agreement    {len(found.cells) - len(bad)} of {plural(len(found.cells), 'figure')}, {identical} of "
        f"{plural(len(found.runs), 'run')} bit-identical\nreproduction {folder / PAGE}"
    )
    if bad:
        named = joined([f"{cell.metric} of row {cell.row.number} {cell.figure.verdict.value}" for cell in bad])
        raise TunelabError(
            f"expected the figures of the table, found others: {named} ({len(bad)} of {len(found.cells)}); see "
            f"{folder / PAGE}."
        )
