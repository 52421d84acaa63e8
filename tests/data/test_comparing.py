"""The rejected answer is shown behind the same prompt, and nothing of it is supervised."""

import json

from tiny_tokenizers import CHATML, byte_level

from tunelab.config import DataConfig
from tunelab.data.comparing import rejected_answers


def test_rejected_answers_by_origin(tmp_path):
    rows = [{"prompt": f"q {i}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(4)]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer = byte_level(chat_template=CHATML)
    found = rejected_answers(DataConfig(path=str(path)), tokenizer, ["pairs.jsonl:2", "pairs.jsonl:4", "elsewhere"])
    assert {origin: tokenizer.decode(example.input_ids) for origin, example in found.items()} == {
        f"pairs.jsonl:{i + 1}": f"<|start|>user\nq {i}<|end|>\n<|start|>assistant\nbad {i}<|end|>\n" for i in (1, 3)
    }
    assert not any(example.loss_mask.any() for example in found.values())


def test_other_formats_have_none(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "q", "completion": "a"}\n')
    assert rejected_answers(DataConfig(path=str(path)), byte_level(chat_template=CHATML), ["rows.jsonl:1"]) == {}
