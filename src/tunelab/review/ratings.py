"""Reads filled-in rating sheets, opens the key, and says which model was preferred and how far raters agree."""

import csv
import io
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tunelab.errors import DataError
from tunelab.evaluation.preferences import Preference, krippendorff_alpha, preference
from tunelab.evaluation.statistics import Interval, wilson_interval
from tunelab.review.sheets import COLUMNS, KeyItem, Pick, SheetKey

_DELIMITERS = (",", ";", "\t")  # which one a spreadsheet program writes depends on the country


@dataclass(frozen=True, slots=True)
class Rating:
    """What one rater chose for one item."""

    rater: str
    item: str
    choice: Pick


@dataclass(frozen=True, slots=True)
class RatingsReport:
    """What all ratings say together. `preference` is of the second model of `models` against the first.

    An item with several ratings counts once, for the model that more raters chose, or as a tie; examples for which both
    models wrote the same are ties too, as many as belong to the items that were rated. `agreement`: Krippendorff's
    alpha; `share_agreed`: pairs of ratings of one item that are equal. `left_rate`: how often the left side was chosen
    of those that are no ties, with its interval; far from half means that places, not answers, were rated.
    """

    models: tuple[str, str]
    raters: dict[str, int]  # ratings of each
    num_rated: int
    num_unrated: int
    num_alike: int
    preference: Preference
    by_rater: dict[str, Preference]
    agreement: float | None
    share_agreed: float | None
    left_rate: float | None
    left_interval: Interval | None

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON can hold them."""
        return asdict(self)


def read_key(path: Path) -> SheetKey:
    """The key of a sheet.

    Raises:
        DataError: there is none, or it is damaged.
    """
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        items = {str(name): KeyItem(**item) for name, item in fields["items"].items()}
        first, second = fields["models"]
        return SheetKey(str(fields["sheet"]), (first, second), int(fields["num_alike"]), int(fields["seed"]), items)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(
            f"key: expected the rating_key.json that `tunelab review` wrote, found none that can be read in "
            f"{str(path)!r}; set key=<file>."
        ) from error


def read_ratings(paths: Sequence[Path], key: SheetKey) -> list[Rating]:
    """The ratings of all `paths`; rows without a choice are passed over.

    A rater without a name is named after the file, with its folder where two files have one name.

    Raises:
        DataError: a file cannot be read, is of another sheet, or holds an unknown item or choice, or two different
            choices of one rater for one item.
    """
    found: dict[tuple[str, str], Rating] = {}
    stems = Counter(path.stem for path in paths)
    for path in paths:
        nameless = path.stem if stems[path.stem] == 1 else str(path)  # sheet.csv comes back under its own name
        for number, row in _rows(path):
            rating = _rating(row | {"rater": row["rater"] or nameless}, key, path, number)
            if rating is None:
                continue
            place = (rating.rater, rating.item)
            if found.setdefault(place, rating) != rating:
                raise DataError(
                    f"{path}:{number}: expected one choice of {rating.rater!r} for item {rating.item}, found a second "
                    "that differs; remove one of them."
                )
    if not found:
        raise DataError(f"sheets: expected ratings, found none in {', '.join(map(str, paths))}; fill in `choice`.")
    return list(found.values())


def summarise(ratings: Sequence[Rating], key: SheetKey) -> RatingsReport:
    """Open the key and count."""
    by_item: dict[str, dict[str, str]] = defaultdict(dict)
    by_rater: dict[str, list[int]] = defaultdict(list)
    for rating in ratings:
        by_item[rating.item][rating.rater] = rating.choice.value
        by_rater[rating.rater].append(_sign(rating, key))
    signs = defaultdict[str, int](int)
    for rating in ratings:
        signs[rating.item] += _sign(rating, key)
    sides = [rating.choice for rating in ratings if rating.choice is not Pick.TIE]
    num_left = sides.count(Pick.LEFT)
    return RatingsReport(
        models=key.models,
        raters={rater: len(found) for rater, found in by_rater.items()},
        num_rated=len(by_item),
        num_unrated=len(key.items) - len(by_item),
        num_alike=key.num_alike,
        preference=_preference(list(signs.values()), key),
        by_rater={rater: _preference(found, key) for rater, found in by_rater.items()},
        agreement=krippendorff_alpha(list(by_item.values())),
        share_agreed=_share_agreed([list(each.values()) for each in by_item.values()]),
        left_rate=num_left / len(sides) if sides else None,
        left_interval=wilson_interval(num_left, len(sides)) if sides else None,
    )


def _sign(rating: Rating, key: SheetKey) -> int:
    """1 where the second model was chosen, -1 where the first was, 0 for a tie."""
    if rating.choice is Pick.TIE:
        return 0
    item = key.items[rating.item]
    return 1 if (item.left if rating.choice is Pick.LEFT else item.right) == key.models[1] else -1


def _preference(signs: Sequence[int], key: SheetKey) -> Preference:
    """Of the items that were rated, with the share of those alike that belongs to them."""
    wins, losses = sum(sign > 0 for sign in signs), sum(sign < 0 for sign in signs)
    num_alike = round(key.num_alike * len(signs) / len(key.items))
    return preference(wins, losses, len(signs) - wins - losses + num_alike)


def _share_agreed(items: Sequence[Sequence[str]]) -> float | None:
    pairs = [a == b for item in items for place, a in enumerate(item) for b in item[place + 1 :]]
    return sum(pairs) / len(pairs) if pairs else None


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"sheets: expected a CSV file in UTF-8, found none in {str(path)!r}; save it so.") from error
    header = text.partition("\n")[0]
    delimiter = max(_DELIMITERS, key=header.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    missing = [name for name in COLUMNS[:3] if name not in (reader.fieldnames or ())]
    if missing:
        raise DataError(
            f"{path}: expected the columns {', '.join(COLUMNS)}, found no {missing[0]!r}; fill in the sheet that "
            "`tunelab review` wrote."
        )
    try:
        for row in reader:
            yield reader.line_num, {name: (row.get(name) or "").strip() for name in COLUMNS}
    except csv.Error as error:
        raise DataError(
            f"{path}:{reader.line_num}: expected a row of CSV, found another ({error}); mend it."
        ) from error


def _rating(row: dict[str, str], key: SheetKey, path: Path, number: int) -> Rating | None:
    if not row["choice"]:
        return None
    if row["sheet"] != key.sheet:
        raise DataError(
            f"{path}:{number}: expected ratings of sheet {key.sheet}, found {row['sheet']!r}; use its own key."
        )
    # A spreadsheet program takes the zeros from the front of numbers.
    names = {name.lstrip("0"): name for name in key.items}
    item = names.get(row["item"].lstrip("0"))
    if item is None:
        raise DataError(f"{path}:{number}: expected an item of the sheet, found {row['item']!r}; put the number back.")
    try:
        choice = Pick(row["choice"].lower())
    except ValueError as error:
        raise DataError(
            f"{path}:{number}: expected {', '.join(Pick)} or nothing as choice, found {row['choice']!r}; mend it."
        ) from error
    return Rating(row["rater"], item, choice)
