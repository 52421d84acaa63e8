"""Where a result came from."""

import datetime
import json
import re

import pytest

from tunelab import provenance


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
