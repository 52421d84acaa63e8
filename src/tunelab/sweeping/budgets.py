"""What was set for equal budgets, as a table and in the sweep's folder; light to import, unlike solving it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tunelab import atomic
from tunelab.config import Match, RunConfig, SweepConfig, to_plain
from tunelab.errors import ConfigError
from tunelab.model.size_keys import size_key
from tunelab.report.formatting import plural
from tunelab.sweeping.folder import SweepFolder
from tunelab.sweeping.jobs import Job

FILE = "matching.json"
STEPS, EPOCHS = "trainer.max_steps", "trainer.max_epochs"


@dataclass(frozen=True, slots=True)
class Solved:
    """What became of one job: `knob` was set to `value` (None: it has none, or was left), and the budget it has then.

    `budget`, `target`: trained parameters, or tokens or FLOPs of the run; a budget is None where only loading tells.
    """

    knob: str | None
    value: int | None
    budget: float | None
    target: float
    overrides: tuple[str, ...] = ()

    @property
    def difference(self) -> float | None:
        """Of the target, relative."""
        return None if self.budget is None else self.budget / self.target - 1


def match_jobs(configs: Sequence[RunConfig], settings: SweepConfig, axes: Sequence[str]) -> list[Solved]:
    """A solution for each job where `sweep.match` is set; none where it is not.

    Raises:
        TunelabError: the key to solve is swept itself, or the first job's budget is not known.
    """
    if settings.match is None:
        return []
    _refuse_swept(configs, settings.match, axes)
    from tunelab.sweeping.matching import Matching  # imports torch
    from tunelab.terminal import quiet_libraries

    quiet_libraries()

    return Matching(settings).solve(configs)


def _refuse_swept(configs: Sequence[RunConfig], match: Match, axes: Sequence[str]) -> None:
    of_method = match is Match.trainable_parameters
    keys = {f"peft.{size_key(to_plain(each)['peft'])}" for each in configs} if of_method else {STEPS, EPOCHS}
    swept = next((key for key in axes if key in keys), None)
    if swept is not None:
        raise ConfigError(
            f"{swept}: expected a key that sweep.match={match.value} may set, found one that is swept; give it one "
            "value, or remove sweep.match."
        )


def read_matching(folder: SweepFolder) -> dict[str, Any]:
    """What matching.json has of earlier jobs, by id; nothing where there is none.

    Raises:
        ConfigError: it is damaged.
    """
    path = folder.path / FILE
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["jobs"]) if path.is_file() else {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"sweep.match: expected the record of an earlier sweep in {str(path)!r}, found it damaged; delete it, or "
            "set sweep.name=<another>."
        ) from error


def record_matching(
    folder: SweepFolder, jobs: Sequence[Job], solved: Mapping[str, Solved], match: str, earlier: Mapping[str, Any]
) -> None:
    """Print what was set, and write it into matching.json beside what is there of other jobs, `earlier`.

    Raises:
        OSError: the folder cannot be written.
    """
    print(matching_table(jobs, solved, match))
    own = {job.id: {"job": job.label, **_plain(solved[job.id])} for job in jobs}
    atomic.write_json(folder.path / FILE, {"match": match, "jobs": {**earlier, **own}})


def matching_table(jobs: Sequence[Job], solved: Mapping[str, Solved], match: str) -> str:
    """A line for each job, those that differ by their seed alone together."""
    rows: dict[tuple[str, ...], int] = {}
    for job in jobs:
        found = solved[job.id]
        label = job.configuration or "all jobs"
        setting = f"{found.knob}={found.value}" if found.knob else "as it is"
        budget = "not known" if found.budget is None else f"{found.budget:,.0f}"
        difference = "" if found.difference is None else f"{found.difference:+.2%}"
        row = (label, setting, budget, difference)
        rows[row] = rows.get(row, 0) + 1
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        f"  {row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]:>{widths[3]}}  "
        f"{plural(count, 'job')}"
        for row, count in rows.items()
    ]
    return "\n".join([f"matched on {match.replace('_', ' ')}", *lines])


def _plain(solved: Solved) -> dict[str, Any]:
    return {**asdict(solved), "overrides": list(solved.overrides), "difference": solved.difference}
