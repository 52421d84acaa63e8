"""From files to tokenized splits: what became of every row, whatever was kept from an earlier time."""

import hashlib
import io
import json
from pathlib import Path

import pytest
from forked_processes import Forked
from rich.console import Console
from tiny_tokenizers import CHATML, REWRITING, byte_level

from tunelab.config import (
    Action,
    BadRows,
    ColumnsConfig,
    DataConfig,
    MixedSourceConfig,
    OverLength,
    QualityConfig,
    TrainOn,
    all_reads,
    forget_reads,
    read_keys,
)
from tunelab.data import preparing
from tunelab.data.preparing import prepare_data, report_table
from tunelab.errors import ConfigError, DataError

NO_SPLITS = {"validation_fraction": 0.0, "test_fraction": 0.0}


def pairs(count, start=0):
    return [{"prompt": f"question {i}", "response": f"answer {i}"} for i in range(start, start + count)]


@pytest.fixture
def write(tmp_path):
    def write_rows(rows, name="train.jsonl"):
        path: Path = tmp_path / name
        lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return str(path)

    return write_rows


@pytest.fixture
def prepare(tmp_path):
    """Prepare with a cache of this test's own."""

    def prepared(config, tokenizer=None):
        return prepare_data(config, tokenizer or chatml(), tmp_path / "cache")

    return prepared


@pytest.fixture
def builds(monkeypatch):
    """One entry for each time that data was really prepared."""
    calls = []
    build = preparing._build
    monkeypatch.setattr(preparing, "_build", lambda *arguments: calls.append(None) or build(*arguments))
    return calls


def chatml():
    return byte_level(chat_template=CHATML)


def shown(report):
    console = Console(file=io.StringIO(), width=120)
    console.print(report_table(report))
    return console.file.getvalue()


def test_the_whole_path(write, prepare):
    config = DataConfig(
        path=write(pairs(5)),
        validation_path=write(pairs(2, 4), "validation.jsonl"),
        test_path=write(pairs(3, 10), "test.jsonl"),
    )
    tokenizer = chatml()
    prepared = prepare(config, tokenizer)
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
    assert prepared.longest == max(e.num_tokens for e in (*prepared.train, *prepared.test.tokenized))


def test_report(write, prepare):
    train, test = write([*pairs(5), *pairs(1)]), write(pairs(2, 4), "test.jsonl")
    report = prepare(DataConfig(path=train, validation_fraction=0, test_path=test)).report
    figures = json.loads(json.dumps(report.to_dict()))
    assert [source["format"] for source in figures["sources"]] == ["prompt_completion"] * 2
    assert figures["template"] == "chat"
    assert hashlib.sha256(Path(train).read_bytes()).hexdigest() in figures["sources"][0]["sha256"].values()
    length = len("?user\nquestion 0?\n?assistant\nanswer 0?\n")
    expected = {
        "num_rows": 6,
        "num_examples": 6,
        "num_kept": 6,
        "num_dropped": {},
        "num_truncated": 0,
        "num_windows": 0,
        "num_tokens": 6 * length,
        "num_supervised_tokens": 6 * len("answer 0?"),
        "num_supervised_tokens_lost": 0,
        "num_seams_encoded_apart": 0,
        "max_length_tokens": length,
        "mean_length_tokens": length,
        "median_length_tokens": length,
    }
    assert expected.items() <= figures["splits"]["train"].items()
    assert sum(count for _, count in figures["splits"]["train"]["length_histogram"]) == 6
    assert figures["splits"]["validation"]["num_rows"] == figures["splits"]["validation"]["max_length_tokens"] == 0
    found = {
        (finding["check"], finding["split"]): finding["num_examples"] for finding in figures["quality"]["findings"]
    }
    assert found["exact_duplicates", "train"] == 1
    assert any(check == "overlap" for check, _ in found)


def test_table_shows_what_happened_and_nothing_else(write, prepare):
    rows = [*pairs(3), {"prompt": "long " * 20, "response": "a", "note": "x"}]
    quiet = shown(prepare(DataConfig(path=write(pairs(3)), **NO_SPLITS)).report)
    assert "truncated" not in quiet
    assert "dropped" not in quiet
    assert "prompt_completion" in quiet
    config = DataConfig(
        path=write([rows[3], *rows[:3]]),
        max_length=60,
        over_length=OverLength.drop,
        max_dropped_fraction=0.5,
        **NO_SPLITS,
    )
    loud = shown(prepare(config).report)
    assert "over length" in loud
    assert "supervised tokens lost" in loud
    assert "note" in loud


def test_held_out_splits_do_not_change_when_rows_are_added(write, prepare):
    config = {"validation_fraction": 0.2, "test_fraction": 0.2}
    few = prepare(DataConfig(path=write(pairs(60)), **config))
    many = prepare(DataConfig(path=write(pairs(120)), **config))
    for split in ("validation", "test"):
        before = [e.response for e in getattr(few, split)]
        assert before
        assert [e.response for e in getattr(many, split)][: len(before)] == before


def test_max_train_rows_leaves_the_other_splits_alone(write, prepare):
    config = {"path": write(pairs(60)), "validation_fraction": 0.2, "test_fraction": 0.2}
    whole, limited = (prepare(DataConfig(**config, max_train_rows=n)) for n in (None, 7))
    assert len(limited.train) == 7
    assert [e.origin for e in limited.train] == [e.origin for e in whole.train[:7]]
    assert len(limited.test) == len(whole.test)


def test_rewriting_template_counts_examples_and_rows(write, prepare):
    turns = [{"role": role, "content": c} for c in "ab" for role in ("user", "assistant")]
    config = DataConfig(path=write([{"messages": turns}]), **NO_SPLITS)
    prepared = prepare(config, byte_level(chat_template=REWRITING))
    split = prepared.report.splits["train"]
    assert (split.num_rows, split.num_examples, len(prepared.train)) == (1, 2, 2)


def test_truncation_is_counted_and_the_prompt_of_generation_does_not_depend_on_the_answer(write, prepare):
    rows = [{"prompt": "p" * 50, "response": "r" * 30}]
    config = DataConfig(
        path=write(rows),
        test_path=write(rows, "test.jsonl"),
        validation_fraction=0,
        max_length=40,
        template="plain",
    )
    prepared = prepare(config, byte_level())
    split = prepared.report.splits["train"]
    assert (split.num_truncated, split.num_supervised_tokens_lost, split.num_tokens) == (1, 0, 40)
    assert len(prepared.test[0].prompt_ids) == 40
    assert prepared.test[0].prompt == "p" * 50 + "\n"


def test_seams_encoded_apart_are_counted(write, prepare):
    tokenizer = byte_level(merges=(("Ċ", "r"),))
    config = DataConfig(path=write([{"prompt": "p", "response": "r"}]), template="plain", **NO_SPLITS)
    report = prepare(config, tokenizer).report
    assert report.splits["train"].num_seams_encoded_apart == 1
    assert "seams encoded apart" in shown(report)


def test_more_rows_than_a_chunk(write, prepare):
    prepared = prepare(DataConfig(path=write(pairs(2100)), **NO_SPLITS))
    assert [e.origin for e in prepared.train] == [f"train.jsonl:{i}" for i in range(1, 2101)]


def test_documents_become_windows_and_laid_out_text_and_ids_pass_through(write, prepare):
    tokenizer = byte_level()
    document = prepare(DataConfig(path=write([{"text": "x" * 100}]), max_length=40, **NO_SPLITS), tokenizer)
    windows = [e.input_ids.tolist() for e in document.train]
    eos = tokenizer.eos_token_id
    assert windows[-1][-1] == eos
    joined = windows[0] + [token for window in windows[1:] for token in window[1:]]
    assert tokenizer.decode([i for i in joined if i not in (eos, tokenizer.bos_token_id)]) == "x" * 100
    assert document.report.splits["train"].num_windows == len(windows) == 3
    segments = [{"label": False, "text": "Q: "}, {"label": True, "text": "A"}]
    laid_out = prepare(DataConfig(path=write([{"segments": segments}], "s.jsonl"), **NO_SPLITS), tokenizer).train[0]
    assert tokenizer.decode(laid_out.input_ids[laid_out.loss_mask]) == "A"
    ids = {"input_ids": [7, 8, 9], "labels": [-100, 8, 9]}
    given = prepare(DataConfig(path=write([ids], "i.jsonl"), **NO_SPLITS), tokenizer).train[0]
    assert given.input_ids.tolist() == [7, 8, 9]
    assert given.loss_mask.tolist() == [False, True, True]


def test_a_preference_pair_trains_the_chosen_answer_and_an_undesirable_one_is_left_out(write, prepare):
    tokenizer = chatml()
    pair = {"prompt": "2+2", "chosen": "4", "rejected": "5"}
    chosen = prepare(DataConfig(path=write([pair]), **NO_SPLITS), tokenizer).train
    assert [tokenizer.decode(e.input_ids[e.loss_mask]) for e in chosen] == ["4<|end|>"]
    rows = [{"prompt": "2+2", "completion": str(n), "label": n == 4} for n in (4, 5)]
    labelled = prepare(DataConfig(path=write(rows, "kto.jsonl"), **NO_SPLITS), tokenizer)
    assert [tokenizer.decode(e.input_ids[e.loss_mask]) for e in labelled.train] == ["4<|end|>"]
    assert labelled.report.splits["train"].num_dropped == {"undesirable": 1}


def test_bad_rows_stop_or_are_counted_and_limited(write, prepare):
    path = write([*pairs(99), '{"prompt": '])
    with pytest.raises(DataError, match=r"^train\.jsonl:100: .*data\.on_bad_row=skip"):
        prepare(DataConfig(path=path, **NO_SPLITS))
    skipping = DataConfig(path=path, on_bad_row=BadRows.skip, max_bad_fraction=0.01, **NO_SPLITS)
    report = prepare(skipping).report
    assert (report.num_bad, report.sources[0].num_bad, report.sources[0].num_rows) == (1, 1, 100)
    assert report.bad_rows[0].startswith("train.jsonl:100: ")
    with pytest.raises(DataError, match=r"data\.max_bad_fraction: expected at most 0\.90% bad rows, found 1 of 100"):
        prepare(DataConfig(path=path, on_bad_row=BadRows.skip, max_bad_fraction=0.009, **NO_SPLITS))


def test_a_row_that_the_template_refuses_is_a_bad_row(write, prepare):
    refusing = "{% if 'no' in messages[0].content %}{{ raise_exception('no') }}{% endif %}" + CHATML
    path = write([*pairs(9), {"prompt": "no", "response": "x"}])
    with pytest.raises(DataError, match=r"train\.jsonl:10: "):
        prepare(DataConfig(path=path, **NO_SPLITS), byte_level(chat_template=refusing))
    config = DataConfig(path=path, on_bad_row=BadRows.skip, max_bad_fraction=0.1, **NO_SPLITS)
    prepared = prepare(config, byte_level(chat_template=refusing))
    assert (len(prepared.train), prepared.report.num_bad) == (9, 1)


def test_a_mixture_counts_its_sources_and_repeats_by_weight(write, prepare):
    config = DataConfig(
        mix=[
            MixedSourceConfig(path=write(pairs(200), "a.jsonl"), weight=0.5),
            MixedSourceConfig(path=write(pairs(10, 500), "b.jsonl"), weight=2.0),
            MixedSourceConfig(path=write(pairs(50, 900), "c.jsonl"), max_rows=3),
        ],
        **NO_SPLITS,
    )
    prepared = prepare(config)
    files = [example.origin.partition(":")[0] for example in prepared.train]
    assert 70 <= files.count("a.jsonl") <= 130
    assert files.count("b.jsonl") == 20
    assert files.count("c.jsonl") == 3
    assert [source.num_rows for source in prepared.report.sources] == [200, 10, 3]
    assert not [f for f in prepared.report.quality["findings"] if f["check"] == "exact_duplicates"]


def test_quality_actions_take_examples_out(write, prepare):
    quality = QualityConfig(exact_duplicates=Action.drop)
    prepared = prepare(DataConfig(path=write([*pairs(5), *pairs(3)]), quality=quality, **NO_SPLITS))
    assert len(prepared.train) == 5
    assert prepared.report.splits["train"].num_dropped == {"exact_duplicate": 3}


def test_an_augmentation_takes_the_place_of_training_examples_alone(write, prepare, tmp_path):
    source = "def twice(example):\n    return [example, example]\n"
    (tmp_path / "twice.py").write_text(source)
    path = write(pairs(4))
    config = DataConfig(path=path, test_path=path, validation_fraction=0, augment=f"{tmp_path}/twice.py:twice")
    prepared = prepare(config)
    assert (len(prepared.train), len(prepared.test)) == (8, 4)


def test_everything_may_be_trained(write, prepare):
    tokenizer = chatml()
    example = prepare(DataConfig(path=write(pairs(1)), train_on=TrainOn.all, **NO_SPLITS), tokenizer).train[0]
    assert "question 0" in tokenizer.decode(example.input_ids[example.loss_mask])


def test_the_second_time_is_read_from_the_cache(write, prepare, builds):
    config = DataConfig(path=write(pairs(30)), over_length=OverLength.drop)
    first, second = prepare(config), prepare(config)
    assert len(builds) == 1
    assert first.report == second.report
    for before, after in zip(first.train, second.train, strict=True):
        assert before.origin == after.origin
        assert before.input_ids.equal(after.input_ids)
        assert before.loss_mask.equal(after.loss_mask)


def test_what_changes_an_example_changes_the_entry(write, prepare, builds):
    path = write(pairs(30))
    prepare(DataConfig(path=path))
    assert len(builds) == 1
    prepare(DataConfig(path=path), byte_level(chat_template=CHATML.replace("<|end|>\n", "<|end|> ")))  # one character
    assert len(builds) == 2
    prepare(DataConfig(path=path, max_length=512))
    assert len(builds) == 3
    prepare(DataConfig(path=path), byte_level(merges=(("a", "n"),), chat_template=CHATML))
    assert len(builds) == 4
    write([*pairs(29), {"prompt": "question 29", "response": "answer 28"}])
    prepare(DataConfig(path=path))
    assert len(builds) == 5
    prepare(DataConfig(path=path, batch_size=3))  # changes no example
    assert len(builds) == 5


def test_without_cache_nothing_is_kept(write, tmp_path, builds, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    config = DataConfig(path=write(pairs(30)), cache=False)
    for _ in range(2):
        prepared = prepare_data(config, chatml(), tmp_path / "cache")
        assert len(prepared.train) > 20
    assert len(builds) == 2
    assert not (tmp_path / "cache").exists()
    del prepared
    assert list((tmp_path / "temporary").iterdir()) == []


def test_keys_are_read_where_they_count_and_only_there(write, prepare):
    path = write(pairs(3))
    config = DataConfig(path=path, validation_path=path, test_path=path, columns=ColumnsConfig(messages="m"))
    with pytest.raises(DataError, match=r"expected a column 'm' as data\.columns\.messages says"):
        prepare(config)
    fractions = {"validation_fraction", "test_fraction"}
    config = DataConfig(path=path, validation_path=path, test_path=path)
    forget_reads(config)
    prepare(config)
    assert not read_keys(config) & {*fractions, "batch_size", "revision", "subset", "hub_split", "name", "group_by"}
    assert {"max_length", "over_length", "template", "cache", "on_bad_row"} <= read_keys(config)
    config = DataConfig(path=path)
    forget_reads(config)
    prepare(config)
    assert fractions <= read_keys(config)


def test_a_key_counts_as_read_from_the_cache_too(write, prepare, builds):
    path = write(pairs(30))
    reads = []
    for _ in range(2):
        config = DataConfig(path=path)
        forget_reads(config)
        prepare(config)
        reads.append(set(all_reads(config)))
    assert len(builds) == 1
    assert reads[0] == reads[1]
    assert "quality.near_duplicates" in reads[0]


def test_nothing_left_to_train_on(write, prepare):
    config = DataConfig(path=write(pairs(3)), max_length=5, over_length=OverLength.drop, **NO_SPLITS)
    with pytest.raises(
        DataError, match=r"expected training examples, found none \(of 3: 3 over_length\); raise data\."
    ):
        prepare(config)


def test_too_many_dropped(write, prepare):
    rows = [*pairs(8), *({"prompt": "long " * 30, "response": "a"} for _ in range(2))]
    config = {"path": write(rows), "max_length": 80, "over_length": OverLength.drop, **NO_SPLITS}
    with pytest.raises(DataError, match=r"data\.max_dropped_fraction: expected at most 10\.0%.*found 20\.0%"):
        prepare(DataConfig(**config))
    assert len(prepare(DataConfig(**config, max_dropped_fraction=0.2)).train) == 8


def test_everything_held_out(write, prepare):
    with pytest.raises(DataError, match="expected training examples, found none"):
        prepare(DataConfig(path=write(pairs(1)), validation_fraction=0.5, test_fraction=0.4999999))
    with pytest.raises(ConfigError, match="expected a sum below 1"):
        prepare(DataConfig(path=write(pairs(1)), validation_fraction=0.5, test_fraction=0.5))


def test_missing_test_file_names_its_key(write, prepare):
    with pytest.raises(DataError, match=r"^data\.test_path: no file 'nowhere\.jsonl'"):
        prepare(DataConfig(path=write(pairs(3)), test_path="nowhere.jsonl"))


def prepare_and_say(path: str, cache: Path) -> None:
    prepared = prepare_data(DataConfig(path=path), chatml(), cache)
    print(len(prepared.train), prepared.report.preparation_seconds)


@pytest.mark.slow
def test_two_processes_share_one_build(write, tmp_path):
    arguments = (prepare_and_say, write(pairs(300)), tmp_path / "cache")
    both = [Forked(tmp_path / f"said-{number}", *arguments) for number in range(2)]
    said = [process.ended() for process in both]
    assert said[0] == said[1]  # the very time that the one build took
    assert said[0][0] == 0


def test_an_entry_of_dataset_info_is_part_of_the_key(write, prepare, builds, tmp_path):
    write([{"a": f"q {i}", "b": f"r {i}", "c": f"s {i}"} for i in range(30)], "rows.jsonl")
    for answer in ("b", "c"):
        entry = {"file_name": "rows.jsonl", "columns": {"prompt": "a", "response": answer}}
        (tmp_path / "dataset_info.json").write_text(json.dumps({"mine": entry}))
        tokenizer = chatml()
        prepared = prepare(DataConfig(info=str(tmp_path / "dataset_info.json"), name="mine", **NO_SPLITS), tokenizer)
        first = prepared.train[0]
        assert tokenizer.decode(first.input_ids[first.loss_mask]) == f"{'r' if answer == 'b' else 's'} 0<|end|>"
    assert len(builds) == 2


def test_a_file_that_changes_while_it_is_read_is_refused(write, prepare, monkeypatch):
    path = write(pairs(30))
    write_examples = preparing.write_examples

    def then_changed(*arguments):
        result = write_examples(*arguments)
        write(pairs(31))
        return result

    monkeypatch.setattr(preparing, "write_examples", then_changed)
    with pytest.raises(DataError, match=r"^data\.path: .*changed while it was read"):
        prepare(DataConfig(path=path))


def test_a_file_that_grows_between_the_passes_is_refused(write, prepare, monkeypatch):
    path = write(pairs(30))
    survey_examples = preparing.survey_examples

    def then_grown(stage):
        verdict = survey_examples(stage)
        write(pairs(90))
        return verdict

    monkeypatch.setattr(preparing, "survey_examples", then_grown)
    with pytest.raises(DataError, match="changed while it was read"):
        prepare(DataConfig(path=path))


def test_columns_that_come_late_are_named(write, prepare):
    rows = [*pairs(30), {"prompt": "q", "response": "r", "late": "x"}]
    assert prepare(DataConfig(path=write(rows), **NO_SPLITS)).report.sources[0].unused_columns == ["late"]
