from pathlib import Path

import pytest

from tunelab.naming import as_name, is_name, names_by_place, names_by_settings


def settings(seed: int = 0, r: int = 8, method: str = "LoraConfig", **more) -> dict:
    return {"name": "run", "seed": seed, "output_dir": "a", "peft": {"_target_": f"peft.{method}", "r": r}, **more}


@pytest.mark.parametrize(
    ("runs", "names"),
    [
        ([settings(1), settings(2)], ["seed-1", "seed-2"]),
        ([settings(1, name="a b"), settings(2, name="c/d")], ["a-b", "c-d"]),
        ([settings(), settings(method="IA3Config")], ["lora", "ia3"]),
        ([settings(1, 8), settings(1, 16), settings(2, 8)], ["seed-1_r-8", "seed-1_r-16", "seed-2_r-8"]),
        ([settings(output_dir="b"), settings()], None),
        ([settings(optim={"lr": 1e-4}), settings(optim={"lr": 2e-4})], ["lr-0.0001", "lr-0.0002"]),
    ],
)
def test_runs_are_called_by_what_differs(runs, names):
    assert names_by_settings(runs) == names


@pytest.mark.parametrize(
    ("places", "names"),
    [
        (["runs/a/adapter", "runs/b/adapter"], ["a", "b"]),
        (["runs/a/x", "runs/b/x"], ["a", "b"]),
        (["exports/lora", "other/exports/dora"], ["lora", "dora"]),
        (["r/1/a", "r/1/b", "r/2/a"], ["1-a", "1-b", "2-a"]),
        (["one"], ["one"]),
    ],
)
def test_folders_are_called_by_what_differs(places, names):
    assert names_by_place([Path("/home") / each for each in places]) == names


def test_names_are_typed_and_part_of_keys():
    assert as_name("a, b=[c]/d") == "a-b-c-d"
    assert is_name("seed-1_r-8.5+x")
    assert not any(map(is_name, ("", "a/b", "a,b", "-a", "a b")))
