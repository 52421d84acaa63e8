"""Says which models may have been trained on what they are measured on, as far as their run folders tell."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tunelab.config import to_plain
from tunelab.contenders import Contender
from tunelab.data.preparing import DataReport

HELD_OUT = ("validation_path", "test_path")


def contamination(contenders: Sequence[Contender], split: str, report: DataReport) -> dict[str, str]:
    """Name of a model → why rows of `split` may have been among its training rows.

    `report` is that of the data measured on. Files are compared by their SHA-256. Rows are divided by their content, so
    a run that read the same files into splits of the same sizes has divided them alike, and raises no doubt; nor does
    one of which nothing is recorded.
    """
    own: dict[str, Any] = to_plain(contenders[0].subject.run.data)
    paths: dict[str, str | None] = {key: own[key] for key in HELD_OUT}
    measured = _digests(report.to_dict(), paths, paths[f"{split}_path"])
    found: dict[str, str] = {}
    for contender in contenders:
        folder = contender.place.parent
        its_report, its_paths = _read_json(folder / "data_report.json"), _read_paths(folder / "config.yaml")
        if not its_report or its_paths is None or _are_divided_alike(its_report, report.to_dict()):
            continue
        shared = sorted(measured.keys() & _digests(its_report, its_paths, None).keys())
        if shared:
            files = ", ".join(measured[digest] for digest in shared)
            found[contender.name] = (
                f"{contender.name}: was trained on rows of {files}, divided otherwise than here; it may have learned "
                f"examples of the {split} split"
            )
    return found


def _digests(report: Mapping[str, Any], paths: Mapping[str, str | None], only: str | None) -> dict[str, str]:
    """SHA-256 → name of the files of the source `only`; without it of all sources but those held out by `paths`."""
    return {
        digest: file
        for source in report["sources"]
        if (source["name"] == only if only else source["name"] not in paths.values())
        for file, digest in source["sha256"].items()
    }


def _are_divided_alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    first, second = (
        (
            sorted(digest for source in report["sources"] for digest in source["sha256"].values()),
            {name: split["num_rows"] for name, split in report["splits"].items()},
        )
        for report in (one, other)
    )
    return first == second


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
        return found if isinstance(found, dict) and {"sources", "splits"} <= found.keys() else {}
    except (OSError, ValueError):
        return {}


def _read_paths(path: Path) -> dict[str, str | None] | None:
    """Of a run's configuration the files that it held out; None where it cannot be read."""
    try:
        data: Any = yaml.safe_load(path.read_text(encoding="utf-8"))["data"]
        return {key: data[key] for key in HELD_OUT}
    except (OSError, yaml.YAMLError, KeyError, TypeError, UnicodeDecodeError):
        return None
