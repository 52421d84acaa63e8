"""One good row for each way to write each format, and the short way to read a row."""

from tunelab.config import ColumnsConfig, TagsConfig, TrainOn
from tunelab.data.formats import decide_layout, to_example
from tunelab.data.records import Row

USER = {"role": "user", "content": "hi"}
ASSISTANT = {"role": "assistant", "content": "hello"}
SYSTEM = {"role": "system", "content": "be kind"}
HUMAN = {"from": "human", "value": "hi"}
GPT = {"from": "gpt", "value": "hello"}
OTHER_GPT = {"from": "gpt", "value": "go away"}

GOOD_ROWS = {
    "alpaca": ("alpaca", {"instruction": "Add", "input": "1, 2", "output": "3"}),
    "alpaca with history": ("alpaca", {"instruction": "b", "output": "B", "history": [["a", "A"]], "system": "s"}),
    "dolly": ("alpaca", {"instruction": "a", "context": "c", "response": "b", "category": "qa"}),
    "alpaca with a rendered text": ("alpaca", {"instruction": "a", "input": "", "output": "b", "text": "### a b"}),
    "messages": ("messages", {"messages": [SYSTEM, USER, ASSISTANT]}),
    "messages in another column": ("messages", {"conversations": [USER, ASSISTANT]}),
    "sharegpt": ("sharegpt", {"conversations": [HUMAN, GPT]}),
    "sharegpt in another column": ("sharegpt", {"messages": [HUMAN, GPT]}),
    "prompt and completion": ("prompt_completion", {"prompt": "a", "completion": "b"}),
    "prompt and response": ("prompt_completion", {"prompt": "a", "response": "b"}),
    "question and answer": ("prompt_completion", {"question": "a", "answer": "b"}),
    "prompt and completion as turns": ("prompt_completion", {"prompt": [SYSTEM, USER], "completion": [ASSISTANT]}),
    "multiple choice": ("multiple_choice", {"question": "q", "choices": ["a", "b"], "answer": 1}),
    "multiple choice by text": (
        "multiple_choice",
        {"prompt": "q", "choices": ["a", "b"], "response": "b", "system": "s"},
    ),
    "multiple choice as ARC": (
        "multiple_choice",
        {"question": "q", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "B"},
    ),
    "text": ("text", {"text": "a document"}),
    "text with a label": ("text", {"text": "a document", "label": 1}),
    "segments": ("segments", {"segments": [{"label": False, "text": "a"}, {"label": True, "text": "b"}]}),
    "pretokenized": ("pretokenized", {"input_ids": [5, 6], "labels": [-100, 6], "attention_mask": [1, 1]}),
    "preference": ("preference", {"prompt": "a", "chosen": "b", "rejected": "c"}),
    "preference as alpaca": ("preference", {"instruction": "a", "input": "x", "chosen": "b", "rejected": "c"}),
    "preference with turns": ("preference", {"prompt": [USER], "chosen": [ASSISTANT], "rejected": [ASSISTANT]}),
    "preference as sharegpt": ("preference", {"conversations": [HUMAN], "chosen": GPT, "rejected": OTHER_GPT}),
    "preference, whole": ("preference", {"chosen": [HUMAN, GPT], "rejected": [HUMAN, OTHER_GPT]}),
    "preference, whole with prompt": (
        "preference",
        {"prompt": "hi", "chosen": [USER, ASSISTANT], "rejected": [USER, {**ASSISTANT, "content": "go away"}]},
    ),
    "kto": ("kto", {"prompt": "a", "completion": "b", "label": False}),
    "kto as alpaca": ("kto", {"instruction": "a", "input": "", "output": "b", "kto_tag": True}),
    "kto with turns": ("kto", {"messages": [USER, ASSISTANT], "label": True}),
    "kto as sharegpt": ("kto", {"conversations": [HUMAN, GPT], "kto_tag": True}),
}


def rows_of(*fields):
    return [Row(each, f"a.jsonl:{7 + index}") for index, each in enumerate(fields)]


def layout_of(*fields, format="auto", tags=None, **columns):
    return decide_layout(format, ColumnsConfig(**columns), TagsConfig(**(tags or {})), rows_of(*fields))


def read(fields, format="auto", train_on="responses", tags=None, **columns):
    return to_example(rows_of(fields)[0], layout_of(fields, format=format, tags=tags, **columns), TrainOn(train_on))


def turns(*args, **kwargs):
    return [(m.role.value, m.content, m.trained) for m in read(*args, **kwargs).messages]
