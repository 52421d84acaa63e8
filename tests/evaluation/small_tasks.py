"""Tasks of lm-evaluation-harness that tests ask: three kinds on one local file, and a group."""

import json
from pathlib import Path

import pytest
import torch

from tunelab.config import EvaluationConfig, HarnessConfig
from tunelab.data.rendering import decide_template
from tunelab.evaluation.evaluating import SplitSettings
from tunelab.evaluation.harness.tasks import load_tasks
from tunelab.training.objective import SftObjective

SUMS = [{"question": f"what is {a} plus {b}?", "answer": f"{a + b}"} for a in range(4) for b in range(5)]
FILES = {
    "sum_choice": """
        output_type: multiple_choice
        doc_to_text: "{{question}}"
        doc_to_target: "{{['3', '4', '5'].index(answer) if answer in ['3', '4', '5'] else 0}}"
        doc_to_choice: ['3', '4', '5']
    """,
    "sum_text": """
        output_type: loglikelihood_rolling
        doc_to_text: ""
        doc_to_target: "{{question}} the answer is {{answer}}"
        metric_list:
          - {metric: word_perplexity, aggregation: weighted_perplexity, higher_is_better: false}
          - {metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}
    """,
    "sum_written": """
        output_type: generate_until
        doc_to_text: "{{question}} the answer is"
        doc_to_target: "{{answer}}"
        generation_kwargs: {until: ["\\n", "."], max_gen_toks: 12}
        metric_list:
          - {metric: exact_match, aggregation: mean, higher_is_better: true}
        filter_list:
          - name: number
            filter:
              - {function: regex, regex_pattern: '(\\d+)'}
              - {function: take_first}
    """,
}


def write_tasks(folder: Path) -> Path:
    """The three kinds of tasks on one local file, and a group of them."""
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in SUMS))
    for name, text in FILES.items():
        lines = ["\n".join(line[8:] for line in text.splitlines())]
        lines += [f"task: {name}", "dataset_path: json", "test_split: test", "metadata: {version: 2.0}"]
        lines += ["dataset_kwargs:", f"  data_files: {{test: '{folder / 'sums.jsonl'}'}}"]
        (folder / f"{name}.yaml").write_text("\n".join(lines))
    group = ["group: sums", "task: [sum_choice]", "aggregate_metric_list: [{metric: acc, weight_by_size: true}]"]
    (folder / "sums.yaml").write_text("\n".join(group))
    return folder


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What lm-eval loads is not kept; test modules take both fixtures as `cache = small_tasks.cache`."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tasks on disk."""
    return write_tasks(tmp_path_factory.mktemp("tasks"))


def settings_of(model) -> SplitSettings:
    return SplitSettings(
        score_tokens=lambda batch: SftObjective(head_chunk_tokens=512).score_tokens(model, batch),
        padded=True,
        micro_batch_tokens=200,
        device=torch.device("cpu"),
        config=EvaluationConfig(),
        end_token_ids=[1],
    )


def loaded(tokenizer, **config):
    return load_tasks(HarnessConfig(**config), decide_template("auto", tokenizer))
