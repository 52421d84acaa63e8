"""`tunelab review` and `tunelab ratings`: from predictions to pages, and from filled-in sheets to a win rate."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tunelab import atomic
from tunelab.audit import refuse_unread_keys
from tunelab.config import RatingsConfig, ReviewConfig, Split, mark_read
from tunelab.errors import ConfigError
from tunelab.escaping import printable
from tunelab.evaluation.preferences import Preference
from tunelab.folders import complete_folder, free_name
from tunelab.review.pages import comparison_page
from tunelab.review.predictions import open_predictions
from tunelab.review.ratings import RatingsReport, read_key, read_ratings, summarise
from tunelab.review.sheets import make_sheet, sheet_csv, sheet_page
from tunelab.terminal import RunConsole

PAGE, KEY, SHEETS = "comparison.html", "rating_key.json", "rating"


def review(config: ReviewConfig, overrides: Sequence[str]) -> None:
    """Write the comparison page and, for two models, a blind sheet with its key, into a new folder.

    Raises:
        TunelabError: the predictions cannot be used, or the folder cannot be made.
    """
    found = open_predictions(config)
    models, examples = found.models, found.examples
    page = comparison_page(", ".join(models), models, examples, config.max_examples)
    differ = not all(example.are_alike for example in examples)
    key, items = None, []
    if config.sheet and len(models) == 2:
        mark_read(config, "num_items", "seed")  # also where nothing differs
        key, items = make_sheet(models, examples, config.num_items, config.seed) if differ else (None, [])
    folder = Path(config.to) if config.to else free_name(found.folder / "review")
    refuse_unread_keys(config, overrides)
    with complete_folder(folder) as staging:
        atomic.write_text(staging / PAGE, page)
        if key is not None:
            (staging / SHEETS).mkdir()
            atomic.write_text(staging / SHEETS / "sheet.html", sheet_page(key, items))
            atomic.write_text(staging / SHEETS / "sheet.csv", sheet_csv(key, items))
            atomic.write_json(staging / KEY, key.to_dict())
    lines = [*found.said, f"page         {folder / PAGE}"]
    if key is not None:
        lines += [
            f"sheet        {folder / SHEETS} (for raters)",
            f"key          {folder / KEY} (not for raters)",
            f"next         python -m tunelab ratings key={folder / KEY} 'sheets=[<file>,<file>]'",
        ]
    elif config.sheet:
        lines += [
            f"sheet        none, {_why_none(config, models) if differ else 'the models wrote the same everywhere'}"
        ]
    RunConsole().print("\n".join(lines), soft_wrap=True)


def _why_none(config: ReviewConfig, models: Sequence[str]) -> str:
    chosen = f"'models=[{models[0]},{models[-1]}]'"
    split = "" if config.split == Split.test.value else f" split={config.split}"
    command = f"python -m tunelab review run={config.run}{split} {chosen}"
    return f"it is for two models: {command if config.run else f'set {chosen}'}"


def rate(config: RatingsConfig) -> None:
    """Print what the sheets say, and write it beside the key as ratings.json.

    Raises:
        TunelabError: the key or a sheet cannot be used.
    """
    key = read_key(Path(config.key))
    report = summarise(read_ratings(_sheets(config.sheets), key), key)
    path = Path(config.key).with_name("ratings.json")
    atomic.write_json(path, report.to_dict())
    console = RunConsole()
    console.print(_table(report))
    console.print(f"ratings      {path}", soft_wrap=True)


def _sheets(names: Sequence[str]) -> list[Path]:
    paths: list[Path] = []
    for name in names:
        path = Path(name)
        found = sorted(path.glob("*.csv")) if path.is_dir() else [path]
        if not found:
            raise ConfigError(f"sheets: expected CSV files, found none in {name!r}; set sheets=[<file>,<file>].")
        paths += found
    return paths


def _table(report: RatingsReport) -> RenderableType:
    first, second = map(printable, report.models)
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("raters", f"{second} better", f"{first} better", "tie", f"win rate of {second}", "p", "verdict"):
        table.add_column(name, justify="left" if name in ("raters", "verdict") else "right")
    rows = report.by_rater if len(report.by_rater) > 1 else {}
    for name, found in [*rows.items(), ("all", report.preference)]:
        table.add_row(printable(name), *_cells(found))
    return Group(table, *(Text(line, style="dim") for line in _remarks(report)))


def _cells(found: Preference) -> list[str]:
    low, high = found.interval
    rate = f"{found.win_rate:.1%} [{low:.1%}, {high:.1%}]"
    return [
        str(found.num_wins),
        str(found.num_losses),
        str(found.num_ties),
        rate,
        f"{found.p_value:.2g}",
        found.verdict.value,
    ]


def _remarks(report: RatingsReport) -> list[str]:
    lines = [
        f"{report.num_rated:,} items rated, {report.num_unrated:,} not; {report.num_alike:,} more were alike and are "
        "ties; ties count half; [95 % interval]; p of the exact sign test"
    ]
    if report.share_agreed is not None:
        alpha = "not defined" if report.agreement is None else f"{report.agreement:.2f}"
        lines.append(f"raters agree in {report.share_agreed:.1%} of pairs; Krippendorff's alpha {alpha}")
    if report.left_interval is not None and not report.left_interval[0] <= 0.5 <= report.left_interval[1]:
        lines.append(
            f"warning: the left side was chosen in {report.left_rate:.1%} of choices: places may have been rated"
        )
    return lines
