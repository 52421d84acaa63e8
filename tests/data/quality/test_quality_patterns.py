import pytest

from tunelab.data.quality.patterns import PATTERNS, find, special_token_pattern

MIXED = "Ab1" * 16  # no real token: only its shape


def kinds(text: str) -> set[tuple[str, str]]:
    return {(pattern.check, pattern.kind) for _, pattern in find([text], PATTERNS)}


SECRETS = {
    "AWS keys": ["key AKIA2E0A8F3B244C9986.", "ASIA2E0A8F3B244C9986"],
    "private keys": [f"-----BEGIN {kind}PRIVATE KEY-----\nMII" for kind in ("RSA ", "", "OPENSSH ")],
    "GitHub tokens": [f"ghp_{MIXED}", f"token: gho_{MIXED}", f"github_pat_{MIXED}"],
    "GitLab tokens": ["glpat-" + MIXED[:20]],
    "Hugging Face tokens": [f'"hf_{MIXED[:34]}"'],
    "API keys": [f"sk-{MIXED}", f"sk-proj-{MIXED}", f"OPENAI=sk-ant-api03-{MIXED}", "sk_live_" + MIXED],
    "Google keys": ["AIza" + MIXED[:35]],
    "Slack tokens": ["xoxb-1234567890-abcdef"],
    "JSON web tokens": ["Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N"],
    "passwords": [
        *('password = "hunter2abc"', "db_password='s3cretpw'", '{"password": "tr0ub4dor"}', "PASSWORD=abc12345"),
        *("https://x.org/?api_key=4f9a8b7c6d&q=1", 'SECRET_KEY = "a1b2c3d4e5"', 'access_token: "a8f7e6d5c4b3"'),
    ],
}  # fmt: skip
NO_SECRETS = [
    "AKIAIOSFODNN7EXAMPLE",  # the documentation's own
    "a task-oriented-approach-to-learning-20-words-with-Ease",
    "sk-learn is a library; sk-top-container-id-1-and-so-on",
    "-----BEGIN CERTIFICATE-----",
    "-----BEGIN PUBLIC KEY-----",
    "ghp_short",
    "eyJust a word. eyJust another. end",
    "My password: it was long",
    "password = input('Password: ')",
    "password=os.environ['DB1']",
    "password=get_password1()",
    'password = "your_password1"',
    'password = "<password1>"',
    "Passwords must have at least 8 characters, 1 digit.",
    "password=config.password1",
    "api_key=None",
    "the secret key=value store",
    "hf_hub_download(repo_id, filename)",
    "foxoxide xoxo xox",
]

ADDRESSES = ["write to jane.doe+news@mail.company.co.uk.", "<a@b.io>", "JANE@COMPANY.ORG, then", "x_1@sub-domain.net"]
NO_ADDRESSES = [
    *("user@example.com", "me@mail.example.org", "git@github.com:owner/name.git", "npm i package@1.2.3"),
    *("@decorator.method", "see @someone on x.com", "icon@2x.png", "a @ b.com", "W@x.mean(axis=0)", "5 @ $3.50 each"),
    *("https://medium.com/@writer.name", "foo@bar", "root@localhost", "me@host.test"),
]
NUMBERS = [
    *("+44 20 7946 0958", "call +1 (212) 555-0143 now", "+4915112345678", "+33 1 23 45 67 89", "(212) 555-0143"),
    *("tel. (555) 123-4567.", "212-555-0143", "1-800-555-0199", "Phone: 415-555-2671, ask"),
]
NO_NUMBERS = [
    *("48+24 = 72", "<<48/2=24>>24", "2 + 3 + 4", "x = +12345678", "+5 points", "1,234,567,890", "3.141592653589"),
    *("2024-01-15", "192.168.100.200", "10.5281/zenodo.1234567", "500-200-1000=-700", "$500-200-1000", "123-45-6789"),
    *("ISBN 978-3-16-148410-0", "4111 1111 1111 1111", "(123) 456 apples", "f(212) 555-0143", "+10 20 30"),
    *("2023-555-1234", "1999-2000 and 2001-2002", "212-555-01439", "id 9212-555-0143"),
]

GOOD_TEXT = [
    "naïve café Ünïcödé, façade, “quoted” – dash — and … ellipsis €5 £3 50°C ½ ©",
    "SÃO PAULO, NÃO, IRMÃ » «Â» Â, ÂGE, CHÂTEAU, PÂTÉ",
    "Ångström Å² 5 Å, Ähre „Ä“ Österreich, Ärger",
    "ÐÑ Ñandú España El Niño, Þórður, Ðe; señor Ñ “Ñ”",
    "Việt Nam: Ân cần, Âm nhạc, ÂÂ; română: Încă, mâine, România",
    "привет 漢字 かな عربى עברית हिन्दी 😀 â ê î ô û — â, â€",
    "the letters Ã, Â and â are not damage",
]


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in SECRETS.items() for text in texts])
def test_secrets(kind: str, text: str) -> None:
    assert ("secrets", kind) in kinds(text)
    assert ("secrets", kind) in kinds(f"Before (it) was\n{text}\nafter 😀")


@pytest.mark.parametrize("text", NO_SECRETS)
def test_no_secrets(text: str) -> None:
    assert not [found for found in kinds(text) if found[0] == "secrets"]


@pytest.mark.parametrize("text", ADDRESSES)
def test_mail_addresses(text: str) -> None:
    assert kinds(text) == {("personal_data", "e-mail addresses")}


@pytest.mark.parametrize("text", NUMBERS)
def test_telephone_numbers(text: str) -> None:
    assert kinds(text) == {("personal_data", "telephone numbers")}


@pytest.mark.parametrize("text", NO_ADDRESSES + NO_NUMBERS)
def test_no_personal_data(text: str) -> None:
    assert kinds(text) == set()


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1"])
@pytest.mark.parametrize(
    "text",
    ["café", "El Niño", "größer", "£5", "20 °C", "a\u00a0b", "it’s", "“quoted”", "a – b — c", "• point", "привет", "😀",
     "\ufeffstart", "Kadıköy", "łódź", "českých", "5 €", "trade™"],
)  # fmt: skip
def test_utf8_read_with_another_encoding(text: str, encoding: str) -> None:
    damaged = "".join(_decoded(byte, encoding) for byte in text.encode())
    assert ("encoding_damage", "text decoded with the wrong encoding") in kinds(damaged)
    assert kinds(text) == set()


def _decoded(byte: int, encoding: str) -> str:
    """Windows-1252 as browsers read it: the five bytes without a character stay as they are."""
    try:
        return bytes([byte]).decode(encoding)
    except UnicodeDecodeError:
        return chr(byte)


@pytest.mark.parametrize("text", GOOD_TEXT)
def test_text_that_is_not_damaged(text: str) -> None:
    assert kinds(text) == set()


def test_the_piece_is_found_and_patterns_never_span_two() -> None:
    pieces = ["", "it’s fine", "me@company.org", "", "password=", "abc12345", "jane@", "company.org", "itâ€™s"]
    found = {(piece, pattern.check) for piece, pattern in find(pieces, PATTERNS)}
    assert found == {(2, "personal_data"), (8, "encoding_damage")}


def test_special_tokens_are_found_as_they_are_spelled() -> None:
    pattern = special_token_pattern(
        ["<s>", "</s>", "<|im_end|>", "<|im_end_of|>", "[INST]", "▁▁", "\n\n", "x", "<pad>"]
    )
    assert pattern is not None
    pieces = [
        "a <s>b",
        "<|im_end|",
        "<|im_end|>",
        "x \n\n y",
        "[INST",
        "[INST]",
        "<<s>",
        "<S>",
        "<p>",
        "<|im_<|im_end|>",
    ]
    assert sorted({piece for piece, _ in find(pieces, [pattern])}) == [0, 2, 5, 6, 9]


def test_without_special_tokens_there_is_nothing_to_find() -> None:
    assert special_token_pattern([]) is None
    assert special_token_pattern(["\n", " ", "▁▁▁", "a"]) is None
