"""The embedded data set: determinism, and values of validation and test that occur nowhere else."""

import hashlib
import json
import re
from itertools import islice
from pathlib import Path
from random import Random

import pytest

from tunelab.assets import tickets, values
from tunelab.assets.corpus import documents
from tunelab.assets.phrasing import CATEGORIES
from tunelab.assets.values import Date, Pool

FOLDER = Path(tickets.__file__).parent / "tickets"
FIELDS = ["customer", "order", "product", "date", "amount", "category"]
CORPUS_SHA256 = "4946fbc78175cea2516033a153228bb3545ca7f12b986ba928e7032acc477e67"


def read(pool: Pool) -> list[tuple[str, dict[str, str | None]]]:
    rows = [json.loads(line)["messages"] for line in (FOLDER / f"{pool}.jsonl").read_text("utf-8").splitlines()]
    assert all([m["role"] for m in messages] == ["user", "assistant"] for messages in rows)
    return [(user["content"], json.loads(assistant["content"])) for user, assistant in rows]


def told(pool: Pool, field: str) -> set[str]:
    """The values of a field in a split; of names the parts, of amounts the numbers."""
    found = {value for _, record in read(pool) if (value := record[field])}
    if field == "customer":
        return {part for value in found for part in value.split()}
    return {value.split()[0] for value in found} if field == "amount" else found


def tokens(text: str) -> set[str]:
    """Words, names and numbers of a text, numbers with their inner marks."""
    return set(re.findall(r"[^\W\d_]+|[A-Z]{0,2}-?\d+(?:[.\-]\d+)*", text))


def test_committed_files_are_what_the_generator_writes(tmp_path: Path) -> None:
    tickets.write_splits(tmp_path)
    for pool in Pool:
        assert (tmp_path / f"{pool}.jsonl").read_bytes() == (FOLDER / f"{pool}.jsonl").read_bytes()


@pytest.mark.parametrize(("pool", "num_rows"), tickets.SPLIT_SIZES.items())
def test_every_row_has_a_one_line_record_of_all_fields(pool: Pool, num_rows: int) -> None:
    rows = read(pool)
    assert len(rows) == num_rows
    for message, record in rows:
        assert "\n" not in message
        assert "  " not in message
        assert "{" not in message
        assert list(record) == FIELDS
        assert record["category"] in CATEGORIES
        for field in ("customer", "order", "product"):
            assert record[field] is None or record[field] in message


def test_messages_are_distinct() -> None:
    messages = [message for pool in Pool for message, _ in read(pool)]
    assert len(set(messages)) == len(messages)


@pytest.mark.parametrize("field", ["customer", "order", "product", "date", "amount"])
def test_values_of_the_splits_are_disjoint(field: str) -> None:
    train, validation, test = (told(pool, field) for pool in Pool)
    assert not train & validation
    assert not train & test
    assert not validation & test


def test_no_value_of_validation_or_test_is_in_the_text_of_train_or_corpus() -> None:
    seen = set[str]()
    for text in [*(message for message, _ in read(Pool.TRAIN)), *islice(documents("0 0"), 1000)]:
        seen |= tokens(text)
    for pool in (Pool.VALIDATION, Pool.TEST):
        for field in ("customer", "order", "date", "amount"):
            assert not told(pool, field) & seen, (pool, field)


def test_no_product_or_written_date_of_test_is_in_the_corpus() -> None:
    corpus = "\n".join(islice(documents("0 0"), 1000))
    for pool in (Pool.VALIDATION, Pool.TEST):
        assert not any(product in corpus for product in told(pool, "product"))
        dates = [Date(*map(int, iso.split("-"))) for iso in told(pool, "date")]
        written = {date.written(form) for date in dates for form in range(values.NUM_DATE_FORMS)}
        found = [text for text in written if text in corpus]
        assert not any(re.search(rf"(?<!\d){re.escape(text)}(?!\d)", corpus) for text in found)


def test_every_fact_can_be_missing_and_every_category_occurs() -> None:
    records = [record for _, record in read(Pool.TEST)]
    assert {record["category"] for record in records} == set(CATEGORIES)
    for field in FIELDS[:-1]:
        assert 3 <= sum(record[field] is None for record in records) <= 60


def test_most_messages_do_not_name_their_category() -> None:
    rows = read(Pool.TRAIN)
    assert sum(str(record["category"]) in message.lower() for message, record in rows) < 0.05 * len(rows)


@pytest.mark.parametrize("text", ["14 March 2024", "March 14, 2024", "14.03.2024", "the 14th of March 2024"])
def test_dates_are_written_as_people_write_them(text: str) -> None:
    assert text in [Date(2024, 3, 14).written(form) for form in range(values.NUM_DATE_FORMS)]


@pytest.mark.parametrize(("day", "ordinal"), [(1, "1st"), (2, "2nd"), (11, "11th"), (13, "13th"), (23, "23rd")])
def test_ordinals(day: int, ordinal: str) -> None:
    assert f"the {ordinal} of" in Date(2020, 5, day).written(3)


def test_names_include_letters_beyond_ascii() -> None:
    names = [values.name(Random(seed), Pool.TEST) for seed in range(200)]
    assert 5 <= sum(not name.isascii() for name in names) <= 60


def test_the_corpus_is_the_same_for_everyone() -> None:
    text = "\x00".join(islice(documents(0), 500))
    assert hashlib.sha256(text.encode()).hexdigest() == CORPUS_SHA256


def test_the_corpus_never_shows_the_task() -> None:
    for document in islice(documents("0 1"), 2000):
        assert "{" not in document or "<|assistant|>" not in document
        keys = re.findall(r'"(\w+)":', document)
        assert keys[: len(FIELDS)] != FIELDS
