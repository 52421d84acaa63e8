"""The pretraining corpus of `tiny`: an endless seeded stream of documents about customer messages.

Most documents are a message followed by its facts told again in several layouts, because a small model
learns to look values up only where many values can be looked up. None is in the chat layout of the task, and
none asks for the task's record. All values come from the TRAIN pool.
"""

from collections.abc import Callable, Iterator
from random import Random
from string import ascii_lowercase

from tunelab.assets import values
from tunelab.assets.phrasing import expand
from tunelab.assets.tickets import Ticket, draw_ticket, write_amount, write_date, write_message
from tunelab.assets.values import MONTHS, Date, Pool

KEYS = {
    "customer": ["Name", "Client", "Buyer", "Writer", "From", "Person", "Customer", "Sender"],
    "order": ["Number", "Order number", "Reference", "Order", "No", "Ref", "Order id"],
    "product": ["Item", "Article", "Product", "Goods", "Thing"],
    "date": ["Date", "Day", "Bought", "Ordered", "When", "Purchased"],
    "amount": ["Price", "Paid", "Total", "Sum", "Amount", "Cost"],
    "category": ["Topic", "Reason", "Concern", "Wish", "Subject", "Issue", "Category"],
}
"""Names of the facts in notes, tables, questions and objects."""

TOPICS = {
    "refund": ["money back", "refund", "wants to be repaid", "repayment"],
    "delivery": ["late parcel", "delivery", "parcel not arrived", "shipping"],
    "damaged": ["broken on arrival", "damaged", "defect", "faulty item"],
    "billing": ["wrong invoice", "billing", "payment error", "charge"],
    "exchange": ["swap", "exchange", "other size or colour", "trade"],
    "question": ["asks about the product", "question", "needs advice", "information"],
}
MISSING = ["null", "none", "unknown", "not given", "missing"]

Facts = dict[str, str | None]
Layout = Callable[[Random, Facts], str]


def restate(rng: Random, ticket: Ticket) -> Facts:
    """Choose how each fact is written this time; most dates in ISO form, most sums as in the record."""
    date, amount = ticket.date, ticket.amount
    return {
        "customer": ticket.customer,
        "order": ticket.order,
        "product": ticket.product,
        "date": date and (date.iso if rng.random() < 0.75 else write_date(rng, date)),
        "amount": amount and (amount.plain if rng.random() < 0.75 else write_amount(rng, amount)),
        "category": rng.choice(TOPICS[ticket.category]),
    }


def _shuffled(rng: Random, facts: Facts, least: int = 3) -> list[str]:
    fields = rng.sample(sorted(facts), rng.randint(least, len(facts)))
    return fields if rng.random() < 0.6 else [field for field in KEYS if field in fields]


def _key(rng: Random, field: str) -> str:
    return rng.choice(KEYS[field])


def notes(rng: Random, facts: Facts) -> str:
    """`Key: value` lines, or one line with separators."""
    missing, sign = rng.choice(MISSING), rng.choice((": ", ": ", " = ", " - "))
    items = [f"{_key(rng, field)}{sign}{facts[field] or missing}" for field in _shuffled(rng, facts)]
    return rng.choice(("\n", "\n", "; ", ", ", " | ")).join(items)


def json_object(rng: Random, facts: Facts) -> str:
    """A JSON-like object whose keys and order differ from the task's record."""
    lower = rng.random() < 0.8
    items: list[str] = []
    fields = rng.sample(sorted(facts), rng.randint(3, len(facts)))
    for field in fields:
        key = _key(rng, field).replace(" ", "_")
        value = facts[field]
        items.append(f'"{key.lower() if lower else key}": ' + (f'"{value}"' if value else "null"))
    return "{" + ", ".join(items) + "}"


def table(rng: Random, facts: Facts) -> str:
    """A table of one row."""
    missing, fields = rng.choice(MISSING), _shuffled(rng, facts)
    head = " | ".join(_key(rng, field) for field in fields)
    body = " | ".join(facts[field] or missing for field in fields)
    return f"| {head} |\n| {body} |"


def questions(rng: Random, facts: Facts) -> str:
    """Questions and answers."""
    missing = rng.choice(MISSING)
    asked = {
        "customer": ["Who wrote this?", "What is the name?", "Who is the customer?"],
        "order": ["Which order is it?", "What is the order number?", "Which number?"],
        "product": ["What was bought?", "Which product is it?", "What is the item?"],
        "date": ["When was it bought?", "What is the date?", "On which day?"],
        "amount": ["What did it cost?", "How much was paid?", "What is the price?"],
        "category": ["What is it about?", "What does the customer want?", "Why this message?"],
    }
    fields = rng.sample(sorted(facts), rng.randint(2, len(facts)))
    return "\n".join(f"{rng.choice(asked[field])} {facts[field] or missing}" for field in fields)


def tags(rng: Random, facts: Facts) -> str:
    """XML-like elements."""
    missing = rng.choice(MISSING)
    keys = {field: _key(rng, field).lower().replace(" ", "_") for field in _shuffled(rng, facts)}
    return "".join(f"<{key}>{facts[field] or missing}</{key}>" for field, key in keys.items())


def quoted(rng: Random, facts: Facts) -> str:
    """A list of bare or quoted values."""
    missing, mark, sign = rng.choice(MISSING), rng.choice(('"', '"', "'", "")), rng.choice((", ", "; ", "\n"))
    return sign.join(f"{mark}{facts[field] or missing}{mark}" for field in _shuffled(rng, facts))


SENTENCES = {
    "customer": ["The customer is {}.", "{} wrote to us.", "The message is from {}."],
    "order": ["The order number is {}.", "This is order {}.", "It has the number {}."],
    "product": ["The product is the {}.", "The customer bought the {}.", "The item was the {}."],
    "date": ["It was bought on {}.", "The date is {}.", "The order is from {}."],
    "amount": ["The price was {}.", "The customer paid {}.", "It cost {}."],
    "category": ["The topic is {}.", "It is about: {}.", "We file it under {}."],
}


def prose(rng: Random, facts: Facts) -> str:
    """Sentences about the message."""
    told = [field for field in rng.sample(sorted(facts), rng.randint(3, len(facts))) if facts[field]]
    return " ".join(rng.choice(SENTENCES[field]).format(facts[field]) for field in told)


LAYOUTS: list[Layout] = [*[notes] * 2, *[json_object] * 3, table, questions, tags, quoted, prose]


def message_document(rng: Random) -> str:
    """A message and its facts in several layouts."""
    ticket = draw_ticket(rng, Pool.TRAIN)
    parts = [write_message(rng, ticket, Pool.TRAIN)]
    parts += [rng.choice(LAYOUTS)(rng, restate(rng, ticket)) for _ in range(rng.randint(3, 4))]
    return "\n\n".join(part for part in parts if part)


RARE_CHARACTERS = "ABCDEFGHKLMNPRSTXZáéößñç漢字€£$%&/()=?+*#'<>_"


def _any_value(rng: Random) -> str:
    makers: list[Callable[[], str]] = [
        lambda: values.name(rng, Pool.TRAIN),
        lambda: values.order(rng, Pool.TRAIN),
        lambda: values.product(rng, Pool.TRAIN),
        lambda: write_date(rng, values.date(rng, Pool.TRAIN)),
        lambda: write_amount(rng, values.amount(rng, Pool.TRAIN)),
        lambda: values.digits(rng, rng.choice((2, 3, 4, 5, 8, 9))),
        lambda: "".join(rng.choice(ascii_lowercase) for _ in range(rng.randint(3, 7))),
        lambda: "".join(rng.choice(RARE_CHARACTERS) for _ in range(rng.randint(2, 5))),
    ]
    return rng.choice(makers)()


def copy_document(rng: Random) -> str:
    """Plain copying: a list, and the list again; or keys, and the values looked up by key."""
    items = [_any_value(rng) for _ in range(rng.randint(3, 6))]
    if rng.random() < 0.5:
        again = [f'"{item}"' if rng.random() < 0.5 else item for item in items]
        title, second_title = rng.choice(("Copy: ", "List: ", "")), rng.choice(("Again: ", ""))
        return f"{title}{', '.join(items)}\n{second_title}{', '.join(again)}"
    keys = rng.sample(ascii_lowercase, len(items))
    pairs = list(zip(keys, items, strict=True))
    first = ", ".join(f"{key} = {item}" for key, item in pairs)
    rng.shuffle(pairs)
    return first + "\n" + "\n".join(f'{key}: "{item}"' for key, item in pairs)


def date_document(rng: Random) -> str:
    """Days in several written forms, and the numbers of months."""
    if rng.random() < 0.2:
        numbers = rng.sample(range(1, 13), rng.randint(4, 12))
        pairs = [(MONTHS[n - 1], f"{n:02}") for n in numbers]
        return "\n".join(" = ".join(pair if rng.random() < 0.7 else pair[::-1]) for pair in pairs)
    return "\n".join(_date_line(rng, values.date(rng, Pool.TRAIN)) for _ in range(rng.randint(4, 8)))


def _date_line(rng: Random, date: Date) -> str:
    sign = rng.choice((" = ", " -> ", ": ", " is "))
    return f"{write_date(rng, date)}{sign}{date.iso}"


TALK = [
    ("[Hello|Hi|Good morning].", "[Hello|Hi], [how can I help|what can I do for you]?"),
    ("How are you [today|]?", "[Fine|Very well], thank you. [And you?|How are you?]"),
    (
        "Are you open on [Monday|Friday|Sunday]?",
        "[Yes, from nine to six.|No, we are closed then.|Yes, in the morning.]",
    ),
    ("My name is {0}.", "[Nice to meet you|Welcome|Hello], {0}."),
    ("Please say {0}.", "{0}"),
    (
        "Do you sell the {1}?",
        "[Yes, we have the {1}.|No, the {1} is sold out.|The {1} comes back next week.]",
    ),
    ("How do I reach you?", "[By phone or by email.|Write to our team.|Call us in the morning.]"),
    ("[Thanks|Thank you|Many thanks].", "[You are welcome.|With pleasure.|Have a nice day.]"),
    ("[Bye|Goodbye|See you].", "[Goodbye.|Have a nice day.|See you soon.]"),
]


def talk_document(rng: Random) -> str:
    """Small talk in the chat layout, so that the role tokens are trained."""
    slots = (values.name(rng, Pool.TRAIN), values.product(rng, Pool.TRAIN))
    turns: list[str] = []
    for user, assistant in rng.sample(TALK, rng.randint(1, 4)):
        turns.append(f"<|user|>{expand(rng, user).format(*slots)}<|end|>")
        turns.append(f"<|assistant|>{expand(rng, assistant).format(*slots)}<|end|>")
    if rng.random() < 0.3:
        system = expand(rng, "[You work in a shop.|Be brief.|You are a friendly seller.]")
        turns.insert(0, f"<|system|>{system}<|end|>")
    return "".join(turns)


def documents(seed: int | str) -> Iterator[str]:
    """Yield documents for ever; the same seed gives the same documents."""
    rng = Random(f"corpus {seed}")
    kinds = (message_document, copy_document, date_document, talk_document)
    while True:
        yield rng.choices(kinds, weights=(74, 12, 7, 7))[0](rng)
