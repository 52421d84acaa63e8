import hashlib
import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from tiny_tokenizers import CHATML, REWRITING, byte_level

from tunelab.config import ColumnsConfig, DataConfig, Format, OverLength, Template, read_keys
from tunelab.data.preparing import prepare_data, report_table
from tunelab.errors import ConfigError, DataError


def pairs(count, start=0):
    return [{"prompt": f"question {i}", "response": f"answer {i}"} for i in range(start, start + count)]


@pytest.fixture
def write(tmp_path):
    def write_rows(rows, name="train.jsonl"):
        path: Path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    return write_rows


def chatml():
    return byte_level(chat_template=CHATML)


def shown(report):
    console = Console(file=io.StringIO(), width=120)
    console.print(report_table(report))
    return console.file.getvalue()


def test_the_whole_path(write):
    config = DataConfig(
        path=write(pairs(5)),
        validation_path=write(pairs(2, 4), "validation.jsonl"),
        test_path=write(pairs(3, 10), "test.jsonl"),
    )
    tokenizer = chatml()
    prepared = prepare_data(config, tokenizer)
    assert [e.origin for e in prepared.train] == [f"train.jsonl:{i}" for i in range(1, 6)]
    first = prepared.train[0]
    assert (
        tokenizer.decode(first.input_ids) == "<|start|>user\nquestion 0<|end|>\n<|start|>assistant\nanswer 0<|end|>\n"
    )
    assert tokenizer.decode(first.input_ids[first.loss_mask]) == "answer 0<|end|>"
    held_out = prepared.validation[0]
    assert held_out.response == "answer 4"
    assert tokenizer.decode(held_out.prompt_ids) == held_out.prompt
    assert held_out.tokenized.input_ids.tolist()[: len(held_out.prompt_ids)] == held_out.prompt_ids
    assert prepared.end_of_turn == "<|end|>"


def test_report(write):
    train, test = write([*pairs(5), *pairs(1)]), write(pairs(2, 4), "test.jsonl")
    config = DataConfig(path=train, validation_fraction=0, test_path=test)
    report = prepare_data(config, chatml()).report
    figures = report.to_dict()
    json.dumps(figures)
    assert figures["format"] == "prompt_response"
    assert figures["template"] == "chat"
    assert figures["num_overlapping"] == {
        "validation_in_train": 0,
        "test_in_train": 1,
        "test_in_validation": 0,
    }
    assert figures["file_sha256"][train] == hashlib.sha256(Path(train).read_bytes()).hexdigest()
    length = len("?user\nquestion 0?\n?assistant\nanswer 0?\n")
    assert figures["splits"]["train"] == {
        "num_rows": 6,
        "num_examples": 6,
        "num_kept": 6,
        "num_dropped": {},
        "num_truncated": 0,
        "num_tokens": 6 * length,
        "num_supervised_tokens": 6 * len("answer 0?"),
        "num_supervised_tokens_lost": 0,
        "num_seams_encoded_apart": 0,
        "num_duplicates": 1,
        "max_length_tokens": length,
        "mean_length_tokens": length,
    }
    assert figures["splits"]["validation"]["num_rows"] == figures["splits"]["validation"]["max_length_tokens"] == 0


def test_table_shows_what_happened_and_nothing_else(write):
    rows = [*pairs(3), {"prompt": "long " * 20, "response": "a", "note": "x"}]
    base = {"validation_fraction": 0, "test_fraction": 0}
    quiet = shown(prepare_data(DataConfig(path=write(pairs(3)), **base), chatml()).report)
    assert "truncated" not in quiet
    assert "dropped" not in quiet
    assert "format prompt_response, template chat" in quiet
    config = DataConfig(path=write([rows[3], *rows[:3]]), max_length=60, over_length=OverLength.drop, **base)
    loud = shown(prepare_data(config, chatml()).report)
    assert "dropped: over length" in loud
    assert "supervised tokens lost" in loud
    assert "columns not used: note" in loud


def test_held_out_splits_do_not_change_when_rows_are_added(write):
    config = {"validation_fraction": 0.2, "test_fraction": 0.2}
    few = prepare_data(DataConfig(path=write(pairs(60)), **config), chatml())
    many = prepare_data(DataConfig(path=write(pairs(120)), **config), chatml())
    for split in ("validation", "test"):
        before = [e.response for e in getattr(few, split)]
        assert before
        assert [e.response for e in getattr(many, split)][: len(before)] == before


def test_max_train_rows_leaves_the_other_splits_alone(write):
    config = {"path": write(pairs(60)), "validation_fraction": 0.2, "test_fraction": 0.2}
    whole, limited = (prepare_data(DataConfig(**config, max_train_rows=n), chatml()) for n in (None, 7))
    assert len(limited.train) == 7
    assert [e.origin for e in limited.train] == [e.origin for e in whole.train[:7]]
    assert len(limited.test) == len(whole.test)


def test_rewriting_template_counts_examples_and_rows(write):
    turns = [{"role": role, "content": c} for c in "ab" for role in ("user", "assistant")]
    config = DataConfig(path=write([{"messages": turns}]), validation_fraction=0, test_fraction=0)
    prepared = prepare_data(config, byte_level(chat_template=REWRITING))
    split = prepared.report.splits["train"]
    assert (split.num_rows, split.num_examples, len(prepared.train)) == (1, 2, 2)


def test_truncation_is_counted_and_the_prompt_of_generation_does_not_depend_on_the_answer(write):
    rows = [{"prompt": "p" * 50, "response": "r" * 30}]
    config = DataConfig(
        path=write(rows),
        test_path=write(rows, "test.jsonl"),
        validation_fraction=0,
        max_length=40,
        template=Template.plain,
    )
    prepared = prepare_data(config, byte_level())
    split = prepared.report.splits["train"]
    assert (split.num_truncated, split.num_supervised_tokens_lost, split.num_tokens) == (1, 0, 40)
    assert len(prepared.test[0].prompt_ids) == 40
    assert prepared.test[0].prompt == "p" * 50 + "\n"


def test_seams_encoded_apart_are_counted(write):
    tokenizer = byte_level(merges=(("Ċ", "r"),))
    config = DataConfig(
        path=write([{"prompt": "p", "response": "r"}]),
        validation_fraction=0,
        test_fraction=0,
        template=Template.plain,
    )
    report = prepare_data(config, tokenizer).report
    assert report.splits["train"].num_seams_encoded_apart == 1
    assert "seams encoded apart" in shown(report)


def test_more_rows_than_a_chunk(write):
    config = DataConfig(path=write(pairs(2100)), validation_fraction=0, test_fraction=0)
    prepared = prepare_data(config, chatml())
    assert [e.origin for e in prepared.train] == [f"train.jsonl:{i}" for i in range(1, 2101)]


def test_keys_are_read_where_they_count_and_only_there(write):
    path = write(pairs(3))
    config = DataConfig(path=path, validation_path=path, test_path=path, columns=ColumnsConfig(messages="m"))
    config.__dict__.pop("_read", None)
    config.columns.__dict__.pop("_read", None)
    with pytest.raises(DataError, match="expected a column 'm'"):
        prepare_data(config, chatml())
    config.format = Format.prompt_response
    prepare_data(config, chatml())
    unread = {"validation_fraction", "test_fraction", "batch_size"}
    assert read_keys(config) == set(DataConfig.__dataclass_fields__) - unread
    assert read_keys(DataConfig(path=path)) >= {"max_length"}


def test_unread_column_stays_unread(write):
    config = DataConfig(path=write(pairs(30)), columns=ColumnsConfig(prompt="prompt", input=None))
    prepare_data(config, chatml())
    assert read_keys(config.columns) == {"prompt", "response", "system"}
    assert {"validation_fraction", "test_fraction"} <= read_keys(config)


def test_nothing_left_to_train_on(write):
    config = DataConfig(
        path=write(pairs(3)),
        validation_fraction=0,
        test_fraction=0,
        max_length=5,
        over_length=OverLength.drop,
    )
    with pytest.raises(DataError, match=r"found all 3 dropped \(3 over_length\); raise data\.max_length"):
        prepare_data(config, chatml())


def test_everything_held_out(write):
    config = DataConfig(path=write(pairs(1)), validation_fraction=0.5, test_fraction=0.4999999)
    with pytest.raises(DataError, match=r"found none after holding out validation and test rows; lower data\.valid"):
        prepare_data(config, chatml())
    config = DataConfig(path=write(pairs(1)), validation_fraction=0.5, test_fraction=0.5)
    with pytest.raises(ConfigError, match="expected a sum below 1"):
        prepare_data(config, chatml())


def test_missing_test_file_names_its_key(write):
    config = DataConfig(path=write(pairs(3)), test_path="nowhere.jsonl")
    with pytest.raises(DataError, match=r"^data\.test_path: no file 'nowhere\.jsonl'"):
        prepare_data(config, chatml())
