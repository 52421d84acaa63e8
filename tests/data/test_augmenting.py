"""The user's own function: found, called, and held to its contract."""

from pathlib import Path

import pytest

from tunelab.data.augmenting import augmentation_fingerprint, load_augmentation
from tunelab.data.records import Conversation, Message, Role
from tunelab.errors import ConfigError, DataError

EXAMPLE = Conversation((Message(Role.USER, "hi"), Message(Role.ASSISTANT, "hello", trained=True)), "a.jsonl:1")

SOURCE = """
from dataclasses import replace

def twice(example):
    return [example, replace(example, origin=example.origin + " again")]

def fails(example):
    raise KeyError("colour")

def wrong(example):
    return example

number = 3
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "augment.py"
    path.write_text(SOURCE)
    return path


def test_the_function_takes_the_place_of_the_example(file):
    augment = load_augmentation(f"{file}:twice")
    assert augment is not None
    assert [one.origin for one in augment(EXAMPLE)] == ["a.jsonl:1", "a.jsonl:1 again"]
    assert load_augmentation(None) is None


@pytest.mark.parametrize(("name", "said"), [("fails", "KeyError: 'colour'"), ("wrong", "found Conversation")])
def test_what_the_function_does_wrong_names_the_example(file, name, said):
    augment = load_augmentation(f"{file}:{name}")
    assert augment is not None
    with pytest.raises(DataError, match=rf"^a\.jsonl:1: .*data\.augment=.*{said}"):
        augment(EXAMPLE)


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("{file}", r"expected <file\.py>:<function>"),
        ("os:system", r"expected <file\.py>:<function>"),
        ("{file}:two words", r"expected <file\.py>:<function>"),
        ("missing.py:f", r"no file 'missing\.py'"),
        ("{file}:absent", "expected a function 'absent'"),
        ("{file}:number", "expected a function 'number'"),
        ("{broken}:f", "cannot be loaded"),
    ],
)
def test_a_wrong_reference(file, tmp_path, reference, said):
    broken = tmp_path / "broken.py"
    broken.write_text("def f(:")
    with pytest.raises(ConfigError, match=said):
        load_augmentation(reference.format(file=file, broken=broken))


def test_the_fingerprint_is_that_of_the_file(file):
    before = augmentation_fingerprint(f"{file}:twice")
    assert augmentation_fingerprint(f"{file}:twice") == before
    file.write_text(SOURCE + "\n")
    assert augmentation_fingerprint(f"{file}:twice") != before
    assert augmentation_fingerprint(None) is None
