"""What people are shown of completions, and where their ratings are."""

from dataclasses import dataclass, field

from tunelab.config.roots import Split
from tunelab.config.section import MISSING, Section, require
from tunelab.errors import ConfigError


@dataclass(kw_only=True)
class PredictionsConfig(Section):
    """Where the completions are that an evaluation wrote."""

    run: str | None = None  # a run or evaluation folder with predictions
    split: str = Split.test.value  # with `run`: whose predictions; a split, or the name of an extra set
    predictions: list[str] = field(default_factory=list[str])  # predictions.jsonl files, instead of `run`
    models: list[str] = field(default_factory=list[str])  # which, and in this order; empty: all

    def __post_init__(self) -> None:
        if (self.run is None) == (not self.predictions):
            found = "neither" if self.run is None else "both"
            raise ConfigError(
                f"run: expected a run folder or predictions, found {found}; set run=<run folder> or "
                "predictions=[<file>,<file>]."
            )


@dataclass(kw_only=True)
class ReviewConfig(PredictionsConfig):
    """What `tunelab review` shows: completions side by side, the later models against the first."""

    max_examples: int = 1000  # of the page, those that fell most
    sheet: bool = True  # a blind rating sheet too, where there are two models
    num_items: int = 100  # of the sheet, drawn at random
    seed: int | None = None  # of the draw and the sides; null: the system's own randomness, kept in the key
    to: str | None = None  # a new folder; null: review, review-2, … in the folder of the (first) predictions

    def __post_init__(self) -> None:
        PredictionsConfig.__post_init__(self)
        require(self.max_examples >= 1, "max_examples", "at least 1", self.max_examples)
        require(self.num_items >= 1, "num_items", "at least 1", self.num_items)


@dataclass(kw_only=True)
class RatingsConfig(Section):
    """What `tunelab ratings` reads: the key of a sheet, and the sheets that came back."""

    key: str = MISSING  # rating_key.json of `tunelab review`
    sheets: list[str] = field(default_factory=list[str])  # CSV files, or folders of them

    def __post_init__(self) -> None:
        require(bool(self.sheets), "sheets", "one or more CSV files or folders", self.sheets)
