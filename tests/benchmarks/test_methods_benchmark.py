"""The benchmark of the methods: what it reads from a run, what it shows, and that it goes on where it was killed."""

import argparse
import json
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.append(str(REPOSITORY / "benchmarks"))  # scripts that import each other, no package

import methods  # noqa: E402
from methods_table import FAMILIES, OTHER, rewrite, table  # noqa: E402

OPTIONS = argparse.Namespace(steps=187, threads=2, num_test_examples=300)
MIB = 2**20


def found(**changes: object) -> dict:
    usual = {
        "num_trainable_parameters": 1234, "peak_lr": 1e-3, "validation_loss": 0.2, "test_loss": 0.1,
        "test_exact_match": 0.5, "tokens_per_second": 1000.0, "peak_resident_bytes": 900 * MIB,
        "resident_before_weights_bytes": 600 * MIB, "export_bytes": 5000, "cores_of_others": 0.0,
        "packages": {"torch": "2.0", "transformers": "5.0", "peft": "0.1"},
    }  # fmt: skip
    return {**usual, **changes}


def results(**named: dict) -> dict:
    return {"setting": methods.setting(OPTIONS), "machine": {"cpu": "Abacus"}, "methods": named}


def test_the_figures_of_a_run_are_read(tmp_path: Path):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_model.safetensors").write_bytes(b"12345")
    speeds = [1.0] * methods.WARM_UP_STEPS + [5.0, 9.0, 7.0]  # the first are left out
    lines = [
        {"step": step + 1, "perf/tokens_per_second": speed, "perf/peak_memory_gib": 0.5 + step / 100}
        for step, speed in enumerate(speeds)
    ]
    lines = [*lines, {"step": 13, "val/loss": 0.25}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    metrics = {"test/loss": 0.1, "test/exact_match": 0.5, "base/test/loss": 3.0, "base/test/exact_match": 0.0}
    summary = {"num_trainable_parameters": 7, "peak_lr": 1e-3, "metrics": metrics, "times_seconds": {"train": 3}}
    (tmp_path / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    origin = {"git": {"commit": "abc", "diff": ""}, "packages": {"peft": "0"}}
    (tmp_path / "provenance.json").write_text(json.dumps(origin), encoding="utf-8")
    read = methods.figures(tmp_path)
    assert read["tokens_per_second"] == 7.0
    assert read["peak_resident_bytes"] == round(0.62 * 2**30)
    assert (read["validation_loss"], read["test_loss"], read["export_bytes"]) == (0.25, 0.1, 5)
    assert (read["commit"], read["uncommitted"]) == ("abc", False)
    assert methods.figures(tmp_path, "base/")["test_loss"] == 3.0


def test_the_table_is_by_family_and_loss():
    text = table(
        results(
            lora=found(), dora=found(test_loss=0.05, tokens_per_second=400.0), ia3=found(cores_of_others=0.5),
            none=found(tokens_per_second=950.0), eva={"error": "it ended"}, base=found(test_loss=3.0),
        )
    )  # fmt: skip
    rows = [line for line in text.splitlines() if line.startswith("| `") and "peft=" not in line]
    assert [row.split("`")[1] for row in rows] == ["dora", "lora", "ia3", "none"]
    cells = {row.split("`")[1]: [cell.strip() for cell in row.split("|")[2:-1]] for row in rows}
    assert cells["lora"] == ["1,234", "0.1000", "0.500", "1,000", "**1.00**", "300", "5"]
    assert cells["dora"][4] == "0.40"
    assert cells["none"][4] == "**0.95**"
    assert cells["ia3"][3] == "~1,000"
    assert "a trial only" in text
    assert "`eva` failed: it ended" in text
    assert "base model: loss 3.0000" in text


def test_the_families_name_methods_that_there_are():
    names = {path.stem for path in (REPOSITORY / "conf" / "peft").glob("*.yaml")}
    assert FAMILIES.keys() <= names
    assert OTHER not in FAMILIES.values()


def test_results_are_added_to_those_of_the_same_setting_only():
    before = results(lora=found())
    assert methods.resumed(before, results(), "methods.json") is before
    with pytest.raises(SystemExit, match=r"methods\.json was made with other setting"):
        methods.resumed({**before, "setting": {"num_steps": 5}}, results(), "methods.json")


def test_only_the_table_of_the_page_is_replaced(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text("above\n<!-- methods: begin -->\nold\n<!-- methods: end -->\nbelow\n", encoding="utf-8")
    rewrite(page, "new")
    expected = "above\n<!-- methods: begin -->\n\nnew\n\n<!-- methods: end -->\nbelow\n"
    assert page.read_text(encoding="utf-8") == expected


def test_what_other_processes_compute_is_told_from_the_run_itself():
    done = methods.watched([sys.executable, "-c", "sum(range(3_000_000)); import sys; sys.exit('odd')"], threads=1)
    assert done["returncode"] == 1
    assert done["stderr"].strip() == "odd"
    assert done["cores_of_others"] is None or done["cores_of_others"] >= 0
