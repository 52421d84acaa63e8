"""The blind rating sheet: which of two completions is better, without saying who wrote them."""

import csv
import hashlib
import io
import random
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from importlib import resources
from typing import Any

from tunelab.escaping import shorten, spreadsheet_text
from tunelab.html import page_environment, script
from tunelab.review.predictions import MAX_CHARACTERS, Reviewed

COLUMNS = ("sheet", "item", "choice", "comment", "rater")


class Pick(StrEnum):
    """What a rater says of an item."""

    LEFT = "left"
    RIGHT = "right"
    TIE = "tie"


@dataclass(frozen=True, slots=True)
class KeyItem:
    """Who wrote what: `left` and `right` are models; `id` is the origin of the row."""

    id: str
    left: str
    right: str


@dataclass(frozen=True, slots=True)
class SheetKey:
    """What raters must not see. `num_alike`: examples drawn with them for which both wrote the same: ties."""

    sheet: str
    models: tuple[str, str]
    num_alike: int
    seed: int
    items: dict[str, KeyItem]

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON can hold them."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class SheetItem:
    """What raters see of an example."""

    item: str
    prompt: str
    reference: str
    left: str
    right: str


def make_sheet(
    models: Sequence[str], examples: Sequence[Reviewed], num_items: int, seed: int | None = None
) -> tuple[SheetKey, list[SheetItem]]:
    """Draw up to `num_items` examples that two models completed differently, in random order and on random sides.

    Each model stands on the left of half of them. Without a `seed` the system draws one, which the key keeps.

    Raises ValueError where there are not two models, or they wrote the same for every example.
    """
    first, second = models
    seed = secrets.randbits(32) if seed is None else seed
    generator = random.Random(seed)
    drawn, num_alike = _draw(examples, num_items, generator)
    if not drawn:
        raise ValueError(f"expected completions to choose between, found the same for all {len(examples)} examples")
    sides = [index % 2 for index in range(len(drawn))]
    generator.shuffle(sides)
    width = len(str(len(drawn)))
    key_items: dict[str, KeyItem] = {}
    items: list[SheetItem] = []
    for number, (example, side) in enumerate(zip(drawn, sides, strict=True), start=1):
        left, right = (second, first) if side else (first, second)
        texts = (example.written[left].completion, example.written[right].completion)
        items.append(SheetItem(f"{number:0{width}}", example.prompt, example.reference, *texts))
        key_items[items[-1].item] = KeyItem(example.id, left, right)
    return SheetKey(_digest(items), (first, second), num_alike, seed, key_items), items


def _draw(examples: Sequence[Reviewed], num_items: int, generator: random.Random) -> tuple[list[Reviewed], int]:
    """Examples in random order until `num_items` differ: those, and how many were alike before the last of them."""
    drawn: list[Reviewed] = []
    num_alike = 0
    for example in generator.sample(examples, len(examples)):
        if example.are_alike:
            num_alike += 1
        else:
            drawn.append(example)
            if len(drawn) == num_items:
                break
    return drawn, num_alike


def sheet_csv(key: SheetKey, items: Sequence[SheetItem]) -> str:
    """The sheet for a spreadsheet program: raters fill in `choice` (left, right, tie) and their name."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([*COLUMNS, "prompt", "reference", "left", "right"])
    for item in items:
        texts = [
            spreadsheet_text(shorten(each, MAX_CHARACTERS), "\n\t")
            for each in (item.prompt, item.reference, item.left, item.right)
        ]
        writer.writerow([key.sheet, item.item, "", "", "", *texts])
    return text.getvalue()


def sheet_page(key: SheetKey, items: Sequence[SheetItem]) -> str:
    """The sheet as one HTML page that keeps the choices in the browser and saves them as a CSV file."""
    element, policy = script(resources.files("tunelab.review").joinpath("html/sheet.js").read_text("utf-8"))
    template = page_environment("tunelab.review", MAX_CHARACTERS).get_template("sheet.html.jinja")
    return template.render(sheet=key.sheet, items=items, choices=list(Pick), script=element, policy=policy)


def _digest(items: Sequence[SheetItem]) -> str:
    return hashlib.sha256(repr(items).encode("utf-8", "backslashreplace")).hexdigest()[:12]
