"""Every kind of bad row gives one sentence: which row, which column or turn, what was found, and what to do."""

import math

import pytest
from format_rows import ASSISTANT, GPT, HUMAN, SYSTEM, USER, layout_of, rows_of

from tunelab.config import TrainOn
from tunelab.data.formats import to_example
from tunelab.errors import DataError

PAIR = {"prompt": "p", "response": "r"}
ALPACA = {"instruction": "i", "output": "o"}
CALL = {"name": "add", "arguments": {"a": 1}}
ASKED = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": "2"}
IDS = {"input_ids": [5, 6, 7]}
CHOICE = {"prompt": "p", "chosen": "c", "rejected": "r"}
DEEP: list = []
for _ in range(5000):
    DEEP = [DEEP]


def chat(*turns):
    return "messages", {"messages": list(turns)}


def share(*turns):
    return "sharegpt", {"conversations": list(turns)}


def tokens(**more):
    return "pretokenized", {**IDS, **more}


def pair(**more):
    return "preference", {**CHOICE, **more}


MEND = "mend the row"

# case → ((format, row), what was expected and found where, the remedy)
BAD = {
    # columns
    "missing column": (
        ("alpaca", {"instruction": "i"}),
        r"a column 'output' as format alpaca has it, found column 'instruction'",
        r"set data\.columns\.response=<column> or mend the row",
    ),
    "a row of another format": (
        ("messages", ALPACA),
        "a column 'messages' .*found columns 'instruction', 'output'",
        r"set data\.columns\.messages=<column> or mend the row",
    ),
    "an empty row": (
        ("text", {}),
        "a column 'text' .*found no columns",
        r"set data\.columns\.text=<column> or mend the row",
    ),
    # texts
    "null": (("prompt_completion", {**PAIR, "prompt": None}), r"text in column 'prompt', found null", MEND),
    "a number": (
        ("prompt_completion", {**PAIR, "response": 3}),
        r"text in column 'response', found the number 3",
        MEND,
    ),
    "true": (("alpaca", {**ALPACA, "input": True}), r"text in column 'input', found true", MEND),
    "an object": (("text", {"text": {"a": 1, "b": 2}}), r"in column 'text', found an object with keys 'a', 'b'", MEND),
    "bytes": (("text", {"text": b"x"}), r"text in column 'text', found a value of type bytes", MEND),
    "NUL": (("text", {"text": "ab\0"}), r"text in column 'text', found a NUL character at character 2", MEND),
    "lone surrogate": (
        ("alpaca", {**ALPACA, "output": "a\ud83d"}),
        r"text in column 'output', found half a surrogate pair \(U\+D83D\) at character 1",
        MEND,
    ),
    "a system that is no text": (
        ("alpaca", {**ALPACA, "system": ["s"]}),
        r"in column 'system', found a list of 1",
        MEND,
    ),
    "a history of texts": (
        ("alpaca", {**ALPACA, "history": ["q", "a"]}),
        r"a list of a question and an answer in history\[0\], found the text 'q'",
        MEND,
    ),
    "a history of triples": (
        ("alpaca", {**ALPACA, "history": [["q", "a", "x"]]}),
        r"history\[0\], found a list of 3",
        MEND,
    ),
    "a number in the history": (
        ("alpaca", {**ALPACA, "history": [["q", 1]]}),
        r"in history\[0\]\[1\], found the number 1",
        MEND,
    ),
    "a history that is text": (("alpaca", {**ALPACA, "history": "q"}), r"column 'history', found the text 'q'", MEND),
    # turns
    "turns that are text": (
        ("messages", {"messages": "hi"}),
        r"a list with .* in column 'messages', found the text 'hi'",
        MEND,
    ),
    "long text for turns": (("messages", {"messages": "x" * 99}), r"found the text 'x{40}'…", MEND),
    "no turns": (
        ("messages", {"messages": []}),
        r"a list with at least one item in column 'messages', found an empty",
        MEND,
    ),
    "null turns": (("sharegpt", {"conversations": None}), r"in column 'conversations', found null", MEND),
    "a turn that is text": (
        chat(USER, "hello"),
        r"'role' and 'content' in messages\[1\], found the text 'hello'",
        MEND,
    ),
    "a turn of another format": (
        chat(USER, GPT),
        r"the keys 'role' and 'content' in messages\[1\], found keys 'from', 'value'",
        rf"set data\.tags\.role=<key> data\.tags\.content=<key>, or {MEND}",
    ),
    "no role": (chat({"content": "x"}), r"in messages\[0\], found key 'content'", rf"data\.tags\.role=.*{MEND}"),
    "unknown role": (
        chat(USER, {"role": "bot", "content": ""}),
        r"one of system, developer, user, assistant, tool in messages\[1\]\.role, found the text 'bot'",
        rf"data\.tags\.assistant=<name>.*{MEND}",
    ),
    "a misspelt role": (chat({"role": "asistant", "content": ""}), r"; did you mean 'assistant'\?", MEND),
    "a role that is a list": (chat({"role": [], "content": ""}), r"messages\[0\]\.role, found an empty list", MEND),
    "unknown speaker": (
        share({"from": "alien", "value": "x"}),
        r"conversations\[0\]\.from, found the text 'alien'",
        MEND,
    ),
    "null content": (
        chat(USER, {"role": "assistant", "content": None}),
        r"text in messages\[1\]\.content, found null",
        MEND,
    ),
    "no content": (share(HUMAN, {"from": "gpt"}), r"text in conversations\[1\]\.value, found null", MEND),
    "NUL in a turn": (
        share({**HUMAN, "value": "\0"}, GPT),
        r"in conversations\[0\]\.value, found a NUL character",
        MEND,
    ),
    "an image": (
        chat({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, ASSISTANT),
        r"a part .* in messages\[0\]\.content\[0\], found a part of type 'image_url'",
        f"tunelab trains on text alone: {MEND}",
    ),
    "a part that is text": (
        chat({**USER, "content": ["hi"]}),
        r"messages\[0\]\.content\[0\], found the text 'hi'",
        MEND,
    ),
    "a part without text": (chat({**USER, "content": [{"type": "text"}]}), r"content\[0\]\.text, found null", MEND),
    "a weight between": (
        chat(USER, {**ASSISTANT, "weight": 0.5}),
        r"0 or 1 in messages\[1\]\.weight, found the number 0\.5",
        MEND,
    ),
    "a flag that is text": (
        chat(USER, {**ASSISTANT, "train": "yes"}),
        r"messages\[1\]\.train, found the text 'yes'",
        MEND,
    ),
    "flags at odds": (
        chat(USER, {**ASSISTANT, "train": True, "weight": 0}),
        r"'train' and 'weight' to agree in messages\[1\], found True and 0",
        MEND,
    ),
    "a key of another tool": (
        chat(USER, {**ASSISTANT, "loss": True}),
        r"no such key in messages\[1\], found 'loss'",
        f"write it as 'train': true or false, or {MEND}",
    ),
    # tools
    "a result out of nowhere": (
        chat(USER, ASSISTANT, RESULT, ASSISTANT),
        r"user after an assistant turn, found tool in turn 2 \(from 0; roles user, assistant, tool, assistant\)",
        "write the call as 'tool_calls' .*",
    ),
    "a result first": (
        chat(RESULT, ASSISTANT),
        r"system or user at the beginning, found tool in turn 0",
        "mend the order",
    ),
    "a call without a result": (
        chat(USER, ASKED, USER, ASSISTANT),
        r"tool after an assistant with tool calls turn, found user in turn 2",
        "add the tool's result, or leave the call out",
    ),
    "a call and at once an answer": (
        chat(USER, ASKED, ASSISTANT),
        "found assistant in turn 2",
        "add the tool's result.*",
    ),
    "a result without an answer": (
        chat(USER, ASKED, RESULT, USER, ASSISTANT),
        "tool or assistant after a tool turn, found user in turn 3",
        "add the assistant's answer to the result",
    ),
    "a result last": (chat(USER, ASKED, RESULT), "the assistant's turn last, found a tool turn last", "add the answer"),
    "results of other calls": (
        chat(USER, {**ASKED, "tool_calls": [{**CALL, "id": "1"}]}, {**RESULT, "tool_call_id": "2"}, ASSISTANT),
        r"results for the tool calls '1' of turn 1 \(from 0\), found results for '2'",
        MEND,
    ),
    "one result for two calls": (
        chat(
            USER,
            {**ASKED, "tool_calls": [{**CALL, "id": "1"}, {**CALL, "id": "2"}]},
            {**RESULT, "tool_call_id": "1"},
            ASSISTANT,
        ),
        r"the tool calls '1', '2' .*found results for '1'",
        MEND,
    ),
    "a call of the user": (
        chat({**USER, "tool_calls": [CALL]}, ASSISTANT),
        r"'tool_calls' in turns of assistant alone in messages\[0\], found it in one of user",
        MEND,
    ),
    "a call without a name": (
        chat(USER, {**ASKED, "tool_calls": [{"arguments": {}}]}),
        r"'name' and 'arguments' in messages\[1\]\.tool_calls\[0\], found an object with key 'arguments'",
        MEND,
    ),
    "a call that is text": (
        chat(USER, {**ASKED, "tool_calls": ["add"]}),
        r"tool_calls\[0\], found the text 'add'",
        MEND,
    ),
    "arguments that are no JSON": (
        chat(USER, {**ASKED, "tool_calls": [{**CALL, "arguments": "{a"}]}),
        r"JSON text in messages\[1\]\.tool_calls\[0\]\.arguments, found the text '\{a'",
        MEND,
    ),
    "arguments in a list": (
        chat(USER, {**ASKED, "tool_calls": [{**CALL, "arguments": [1]}]}),
        r"arguments by name in messages\[1\]\.tool_calls\[0\]\.arguments, found a list of 1",
        f"write them as an object or as its JSON text, or {MEND}",
    ),
    "an infinite argument": (
        chat(USER, {**ASKED, "tool_calls": [{**CALL, "arguments": {"a": math.inf}}]}),
        r"JSON values \(no infinity, no nan\) in messages\[1\]\.tool_calls\[0\], found the number inf",
        MEND,
    ),
    "a lone surrogate in an argument": (
        chat(USER, {**ASKED, "tool_calls": [{**CALL, "arguments": {"a": "\udc00"}}]}),
        r"text in messages\[1\]\.tool_calls\[0\], found half a surrogate pair \(U\+DC00\) at character 0",
        MEND,
    ),
    "arguments without bottom": (
        chat(USER, {**ASKED, "tool_calls": [{**CALL, "arguments": {"a": DEEP}}]}),
        r"JSON of moderate depth in messages\[1\]\.tool_calls\[0\], found too many nested",
        MEND,
    ),
    "a function_call that is no JSON": (
        share(HUMAN, {"from": "function_call", "value": "add(1)"}),
        r"JSON text in conversations\[1\]\.value, found the text 'add\(1\)'",
        MEND,
    ),
    "an empty function_call": (
        share(HUMAN, {"from": "function_call", "value": "[]"}),
        r"at least one tool call in conversations\[1\]\.value, found an empty list",
        MEND,
    ),
    "tools that are no JSON": (
        ("messages", {"messages": [USER, ASSISTANT], "tools": "add"}),
        r"JSON text in column 'tools', found the text 'add'",
        MEND,
    ),
    "tools that are one object": (
        ("messages", {"messages": [USER, ASSISTANT], "tools": {"name": "add"}}),
        r"a list of tools .* in column 'tools', found an object with key 'name'",
        MEND,
    ),
    "a tool without a name": (
        ("messages", {"messages": [USER, ASSISTANT], "tools": [{"type": "function"}]}),
        r"a tool with a name in tools\[0\], found an object with key 'type'",
        MEND,
    ),
    # the order of turns
    "no assistant": (
        chat(SYSTEM, USER),
        r"the assistant's turn last, found a user turn last \(roles system, user\)",
        "add the answer",
    ),
    "a question last": (
        chat(USER, ASSISTANT, USER),
        r"the assistant's turn last, found a user turn last \(roles user, assistant, user\)",
        "remove what follows the last answer",
    ),
    "a system alone": (chat(SYSTEM), "found a system turn last", "add the answer"),
    "a late system": (
        chat(USER, SYSTEM, ASSISTANT),
        "assistant after a user turn, found system in turn 1",
        "mend the order",
    ),
    "two systems": (
        ("messages", {"messages": [SYSTEM, USER, ASSISTANT], "system": "s"}),
        "user after a system turn, found system in turn 1",
        "join the two system messages",
    ),
    "a greeting": (
        share(GPT, HUMAN, GPT),
        r"system or user at the beginning, found assistant in turn 0",
        "remove the greeting, or move it into the system message",
    ),
    "a greeting after the system": (
        chat(SYSTEM, ASSISTANT),
        "found assistant in turn 1",
        "remove the greeting.*",
    ),
    "two questions": (chat(USER, USER, ASSISTANT), "found user in turn 1", "join the two user turns"),
    "two answers": (share(HUMAN, GPT, GPT), "found assistant in turn 2", "join the two assistant turns"),
    "many turns": (chat(*[USER] * 12), r"roles (user, ){10}…\)", "join the two user turns"),
    # prompts with answers
    "a response that begins with the user": (
        ("prompt_completion", {"prompt": [USER], "response": [USER, ASSISTANT]}),
        "an answer that the assistant begins in column 'response', found a turn of user first",
        f"leave the turns of the prompt out of it, or {MEND}",
    ),
    "turns where there were texts": (
        ("prompt_completion", {"prompt": [USER], "response": "r"}),
        r"text alone, as in the first rows in prompt\[0\]",
        MEND,
    ),
    # documents, segments, ids
    "segments that are text": (
        ("segments", {"segments": ["a"]}),
        r"'label' and 'text' in segments\[0\], found the text",
        MEND,
    ),
    "no segments": (("segments", {"segments": []}), r"in column 'segments', found an empty list", MEND),
    "a label of 1": (
        ("segments", {"segments": [{"label": 1, "text": "a"}]}),
        r"true \(trained\) or false in segments\[0\]\.label, found the number 1",
        MEND,
    ),
    "a segment without text": (("segments", {"segments": [{"label": True}]}), r"segments\[0\]\.text, found null", MEND),
    "no ids": (("pretokenized", {"input_ids": []}), "in column 'input_ids', found an empty list", MEND),
    "ids in text": (("pretokenized", {"input_ids": "1 2"}), "in column 'input_ids', found the text '1 2'", MEND),
    "a negative id": (
        ("pretokenized", {"input_ids": [1, -1]}),
        "token ids of 0 or more in column 'input_ids', found the number -1",
        MEND,
    ),
    "a huge id": (("pretokenized", {"input_ids": [2**31]}), "in column 'input_ids', found the number 2147483648", MEND),
    "a fractional id": (
        ("pretokenized", {"input_ids": [1, 2.0]}),
        r"an integer in input_ids\[1\], found the number 2\.0",
        MEND,
    ),
    "a true id": (("pretokenized", {"input_ids": [True]}), r"an integer in input_ids\[0\], found true", MEND),
    "fewer labels": (
        tokens(labels=[5, 6]),
        "3 values, one for each token id, in column 'labels', found 2",
        MEND,
    ),
    "another label": (
        tokens(labels=[-100, 6, 8]),
        r"-100 or the token id 7 in labels\[2\], found the number 8",
        f"labels are not shifted: write the id itself, or {MEND}",
    ),
    "a longer loss mask": (tokens(loss_mask=[1] * 4), "in column 'loss_mask', found 4", MEND),
    "a loss mask of weights": (tokens(loss_mask=[0, 1, 2]), "1 and 0 in column 'loss_mask', found the number 2", MEND),
    "labels and loss mask at odds": (
        tokens(labels=[-100, 6, 7], loss_mask=[0, 0, 1]),
        "the positions that 'loss_mask' trains in column 'labels', found others",
        MEND,
    ),
    "padding": (
        tokens(attention_mask=[1, 1, 0]),
        "ones alone in column 'attention_mask', found the number 0",
        f"remove the padding, or {MEND}",
    ),
    # preferences
    "no answer chosen": (pair(chosen=None), "text in column 'chosen', found null", MEND),
    "an empty list rejected": (pair(rejected=[]), "in column 'rejected', found an empty list", MEND),
    "a flag in a pair": (
        ("preference", {"conversations": [HUMAN], "chosen": {**GPT, "weight": 0}, "rejected": GPT}),
        "no flag in chosen, found key 'weight'",
        "remove 'train' and 'weight': format preference trains the answers alone",
    ),
    "a prompt that ends in an answer": (
        ("preference", {"conversations": [HUMAN, GPT], "chosen": GPT, "rejected": GPT}),
        "user after an assistant turn, found assistant in turn 2",
        "join the two assistant turns",
    ),
    "a chosen question": (
        ("preference", {"conversations": [HUMAN], "chosen": HUMAN, "rejected": GPT}),
        "an answer that the assistant begins in column 'chosen', found a turn of user first",
        MEND,
    ),
    "an order that only the rejected answer breaks": (
        ("preference", {"conversations": [HUMAN], "chosen": [GPT], "rejected": [GPT, HUMAN]}),
        "the assistant's turn last, found a user turn last",
        "remove what follows the last answer",
    ),
    "pairs of different prompts": (
        ("preference", {"chosen": [HUMAN, GPT], "rejected": [{**HUMAN, "value": "no"}, GPT]}),
        r"conversations that begin with the same prompt in columns 'chosen' and 'rejected', found turn 0 \(from 0\)",
        rf"give the prompt in a column of its own \(data\.columns\.prompt=<column>\), or {MEND}",
    ),
    "answers without a prompt": (
        ("preference", {"chosen": "Human: hi", "rejected": "Human: hi"}),
        "a list with at least one item in column 'chosen', found the text 'Human: hi'",
        MEND,
    ),
    "another prompt beside whole conversations": (
        ("preference", {"prompt": "x", "chosen": [USER, ASSISTANT], "rejected": [USER, ASSISTANT]}),
        "the text of column 'prompt' in columns 'chosen' and 'rejected', found other user turns",
        f"remove the column, or {MEND}",
    ),
    "a label that is a number": (
        ("kto", {**PAIR, "label": 1}),
        "true or false in column 'label', found the number 1",
        MEND,
    ),
    "a label that is null": (
        ("kto", {"messages": [USER, ASSISTANT], "label": None}),
        "in column 'label', found null",
        MEND,
    ),
}

# A row of the same format that is good: the layout is decided by it where the bad row alone would not do.
FIRST = {
    "missing column": ALPACA,
    "a row of another format": {"messages": [USER, ASSISTANT]},
    "an empty row": {"text": "a"},
    "null turns": {"conversations": [HUMAN, GPT]},
    "a turn of another format": {"messages": [USER, ASSISTANT]},
    "no role": {"messages": [USER, ASSISTANT]},
    "turns where there were texts": PAIR,
}


@pytest.mark.parametrize("case", BAD)
def test_bad_rows(case):
    (format, fields), found, remedy = BAD[case]
    rows = rows_of(fields)
    layout = layout_of(FIRST.get(case, fields), format=format)
    with pytest.raises(DataError, match=rf"^a\.jsonl:7: expected (?s:.*){found}.*; .*{remedy}\.$") as caught:
        to_example(rows[0], layout, TrainOn.responses)
    assert "\n" not in str(caught.value)
    assert str(caught.value).encode()  # the sentence itself can be printed
    assert len(str(caught.value)) < 400


def test_there_are_enough_of_them():
    sentences = set()
    for (format, fields), _, _ in (BAD[case] for case in BAD if case not in FIRST):
        with pytest.raises(DataError) as caught:
            to_example(rows_of(fields)[0], layout_of(fields, format=format), TrainOn.responses)
        sentences.add(str(caught.value))
    assert len(sentences) >= 60


@pytest.mark.parametrize("case", [case for case in BAD if case not in FIRST])
@pytest.mark.parametrize("train_on", list(TrainOn))
def test_a_bad_row_is_bad_whatever_is_trained(case, train_on):
    (format, fields), _, _ = BAD[case]
    with pytest.raises(DataError):
        to_example(rows_of(fields)[0], layout_of(fields, format=format), train_on)
