"""The embedded data set `tickets`: a customer's message to a shop becomes a one-line JSON record.

`python -m tunelab.assets.tickets --out FOLDER` writes the three splits again, byte for byte.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tunelab.assets import values
from tunelab.assets.phrasing import (
    CATEGORIES,
    CLOSINGS,
    DISTRACTORS,
    FACTS,
    GREETINGS,
    INTRODUCTIONS,
    PROBLEMS,
    SIGNATURES,
    expand,
)  # fmt: skip
from tunelab.assets.values import Amount, Date, Pool

SPLIT_SIZES = {Pool.TRAIN: 3000, Pool.VALIDATION: 300, Pool.TEST: 300}
MISSING_RATES = {"customer": 0.06, "order": 0.08, "product": 0.05, "date": 0.1, "amount": 0.12}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """What a message says; None where it does not say."""

    customer: str | None
    order: str | None
    product: str | None
    date: Date | None
    amount: Amount | None
    category: str

    def record(self) -> str:
        """The reference response: one line of JSON."""
        fields = {
            "customer": self.customer,
            "order": self.order,
            "product": self.product,
            "date": self.date and self.date.iso,
            "amount": self.amount and self.amount.plain,
            "category": self.category,
        }
        return json.dumps(fields, ensure_ascii=False)


def draw_ticket(rng: Random, pool: Pool) -> Ticket:
    """Draw the facts of one message; every value belongs to `pool`."""

    def told(field: str) -> bool:
        return rng.random() >= MISSING_RATES[field]

    return Ticket(
        customer=values.name(rng, pool) if told("customer") else None,
        order=values.order(rng, pool) if told("order") else None,
        product=values.product(rng, pool) if told("product") else None,
        date=values.date(rng, pool) if told("date") else None,
        amount=values.amount(rng, pool) if told("amount") else None,
        category=rng.choice(CATEGORIES),
    )


def write_date(rng: Random, date: Date) -> str:
    """Write a date as a customer would."""
    return date.written(rng.randrange(values.NUM_DATE_FORMS))


def write_amount(rng: Random, amount: Amount) -> str:
    """Write a sum as a customer would."""
    return amount.written(rng.randrange(values.NUM_AMOUNT_FORMS))


def _distractor_values(rng: Random, pool: Pool) -> dict[str, str]:
    return {
        "other_date": write_date(rng, values.date(rng, pool)),
        "other_name": values.name(rng, pool),
        "other_amount": write_amount(rng, values.amount(rng, pool)),
        "code": values.digits(rng, 8),
        "tail": values.digits(rng, 3),
    }


def _fact_sentences(rng: Random, slots: dict[str, str]) -> list[str]:
    """Group the told facts at random into sentences that have room for them."""
    left = [field for field in ("amount", "date", "order", "product") if field in slots]
    sentences: list[str] = []
    while left:
        size = rng.choice([1, 1, 2, 2, 2, 3, 4][: 2 * len(left) - 1])
        group = tuple(sorted(rng.sample(left, min(size, len(left)))))
        sentences.append(rng.choice(FACTS[group]))
        left = [field for field in left if field not in group]
    rng.shuffle(sentences)
    return sentences


def write_message(rng: Random, ticket: Ticket, pool: Pool) -> str:
    """Say the facts of a ticket in the words of a customer."""
    slots: dict[str, str] = {
        field: value for field in ("customer", "order", "product") if (value := getattr(ticket, field)) is not None
    }
    if ticket.date:
        slots["date"] = write_date(rng, ticket.date)
    if ticket.amount:
        slots["amount"] = write_amount(rng, ticket.amount)
    middle = _fact_sentences(rng, slots)
    middle.insert(rng.randint(0, len(middle)), rng.choice(PROBLEMS[ticket.category]))
    if rng.random() < 0.4:
        middle.insert(rng.randint(0, len(middle)), rng.choice(DISTRACTORS))
    parts = [rng.choice(GREETINGS)] if rng.random() < 0.4 else []
    signed = rng.random() < 0.5
    if ticket.customer and not signed:
        parts.append(rng.choice(INTRODUCTIONS))
    parts += middle
    if rng.random() < 0.25:
        parts.append(rng.choice(CLOSINGS))
    if ticket.customer and signed:
        parts.append(rng.choice(SIGNATURES))
    sentences = [expand(rng, part) for part in parts]
    for i, sentence in enumerate(sentences):
        follows_comma = i > 0 and sentences[i - 1].endswith(",")
        sentences[i] = sentence if follows_comma else sentence[0].upper() + sentence[1:]
    text = " ".join(sentences)
    return text.format_map(slots | _distractor_values(rng, pool))


def rows(pool: Pool, num_rows: int, seed: int = 0) -> Iterator[str]:
    """Yield the JSON lines of one split."""
    rng = Random(f"tickets {pool} {seed}")
    for _ in range(num_rows):
        ticket = draw_ticket(rng, pool)
        messages = [
            {"role": "user", "content": write_message(rng, ticket, pool)},
            {"role": "assistant", "content": ticket.record()},
        ]
        yield json.dumps({"messages": messages}, ensure_ascii=False)


def write_splits(folder: Path) -> None:
    """Write train.jsonl, validation.jsonl and test.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    for pool, num_rows in SPLIT_SIZES.items():
        lines = "".join(f"{row}\n" for row in rows(pool, num_rows))
        (folder / f"{pool}.jsonl").write_text(lines, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "tickets")
    write_splits(parser.parse_args().out)
