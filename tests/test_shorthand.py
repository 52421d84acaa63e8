"""What may be typed shorter."""

import pytest

from tunelab.errors import ConfigError
from tunelab.shorthand import spelled_out


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("=general", ["+data@{}.general=general"]),
        ("=[general, 'safety']", ["+data@{}.general=general", "+data@{}.safety=safety"]),
        ("=[a.jsonl]", ["+data@{}.a=file", '{}.a.data.path="a.jsonl"']),
        ('=["my, own.x.jsonl"]', ["+data@{}.my_own=file", '{}.my_own.data.path="my, own.x.jsonl"']),
        ("={mine:t.csv,b: c}", ["+data@{}.mine=file", '{}.mine.data.path="t.csv"', "+data@{}.b=c"]),
        ("=[embedded:g/text.txt]", ["+data@{}.text=file", '{}.text.data.path="embedded:g/text.txt"']),
        ("={a:{data:{path:x}}}", ["++{}={{a:{{data:{{path:x}}}}}}"]),
        (".a.data.format=text", ["{}.a.data.format=text"]),
    ],
)
def test_sets_by_name_and_by_file(typed: str, meant: list[str]):
    assert spelled_out(f"evaluation.sets{typed}") == [each.format("evaluation.sets") for each in meant]
    assert spelled_out("data=general") == ["data=general"]


def test_a_row_by_keys_and_values_needs_no_quotes():
    assert spelled_out("reference=peft=lora,optim.lr=1e-4") == ['reference="peft=lora,optim.lr=1e-4"']
    assert spelled_out("reference=1e-4") == ['reference="1e-4"']
    for plain in ("reference=null", "reference=", 'reference="a=1"', "reference='a=1'"):
        assert spelled_out(plain) == [plain]


@pytest.mark.parametrize("typed", ["[]", "", "[a,a]", "[a/x.jsonl,b/x.csv]", "{:x}", "{a:}"])
def test_what_names_no_sets_is_refused(typed: str):
    with pytest.raises(ConfigError, match=r"^evaluation\.sets: expected different names of data choices or files"):
        spelled_out(f"evaluation.sets={typed}")
