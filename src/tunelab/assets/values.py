"""Values of the ticket domain (names, order numbers, products, dates, amounts), each in exactly one pool."""

import calendar
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from random import Random


class Pool(StrEnum):
    """Who may use a value: a split of `tickets`. The pretraining corpus draws from TRAIN only."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


NUM_BUCKETS = 10
BUCKETS = {0: Pool.VALIDATION, 1: Pool.TEST}


def pool_of(value: str) -> Pool:
    """Assign a value to its pool by a hash of its text, so pools are disjoint by construction."""
    digest = blake2b(value.encode(), digest_size=4).digest()
    return BUCKETS.get(int.from_bytes(digest) % NUM_BUCKETS, Pool.TRAIN)


def _draw(rng: Random, pool: Pool, make: Callable[[Random], str], least: int = 1) -> str:
    """Make values until one has at least `least` characters and belongs to `pool`."""
    while len(value := make(rng)) < least or pool_of(value) is not pool:
        pass
    return value


ONSETS = [
    "b", "br", "c", "d", "d", "f", "g", "h", "j", "k", "l", "l", "m", "m", "n", "n", "p", "r", "r", "s",
    "s", "st", "t", "t", "v", "w", "z",
]  # fmt: skip
VOWELS = [
    "a", "a", "a", "e", "e", "e", "i", "i", "o", "o", "u",
]  # fmt: skip
CODAS = ["", "", "", "", "", "", "l", "n", "n", "r", "r", "s"]
FIRST_ENDINGS = [
    "a", "a", "an", "as", "el", "en", "ia", "in", "is", "o", "on", "ra", "us",
]  # fmt: skip
LAST_ENDINGS = [
    "berg", "by", "dale", "er", "field", "man", "ov", "sen", "ski", "son", "stad", "ton", "well",
]  # fmt: skip
MIN_NAME_LENGTH = 4  # a shorter one could be an English word, such as `Can`
ACCENTS = {"a": "á", "e": "é", "i": "í", "o": "ö", "u": "ü", "s": "š"}


def _syllable(rng: Random) -> str:
    return rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(CODAS)


def _word(rng: Random, endings: list[str]) -> str:
    stem = "".join(_syllable(rng) for _ in range(rng.choice((1, 2, 2))))
    ending = rng.choice(endings)
    stem = (stem.rstrip("aeiou") if ending[0] in "aeiou" else stem) + ending
    if rng.random() < 0.05:
        letter = rng.choice(sorted(ACCENTS))
        stem = stem.replace(letter, ACCENTS[letter], 1)
    return stem.capitalize()


def name(rng: Random, pool: Pool) -> str:
    """An invented person's name; the first and the last name belong to the pool each for itself."""
    first = _draw(rng, pool, lambda r: _word(r, FIRST_ENDINGS), MIN_NAME_LENGTH)
    last = _draw(rng, pool, lambda r: _word(r, LAST_ENDINGS), MIN_NAME_LENGTH)
    return f"{first} {last}"


LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"


def digits(rng: Random, count: int) -> str:
    """A string of random digits that does not begin with 0."""
    return str(rng.randrange(10 ** (count - 1), 10**count))


def _order(rng: Random) -> str:
    form = rng.randrange(4)
    if form == 0:
        return f"{rng.choice(LETTERS)}{rng.choice(LETTERS)}-{digits(rng, 5)}"
    if form == 1:
        return f"{rng.choice(LETTERS)}{digits(rng, 5)}"
    if form == 2:
        return f"{digits(rng, 4)}-{digits(rng, 3)}"
    return digits(rng, 6)


def order(rng: Random, pool: Pool) -> str:
    """An order number in one of four forms, such as `KT-48213` or `482137`."""
    return _draw(rng, pool, _order)


KINDS = [
    "Walnut", "Oak", "Birch", "Steel", "Copper", "Ceramic", "Glass", "Linen", "Cotton", "Wool",
    "Leather", "Bamboo", "Folding", "Compact", "Classic", "Deluxe", "Travel", "Garden", "Kitchen",
    "Office", "Electric", "Wireless", "Digital", "Solar", "Mini", "Nordic", "Royal", "Silent", "Smart",
    "Vintage",
]  # fmt: skip
THINGS = [
    "Lamp", "Kettle", "Backpack", "Blanket", "Bookshelf", "Camera", "Chair", "Clock", "Coffee Grinder",
    "Desk", "Fan", "Frying Pan", "Hair Dryer", "Headphones", "Heater", "Jacket", "Keyboard",
    "Knife Set", "Mattress", "Microscope", "Mirror", "Monitor", "Mug", "Notebook", "Pillow", "Printer",
    "Radio", "Rug", "Scarf", "Speaker", "Stool", "Suitcase", "Table", "Tea Pot", "Tent", "Toaster",
    "Umbrella", "Vacuum Cleaner", "Vase", "Wallet", "Watch", "Water Bottle",
]  # fmt: skip


def product(rng: Random, pool: Pool) -> str:
    """A catalogue product such as `Walnut Desk`; the combination belongs to the pool."""
    return _draw(rng, pool, lambda r: f"{r.choice(KINDS)} {r.choice(THINGS)}")


MONTHS = tuple(calendar.month_name)[1:]
YEARS = range(2018, 2027)


@dataclass(frozen=True, slots=True)
class Date:
    """A calendar day and its written forms."""

    year: int
    month: int
    day: int

    @property
    def iso(self) -> str:
        """The form of the record: `2024-03-14`."""
        return f"{self.year}-{self.month:02}-{self.day:02}"

    def written(self, form: int) -> str:
        """One of `NUM_DATE_FORMS` forms a person writes."""
        name, day, year = MONTHS[self.month - 1], self.day, self.year
        suffix = "th" if 10 < day < 20 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
        return (
            f"{day} {name} {year}",
            f"{name} {day}, {year}",
            f"{day:02}.{self.month:02}.{year}",
            f"the {day}{suffix} of {name} {year}",
            f"{day} {name[:3]} {year}",
            f"{name} {day}{suffix}, {year}",
            self.iso,
        )[form]


NUM_DATE_FORMS = 7


def date(rng: Random, pool: Pool) -> Date:
    """A day between 2018 and 2026."""
    while True:
        year, month = rng.choice(YEARS), rng.randint(1, 12)
        found = Date(year, month, rng.randint(1, calendar.monthrange(year, month)[1]))
        if pool_of(found.iso) is pool:
            return found


CURRENCIES = {"EUR": ("€", "euros"), "USD": ("$", "dollars"), "GBP": ("£", "pounds")}


@dataclass(frozen=True, slots=True)
class Amount:
    """A sum of money and its written forms."""

    number: str
    currency: str

    @property
    def plain(self) -> str:
        """The form of the record: `149.90 EUR`."""
        return f"{self.number} {self.currency}"

    def written(self, form: int) -> str:
        """One of `NUM_AMOUNT_FORMS` forms a person writes; whole sums may lose their `.00`."""
        sign, word = CURRENCIES[self.currency]
        number, code = self.number.removesuffix(".00"), self.currency
        return (f"{sign}{number}", f"{number} {word}", f"{number} {code}", f"{code} {number}")[form]


NUM_AMOUNT_FORMS = 4


def _number(rng: Random) -> str:
    cents = rng.choice((0, 50, 90, 95, 99, rng.randrange(100), rng.randrange(100), rng.randrange(100)))
    return f"{rng.randrange(5, 1000)}.{cents:02}"


def amount(rng: Random, pool: Pool) -> Amount:
    """A sum between 5.00 and 999.99 in one of three currencies; the number belongs to the pool."""
    return Amount(_draw(rng, pool, _number), rng.choice(tuple(CURRENCIES)))
