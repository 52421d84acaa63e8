"""Patterns in text: damaged encoding, special tokens spelled out, secrets, personal data; chosen for few false alarms.

Each pattern has anchors, short literal texts without which it cannot match. A batch of texts is searched for the
anchors, which is fast, and the regular expression is tried there only.
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

_WINDOW = 400  # characters after an anchor within which a pattern ends


@dataclass(frozen=True, slots=True)
class Pattern:
    """A thing to look for: `expression` must match where an anchor stands, and `accepts` has the last word."""

    check: str
    kind: str
    anchors: tuple[str, ...]
    expression: re.Pattern[str]
    accepts: Callable[[str], bool] = bool


def find(pieces: Sequence[str], patterns: Iterable[Pattern]) -> Iterator[tuple[int, Pattern]]:
    """Yield (index of the piece, pattern) for what is found; the same pair may come more than once."""
    text = "\n".join(pieces)
    starts = list(accumulate((len(piece) + 1 for piece in pieces), initial=0))
    for pattern in patterns:
        if text.isascii() and not any(anchor.isascii() for anchor in pattern.anchors):
            continue
        for position in _places(text, pattern):
            yield bisect_right(starts, position) - 1, pattern


def _places(text: str, pattern: Pattern) -> Iterator[int]:
    for anchor in pattern.anchors:
        place = text.find(anchor)
        while place >= 0:
            match = pattern.expression.match(text, place, place + _WINDOW)
            if match is not None and pattern.accepts(match[0]):
                yield place
            place = text.find(anchor, place + 1)


def special_token_pattern(tokens: Iterable[str]) -> Pattern | None:
    """Return the pattern of texts that spell one of `tokens`, the tokenizer's special tokens; None without any.

    Tokens of white space, and those of one character, are ordinary text and not looked for.
    """
    spelled = sorted({token for token in tokens if len(token.strip(" \t\r\n▁")) > 1 and "\n" not in token})
    if not spelled:
        return None
    known = frozenset(spelled)
    lengths = {prefix: _lengths(known, prefix) for prefix in sorted({token[:2] for token in spelled})}
    longest = max(map(len, spelled))

    def spells(text: str) -> bool:
        return any(text[:length] in known for length in lengths[text[:2]])

    expression = re.compile(rf".{{2,{longest}}}", re.DOTALL)
    return Pattern("special_tokens", "special tokens", tuple(lengths), expression, accepts=spells)


def _lengths(tokens: Iterable[str], prefix: str) -> list[int]:
    return sorted({len(token) for token in tokens if token.startswith(prefix)})


# UTF-8 bytes 80 to BF, as Windows-1252 or Latin-1 shows them; `_SAFE` without the marks of ordinary typography.
_TRAIL = "\x80-\xbfŒœŠšŸŽžƒˆ˜–—‘’‚“”„†‡•…‰‹›€™"
_SAFE = "\x80-\x9f¡-ª¬-º¼-¿ŒœŠšŸŽžƒˆ˜†‡‰€™"
_MOJIBAKE = (
    (("Ã", "Â"), rf"(?<![A-ZÀ-Þ])[ÃÂ][\xa0{_SAFE}]"),  # é as Ã©, £ as Â£, a no-break space as Â and itself
    (("Ä", "Å"), rf"(?<=[a-zß-ÿ])[ÄÅ][{_SAFE}]"),  # Central European and Turkish letters
    (
        ("â",),
        r"â(?:€[™œž˜¦¢“”\x9d\x9c\x99\x93\x94\x98]|[\x80\x82\x84][\x80-\xbf]|‚¬|„¢)",
    ),  # quotation marks, dashes, euro
    (("Ð", "Ñ"), rf"(?:[ÐÑ][{_TRAIL}]){{3}}"),  # Cyrillic words
    (("ð",), r"ð[Ÿ\x9f]"),  # emoji
    (("ï",), r"ï(?:»¿|¿½)"),  # byte-order mark, replacement character
)

_PLACEHOLDER = re.compile(r"(?i)example|your|xxx|changeme|placeholder|dummy|\*\*|\.\.\.|<|getenv|environ")
_FILE_ENDING = re.compile(r"\.(?:png|jpe?g|gif|svg|webp|css|js|ts|py|html|json|md|txt|pdf)$", re.IGNORECASE)
_EXAMPLE_DOMAINS = re.compile(r"@(?:[\w-]+\.)*(?:example\.\w+|(?:\w+\.)?(?:test|invalid|localhost))$", re.IGNORECASE)


def _is_mixed(token: str) -> bool:
    return any(map(str.isdigit, token)) and any(map(str.isupper, token)) and any(map(str.islower, token))


def _is_real(secret: str) -> bool:
    return not _PLACEHOLDER.search(secret)


def _is_password(assignment: str) -> bool:
    value = re.split(r"[=:]", assignment, maxsplit=1)[1].strip(" \"'")
    return _is_real(value) and any(map(str.isdigit, value)) and any(map(str.isalpha, value))


def _is_domain(domain: str) -> bool:
    return not _FILE_ENDING.search(domain) and not _EXAMPLE_DOMAINS.search(domain)


def _is_dialled(number: str) -> bool:
    digits = sum(map(str.isdigit, number))
    return (10 if number[1:].isdigit() else 8) <= digits <= 15


def _secret(kind: str, anchors: str, expression: str, accepts: Callable[[str], bool] = _is_real) -> Pattern:
    return Pattern("secrets", kind, tuple(anchors.split()), re.compile(expression), accepts=accepts)


PATTERNS: tuple[Pattern, ...] = (
    *(
        Pattern("encoding_damage", "text decoded with the wrong encoding", anchors, re.compile(expression))
        for anchors, expression in _MOJIBAKE
    ),
    _secret("AWS keys", "AKIA ASIA", r"(?<![A-Za-z0-9])A[KS]IA[A-Z0-9]{16}(?![A-Za-z0-9])"),
    _secret(
        "private keys",
        "-----BEGIN",
        r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----",
        bool,
    ),
    _secret("GitHub tokens", "ghp_ gho_ ghu_ ghs_ ghr_", r"(?<![A-Za-z0-9])gh[pousr]_[A-Za-z0-9]{36,}"),
    _secret("GitHub tokens", "github_pat_", r"(?<![A-Za-z0-9])github_pat_[A-Za-z0-9_]{40,}"),
    _secret("GitLab tokens", "glpat-", r"(?<![A-Za-z0-9])glpat-[A-Za-z0-9_-]{20,}"),
    _secret("Hugging Face tokens", "hf_", r"(?<![A-Za-z0-9_])hf_[A-Za-z0-9]{30,}"),
    _secret(
        "API keys", "sk-", r"(?<![A-Za-z0-9_-])sk-[A-Za-z0-9_-]{20,}", lambda key: _is_mixed(key) and _is_real(key)
    ),
    _secret("API keys", "sk_live_", r"(?<![A-Za-z0-9])sk_live_[A-Za-z0-9]{16,}"),
    _secret("Google keys", "AIza", r"(?<![A-Za-z0-9])AIza[A-Za-z0-9_-]{35}(?![A-Za-z0-9_-])"),
    _secret("Slack tokens", "xox", r"(?<![A-Za-z0-9])xox[abeprs]-[A-Za-z0-9-]{10,}"),
    _secret(
        "JSON web tokens",
        "eyJ",
        r"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}",
        bool,
    ),
    _secret(
        "passwords",
        "assword asswd ASSWORD api_key API_KEY apikey secret_key SECRET_KEY access_token ACCESS_TOKEN",
        r"[A-Za-z_]{5,12}[\"']?[ \t]*[=:][ \t]*"
        r"(?:\"[^\"\s]{6,80}\"|'[^'\s]{6,80}'|(?<==)[^\s\"'(){}\[\]<>;,&$.]{6,80}(?![\w.(\[]))",
        _is_password,
    ),
    Pattern(
        "personal_data",
        "e-mail addresses",
        ("@",),  # the local part is only looked back at
        re.compile(
            r"(?<=[A-Za-z0-9_%+-])(?<!\bgit)@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,24}(?![\w@(\[-])"
        ),
        accepts=_is_domain,
    ),
    Pattern(
        "personal_data",
        "telephone numbers",
        ("+",),  # international: +44 20 7946 0958
        re.compile(
            r"(?<![\w+)\]=.])\+[1-9]\d{0,2}(?:[ .-]?(?:\(\d{1,4}\)|\d))?(?:[ ./-]?\d{2,5}){2,5}(?![\w=]|[.,]\d)"
        ),
        accepts=_is_dialled,
    ),
    Pattern(
        "personal_data",
        "telephone numbers",
        ("(",),  # North American: (212) 555-0143
        re.compile(r"(?<![\w)])\([2-9]\d{2}\) ?\d{3}[-. ]\d{4}(?![\w=-]|[.,]\d)"),
    ),
    Pattern(
        "personal_data",
        "telephone numbers",
        ("-",),  # 212-555-0143 and 1-212-555-0143
        re.compile(
            r"(?:(?<=(?<![\w<=+*/.$-])[2-9]\d{2})|(?<=(?<![\w<=+*/.$-])1-[2-9]\d{2}))-\d{3}-\d{4}(?![\w=+*/-]|[.,]\d)"
        ),
    ),
)
