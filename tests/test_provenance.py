"""Where a result came from."""

import datetime
import json
import re
from typing import Any

import pytest

from tunelab import provenance
from tunelab.errors import DataError, ModelError
from tunelab.provenance import continued, doubts


def test_provenance_says_where_a_result_came_from():
    found = provenance.provenance(["seed=1"], {"data_sha256": {"a": "b"}})
    assert found["command"][1:] == ["seed=1"]
    assert datetime.datetime.fromisoformat(found["started"]).tzinfo is not None
    assert set(found["packages"]) >= {"tunelab", "torch", "transformers", "peft"}
    assert None not in found["packages"].values()
    assert found["hardware"]["cpu_capability"]
    assert found["data_sha256"] == {"a": "b"}
    assert re.fullmatch(r"3\.\d+\.\d+\S*", found["python"])
    json.dumps(found)


def test_without_git_provenance_says_so(monkeypatch: pytest.MonkeyPatch):
    def missing(*args, **kwargs):
        raise FileNotFoundError("git")

    monkeypatch.setattr(provenance.subprocess, "run", missing)
    assert provenance.provenance([], {})["git"] is None


START: dict[str, Any] = {
    "git": {"commit": "a", "diff": ""},
    "python": "3.11",
    "packages": {"torch": "2.13.0"},
    "hardware": {"cpu_capability": "AVX512", "num_threads": 2},
    "device": "cpu",
    "num_devices": 1,
    "memory_knobs": {"micro_batch_tokens": 64},
    "data_sha256": {"a.jsonl": "1"},
    "base_model": {"path": "m", "revision": None, "sha256": {"model.safetensors": "2"}},
}


def test_a_resumed_run_keeps_the_history():
    record = continued(continued(START, {**START, "started": "later"}, 3), {**START, "started": "last"}, 5)
    assert {key: value for key, value in record.items() if key != "resumed"} == START
    assert [(start["step"], start["started"]) for start in record["resumed"]] == [(3, "later"), (5, "last")]
    assert doubts(record) == doubts(START) == []


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"data_sha256": {"a.jsonl": "9"}}, DataError, r"^data: .*'a\.jsonl' changed; put it back, or start a new run"),
        ({"data_sha256": {}}, DataError, "'a.jsonl' changed"),
        (
            {"base_model": {"path": "m", "sha256": {"model.safetensors": "9"}}},
            ModelError,
            "'model.safetensors' changed",
        ),
        ({"base_model": {"path": "m", "commit": "c"}}, ModelError, "'model.safetensors' changed"),
    ],
)
def test_other_data_or_another_base_model_is_refused(change: dict[str, Any], error: type[Exception], said: str):
    with pytest.raises(error, match=said):
        continued(START, {**START, **change}, 3)


def test_a_commit_that_was_not_known_says_nothing():
    unknown, known, other = ({**START, "base_model": {"path": "m", "commit": commit}} for commit in (None, "c", "d"))
    continued(unknown, known, 3)
    with pytest.raises(ModelError, match="'commit' changed"):
        continued(known, other, 3)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"packages": {"torch": "2.14.0"}}, "torch was 2.13.0, then 2.14.0"),
        ({"hardware": {"cpu_capability": "AVX2", "num_threads": 2}}, "cpu_capability was AVX512, then AVX2"),
        ({"hardware": {"cpu_capability": "AVX512", "num_threads": 1}}, "num_threads was 2, then 1"),
        ({"memory_knobs": {"micro_batch_tokens": 32}}, "micro_batch_tokens was 64, then 32"),
        ({"git": {"commit": "b", "diff": ""}}, "the code changed"),
    ],
)
def test_what_differs_makes_a_resumed_run_best_effort(change: dict[str, Any], reason: str):
    record = continued(START, {**START, **change}, 3)
    assert doubts(record) == [reason]
    assert doubts(continued(record, START, 4)) == [reason]  # a stretch of it was computed elsewhere


def test_what_was_not_verified_is_best_effort():
    assert doubts({**START, "device": "cuda"}) == ["unverified on CUDA"]
    assert doubts({**START, "num_devices": 2}) == ["unverified on several devices"]


def test_a_run_without_a_record_of_its_start_goes_on_as_best_effort():
    record = continued({}, START, 3)
    assert record["data_sha256"] == START["data_sha256"]
