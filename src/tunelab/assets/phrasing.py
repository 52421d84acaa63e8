"""Sentences of customer messages: templates with `{slots}` for values and `[a|b]` for free choices."""

import re
from random import Random

CHOICE = re.compile(r"\[([^\[\]]*)\]")


def expand(rng: Random, template: str) -> str:
    """Replace every `[a|b|c]` by one of its options, innermost first."""
    while CHOICE.search(template):
        template = CHOICE.sub(lambda found: rng.choice(found[1].split("|")), template)
    return template


GREETINGS = [
    "Hello,",
    "Hi,",
    "Hi there,",
    "Good [morning|afternoon|evening],",
    "Dear [team|support|shop],",
    "Hello [team|everyone],",
    "Dear Sir or Madam,",
    "To whom it may concern,",
]

INTRODUCTIONS = [
    "[my|My] name is {customer}.",
    "[this|This] is {customer}.",
    "{customer} [here|writing].",
    "I am {customer}.",
    "[you can find me under|the account is under|I am registered as] {customer}.",
    "I bought this as {customer}.",
]

SIGNATURES = [
    "[Regards|Best regards|Kind regards|Best wishes|Best|Yours|Sincerely|Cheers|Greetings], {customer}",
    "[Thanks|Thank you|Many thanks], {customer}",
    "[Yours sincerely|With kind regards], {customer}",
    "— {customer}",
    "{customer}",
]

CLOSINGS = [
    "[Thanks|Thank you|Many thanks].",
    "[Please|Kindly] [answer|reply|write back] [soon|this week|by email].",
    "I [look forward to|am waiting for|hope for] your [answer|reply].",
    "Thanks [in advance|for your help].",
    "[What can you do|How do we go on|What happens next]?",
    "Please let me know.",
]

FACTS: dict[tuple[str, ...], list[str]] = {
    ("order",): [
        "[My|The] order number is {order}.",
        "[It|This] [is about|concerns] order {order}.",
        "Order number: {order}.",
        "The [reference|order] on the invoice is {order}.",
        "Please look at order {order}.",
        "My order: {order}.",
    ],
    ("product",): [
        "It is about the {product}.",
        "I [bought|ordered|chose] the {product}.",
        "The item is the {product}.",
        "I [got|ordered] a {product} [from you|in your shop|online].",
        "[Article|Product|Item]: {product}.",
    ],
    ("date",): [
        "I [ordered|bought it|paid] on {date}.",
        "The [purchase|order] was [made|placed] on {date}.",
        "Date of purchase: {date}.",
        "I placed the order on {date}.",
    ],
    ("amount",): [
        "I paid {amount}.",
        "The [price|total] was {amount}.",
        "It cost[ me|] {amount}.",
        "[Price|Total]: {amount}.",
        "I spent {amount} on it.",
        "The bill came to {amount}.",
    ],
    ("date", "product"): [
        "I [bought|ordered] the {product} on {date}.",
        "On {date} I [bought|ordered] a {product}.",
        "The {product} was ordered on {date}.",
    ],
    ("amount", "product"): [
        "I paid {amount} for the {product}.",
        "The {product} cost[ me|] {amount}.",
        "I bought the {product} for {amount}.",
    ],
    ("order", "product"): [
        "I ordered the {product} under number {order}.",
        "Order {order} was for a {product}.",
        "It concerns the {product} from order {order}.",
    ],
    ("date", "order"): [
        "Order {order} was placed on {date}.",
        "My order {order} is from {date}.",
        "On {date} I placed order {order}.",
    ],
    ("amount", "order"): ["I paid {amount} for order {order}.", "Order {order} came to {amount}."],
    ("amount", "date"): ["I paid {amount} on {date}.", "On {date} I spent {amount} [in your shop|with you]."],
    ("amount", "date", "product"): [
        "On {date} I bought the {product} for {amount}.",
        "I paid {amount} for the {product} on {date}.",
    ],
    ("date", "order", "product"): [
        "I ordered the {product} on {date} (order {order}).",
        "Order {order} from {date} was for the {product}.",
    ],
    ("amount", "order", "product"): ["The {product} from order {order} cost {amount}."],
    ("amount", "date", "order"): ["Order {order}, placed on {date}, came to {amount}."],
    ("amount", "date", "order", "product"): [
        "On {date} I ordered the {product} for {amount}, order number {order}.",
        "My order {order} from {date}: one {product}, {amount}.",
    ],
}

PROBLEMS: dict[str, list[str]] = {
    "refund": [
        "I would like [my money|the money] back.",
        "Please return the [full|whole] sum to my [card|account].",
        "I sent it back [two|three|four] weeks ago and [still wait|am waiting] for the money.",
        "I [cancelled|called off] the purchase and want to be paid back.",
        "When will the money be back [on my account|on my card]?",
        "It does not suit me, so I am sending it back and expect the money.",
        "I no longer [need|want] it and ask you to pay me back.",
        "You [took it back|have it again] but [never repaid me|did not repay me].",
    ],
    "delivery": [
        "[The parcel|The package|It] has [not|still not|never] arrived.",
        "The tracking page has not [moved|changed] for [five|six|nine] days.",
        "It was meant to be here [last week|days ago] and nobody [came|brought it].",
        "The courier [left it with a stranger|drove past my house].",
        "I have been waiting for the parcel for [two|three|four] weeks.",
        "Where is my [parcel|package]?",
        "The [driver|courier] says it was handed over, but I have nothing.",
        "It seems to be stuck in [a depot|the post|customs].",
    ],
    "damaged": [
        "It came with a [crack|dent|hole] [in the side|in the front|at the back].",
        "The box was [crushed|wet] and the contents are broken.",
        "It [stopped working|fell apart|broke] after [two|three|five] days.",
        "One corner is [bent|chipped|torn].",
        "There are scratches all over it.",
        "It [makes a terrible noise|smells of smoke] and does not [start|turn on].",
        "A part [is missing|has come off] and it does not work.",
        "When I opened the box it was [in pieces|ruined|broken].",
    ],
    "billing": [
        "I was charged [twice|two times].",
        "The sum on my [card|bank] statement is [too high|wrong].",
        "The invoice shows [the wrong address|a wrong tax number|the wrong company].",
        "My [voucher|discount] was not taken off.",
        "You [booked|took] the money [twice|two times] from my account.",
        "I never got [an invoice|a receipt] for my taxes.",
        "There is a fee on the invoice that nobody [explained|told me about].",
        "The [payment page|bank] shows a second payment that I did not make.",
    ],
    "exchange": [
        "I need [it in another size|a bigger one|a smaller one].",
        "Could I swap it for the [black|blue|green|white] one?",
        "You sent the wrong colour, please send [black|blue|green|white] instead.",
        "I would rather have [another model|the next size].",
        "It is too [small|large] for me, can I have the other size?",
        "I want to trade it for [another model|a different colour].",
        "Please send me the [larger|smaller] version instead of this one.",
        "I picked the wrong [size|colour|model] and want the other one.",
    ],
    "question": [
        "Does it come with a [two|three|five] year warranty?",
        "Can it be used [outdoors|in the rain|by children]?",
        "Where do I find the [manual|instructions]?",
        "Is it safe [in the dishwasher|for children|for pets]?",
        "Which [batteries|bulbs|filters] does it need?",
        "How do I clean it [properly|best]?",
        "Are spare parts [sold|available]?",
        "What is it made of, and how heavy is it?",
    ],
}

CATEGORIES = tuple(PROBLEMS)

DISTRACTORS = [
    "I called you on {other_date} [already|about this].",
    "I wrote to you on {other_date} and got no answer.",
    "I spoke with {other_name} from your team.",
    "Your colleague {other_name} could not help.",
    "It was a gift for {other_name}.",
    "[Shipping|Wrapping] was {other_amount} [extra|on top].",
    "My tracking code is {code}.",
    "My customer number is {code}.",
    "My phone number ends in {tail}.",
    "I [live on the third floor|have been a customer for years|am away next week].",
    "The weather was [bad|fine] that week.",
    "My [sister|neighbour|brother] has the same one.",
]
