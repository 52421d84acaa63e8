"""What a run cost: trainable parameters, steps, tokens, time and memory; and whether configurations cost the same."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from tunelab.report.formatting import count_text, plural
from tunelab.report.reading import Run

_ALIKE = 0.01  # budgets that differ by less, relative, are equal


@dataclass(frozen=True, slots=True)
class Budget:
    """What a run took; None where the folder does not say. Tokens are those of training, prompts included.

    `train_tokens`: steps · examples a step · mean length. `peak_memory_gib`: of the device, on a CPU of the process.
    """

    trainable_parameters: float | None
    steps: float | None
    train_tokens: float | None
    train_seconds: float | None
    peak_memory_gib: float | None


BUDGETS = {"trainable_parameters": "trainable parameters", "steps": "steps", "train_tokens": "training tokens"}


def budget_of(run: Run, peak_memory_gib: float | None) -> Budget:
    """What one run took. The time is that of its last start, where it was resumed."""
    facts: Mapping[str, Any] = run.facts
    steps, batch, length = facts.get("num_steps"), run.config.get("data.batch_size"), _mean_length(run.folder)
    tokens = steps * batch * length if steps and batch and length else None
    seconds = facts.get("times_seconds", {}).get("train")
    return Budget(facts.get("num_trainable_parameters"), steps, tokens, seconds, peak_memory_gib)


def mean_budget(budgets: Sequence[Budget]) -> Budget:
    """The mean over the runs that say."""
    rows = [asdict(budget) for budget in budgets]
    columns = {name: [row[name] for row in rows if row[name] is not None] for name in rows[0]}
    return Budget(**{name: fmean(values) if values else None for name, values in columns.items()})


def unequal_budgets(budgets: Sequence[Budget], matched: str | None = None) -> list[str]:
    """What the configurations differ in by more than one per cent: `trainable parameters: 9,216 to 36,864`.

    `matched`: the field that was matched in all of them, whose rest `matched_budgets` says.
    """
    found: list[str] = []
    for field, name in BUDGETS.items():
        if field == matched:
            continue
        values = [value for budget in budgets if (value := getattr(budget, field)) is not None]
        if values and max(values) - min(values) > _ALIKE * max(values):
            factor = f", {max(values) / min(values):.3g} times" if min(values) > 0 else ""
            found.append(f"{name} {count_text(min(values))} to {count_text(max(values))}{factor}")
    return found


def matched_field(runs: Sequence[Run]) -> str | None:
    """The field of a budget that `sweep.match` solved for every run; None where a method had nothing to set."""
    names = {run.matching.get("match") if run.matching.get("knob") or _is_alike(run) else None for run in runs}
    name = str(names.pop()) if len(names) == 1 else "none"
    return {"trainable_parameters": "trainable_parameters", "tokens": "train_tokens"}.get(name)


def _is_alike(run: Run) -> bool:
    gap = run.matching.get("difference")
    return gap is not None and abs(gap) <= _ALIKE


def matched_budgets(runs: Sequence[Run]) -> str | None:
    """`matched on trainable parameters to within 2.90%`, where the sweep of all runs solved them (`sweep.match`)."""
    names = {run.matching.get("match") for run in runs}
    if len(names) != 1 or None in names:
        return None
    gaps = [(run.matching.get("difference"), run.matching.get("knob")) for run in runs]
    solved = [abs(gap) for gap, knob in gaps if gap is not None and (knob or abs(gap) <= _ALIKE)]
    left = len(runs) - len(solved)
    within = f" to within {max(solved):.2%}" if solved else ""
    others = f", save {plural(left, 'run')} of methods with nothing to set" if left else ""
    return f"matched on {str(names.pop()).replace('_', ' ')}{within}{others}"


def budget_note(unequal: Sequence[str], matched: str | None) -> str | None:
    """For under the table: how far budgets were matched, and what is unequal all the same."""
    said = [f"budgets are not equal: {'; '.join(unequal)}"] if unequal else []
    return "; ".join([*([matched] if matched else []), *said]) or None


def _mean_length(folder: Path) -> float | None:
    """Tokens of a training example, from data_report.json."""
    try:
        report: Any = json.loads((folder / "data_report.json").read_text(encoding="utf-8"))
        return float(report["splits"]["train"]["mean_length_tokens"])
    except (OSError, ValueError, TypeError, KeyError):
        return None
