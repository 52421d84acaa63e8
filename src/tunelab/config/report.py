"""What a report is over, and what it shows."""

from dataclasses import dataclass, field

from tunelab.config.section import Section, require
from tunelab.errors import ConfigError


@dataclass(kw_only=True)
class ReportConfig(Section):
    """What `tunelab report` reads and where it writes."""

    runs: list[str] = field(default_factory=list[str])  # a sweep, runs, or folders that hold runs
    to: str | None = None  # the folder of the report; null: report, in the one folder that holds the runs
    metrics: list[str] = field(default_factory=list[str])  # as in summary.json; the first decides; empty: the usual
    lower_is_better: list[str] = field(default_factory=list[str])  # of metrics that are not tunelab's own
    reference: str | None = None  # the row to compare with: label, run or key=value,…; null: a sweep's base, if any
    noise: str | None = None  # a noise study (its folder, or noise.json); null: the one beside the runs
    figures: bool = True  # draw them: on the page, and as PNG and PDF

    def __post_init__(self) -> None:
        if not self.runs:
            raise ConfigError(
                "runs: expected a sweep or run folders, found none; python -m tunelab report <folder> [<folder> …]."
            )
        require(len(set(self.metrics)) == len(self.metrics), "metrics", "each once", self.metrics)
