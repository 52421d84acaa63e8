"""Conditions on swept keys: what they say, and what is no condition."""

import pytest

from tunelab.errors import ConfigError
from tunelab.sweeping.conditions import Condition, parse_conditions


def one(line: str) -> Condition:
    [condition] = parse_conditions([line])
    return condition


def test_a_key_counts_where_another_has_one_of_its_values():
    condition = one("peft.r if peft=lora,dora")
    assert condition.key == "peft.r"
    assert [condition.holds({"peft": peft, "seed": "1"}) for peft in ("lora", "dora", "none")] == [True, True, False]
    assert not condition.holds({"seed": "1"})


def test_several_must_all_hold():
    condition = one("  optim.lr  if peft=none and data = a , b ")
    held = {(peft, data) for peft in ("none", "lora") for data in "abc"
            if condition.holds({"peft": peft, "data": data})}  # fmt: skip
    assert held == {("none", "a"), ("none", "b")}


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        ("[q_proj,v_proj],all-linear", "[q_proj,v_proj]"),
        ("'a,b',c", "'a,b'"),
        ('"a,b",c', "'a,b'"),
        ("1e-3", "0.001"),
        ("true", "True"),
    ],
)
def test_values_are_compared_as_typed_without_their_quotes(typed: str, value: str):
    assert one(f"peft.r if peft.target_modules={typed}").holds({"peft.target_modules": value})


@pytest.mark.parametrize(
    "line",
    ["peft.r", "peft.r if", "peft.r if peft", "peft.r if peft=", "peft.r if peft=lora,", "peft.r if peft=,lora",
     "peft.r if =lora", "if peft=lora", "peft.r if peft=a and b", "peft.r if peft=a and peft=b",
     "peft.r if peft.r=1", "peft.r if peft=lora,,dora", ""],
)  # fmt: skip
def test_what_is_no_condition_is_one_sentence(line: str):
    with pytest.raises(ConfigError, match=r"sweep\.only: expected '<key> if <other key>=<value>") as raised:
        parse_conditions([line])
    assert repr(line) in str(raised.value)


def test_keys_that_wait_for_each_other_are_named():
    three = ["x if a=1", "a if b=1 and free=2", "b if c=1", "c if a=1"]
    with pytest.raises(ConfigError, match=r"found one: a waits for b waits for c waits for a; remove a condition\.$"):
        parse_conditions(three)
    assert len(parse_conditions(three[:3])) == 3


def test_a_key_has_one_condition():
    with pytest.raises(ConfigError, match=r"expected one condition for peft\.r, found 2; join them"):
        parse_conditions(["peft.r if peft=lora", "peft.r if seed=1"])
