"""`tunelab chat`: prompts as in training, decoding as in evaluation, and a session that survives what people do."""

import io
import json
import os
import shutil
import signal
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from exported_runs import plainly, write_run
from model.families import miniature
from transformers import AutoTokenizer
from transformers.generation.logits_process import TemperatureLogitsWarper, TopPLogitsWarper

from tunelab.chat.conversing import chat, stoppable
from tunelab.compose import load_config
from tunelab.config import ChatConfig, DataConfig, ModelConfig, forget_reads
from tunelab.data.preparing import prepare_data
from tunelab.data.prompting import Prompter
from tunelab.data.records import Message, Role
from tunelab.data.rendering import decide_template
from tunelab.errors import ConfigError, DataError
from tunelab.escaping import printable
from tunelab.evaluation.decoding import Decoding
from tunelab.evaluation.generating import generate, inference
from tunelab.evaluation.streaming import TextPieces, make_chooser, stream
from tunelab.model.generation import base_generation_config, completion_ends
from tunelab.model.loading import load_base_model
from tunelab.model.tokenizer import load_tokenizer
from tunelab.run import open_run_folder

CPU = torch.device("cpu")
QUESTIONS = ["what is 2 plus 3?", "and 4?"]


@pytest.fixture(scope="module")
def run_folder(tiny_config, tmp_path_factory) -> Path:
    return write_run(tiny_config("peft.r=4"), tmp_path_factory.mktemp("run"))


@pytest.fixture
def talk(monkeypatch, capsys, run_folder):
    """Send lines through a pipe; returns what standard output and standard error got."""

    def through(lines: list[str], run: Path | None = run_folder, typed: list[str] | None = None, **keys):
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        config = ChatConfig(run=str(run) if run else None, **keys)
        forget_reads(config)
        folder = open_run_folder(str(run)) if run else None
        chat(config, load_config(run / "config.yaml") if run else None, folder, typed or [])
        return capsys.readouterr()

    return through


@pytest.mark.parametrize("template", ["chat", "alpaca", "plain"])
def test_a_first_prompt_has_the_ids_of_data_preparation(template, model_folder, data_file, tmp_path):
    tokenizer = load_tokenizer(ModelConfig(path=str(model_folder)))
    data = prepare_data(DataConfig(path=str(data_file), template=template), tokenizer, tmp_path)
    prompter = Prompter(decide_template(template, tokenizer), tokenizer)
    assert prompter.end_of_turn == data.end_of_turn
    rows = {f"what is {a} plus {b}?" + " please" * (a % 4) for a in range(10) for b in range(6)}
    found = {tuple(prompter.prompt_ids([Message(Role.USER, question)])) for question in rows}
    assert {tuple(example.prompt_ids) for example in [*data.test, *data.validation]} < found


def test_a_later_prompt_is_what_the_chat_template_writes(model_folder):
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    turns = [("system", "be brief"), ("user", "one"), ("assistant", "two"), ("user", "three")]
    expected = tokenizer.apply_chat_template(
        [{"role": role, "content": content} for role, content in turns], add_generation_prompt=True, return_dict=False
    )
    messages = [Message(Role(role), content, trained=role == "assistant") for role, content in turns]
    assert Prompter(decide_template("chat", tokenizer), tokenizer).prompt_ids(messages) == expected


def test_greedy_is_what_evaluation_generates(run_folder, model_folder):
    model = plainly(model_folder, run_folder / "adapter")
    prompts = [[5, 9, 30, 77], [3, 8, 41, 17, 90, 11]]
    greedy = make_chooser(0, 1, 0)
    decoding = Decoding(20, batch_tokens=10**6, end_token_ids=[1, 40], pad_token_id=0)

    def streamed(prompt: list[int]) -> list[int]:
        with inference(model):
            return list(stream(model, prompt, 20, [1, 40], greedy))

    tuned = [done.token_ids for done in generate(model, prompts, decoding)]
    assert [streamed(prompt) for prompt in prompts] == tuned
    with model.disable_adapter():
        base = [done.token_ids for done in generate(model, prompts, decoding)]
        assert [streamed(prompt) for prompt in prompts] == base
    assert base != tuned


def test_a_recurrent_model_answers_over_its_own_cache():
    model, prompt = miniature("mamba"), [5, 9, 30, 77]
    decoding = Decoding(8, batch_tokens=10**6, end_token_ids=[1], pad_token_id=0)
    with inference(model):
        found = list(stream(model, prompt, 8, [1], make_chooser(0, 1, 0)))
    assert found == generate(model, [prompt], decoding)[0].token_ids


def test_sampling_follows_the_nucleus_and_the_seed():
    logits = torch.tensor([2.0, 1.5, 0.3, -1.0, 1.0], dtype=torch.float64)
    warped = TopPLogitsWarper(0.9)(None, TemperatureLogitsWarper(0.7)(None, logits[None]))  # transformers' own
    expected = warped.softmax(-1)[0]
    choose = make_chooser(0.7, 0.9, seed=3)
    draws = [choose(logits) for _ in range(4000)]
    shares = torch.tensor([Counter(draws)[token] / 4000 for token in range(5)], dtype=torch.float64)
    assert (expected == 0).sum() == 2
    assert (shares - expected).abs().max() < 0.03
    assert ((shares == 0) == (expected == 0)).all()
    again = make_chooser(0.7, 0.9, seed=3)
    assert [again(logits) for _ in range(50)] == draws[:50]
    assert {make_chooser(5.0, 1e-9, seed=0)(logits) for _ in range(5)} == {0}  # the most likely token always stays


@pytest.mark.parametrize("text", ["the answer is 5", "naïve Ω → 日本 🙂!", "🙂"])
def test_pieces_of_text_add_up(text, model_folder):
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    ids = tokenizer(text).input_ids
    pieces = TextPieces(lambda part: tokenizer.decode(list(part)))
    shown = [pieces.add(token) for token in ids]
    assert "".join([*shown, pieces.rest()]) == text
    assert not any("\ufffd" in piece for piece in shown)
    half = TextPieces(lambda part: tokenizer.decode(list(part)))
    assert [half.add(token) for token in tokenizer("🙂").input_ids[:1]] == [""]
    assert half.rest() == "\ufffd"


def test_a_pipe_gets_answers_alone(talk, run_folder, model_folder):
    shown = talk([*QUESTIONS[:1], "", "/reset", QUESTIONS[0]], max_new_tokens=6)
    assert shown.err == ""
    assert "\x1b" not in shown.out
    assert "tuned" not in shown.out
    half = len(shown.out) // 2
    assert shown.out[:half] == shown.out[half:]  # the same question in a new conversation
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    ids = Prompter(decide_template("chat", tokenizer), tokenizer).prompt_ids([Message(Role.USER, QUESTIONS[0])])
    model = plainly(model_folder, run_folder / "adapter")
    [done] = generate(model, [ids], Decoding(6, batch_tokens=999, end_token_ids=[1], pad_token_id=0))
    assert shown.out[:half] == printable(tokenizer.decode(done.token_ids), keep="\n\t") + "\n"
    both = talk(QUESTIONS[:1], max_new_tokens=6, base=True).out
    assert both.endswith(shown.out[:half])
    assert len(both) > half
    assert talk([*QUESTIONS[:1], "/quit", *QUESTIONS], max_new_tokens=6).out == shown.out[:half]


def test_answers_are_shown_as_they_were_written(talk, tiny_config, model_folder, tmp_path, monkeypatch):
    """A tokenizer that cleans up would show "a ." as "a.", and scores would be of another text."""
    run = write_run(tiny_config("peft.r=4"), tmp_path / "run")
    saved = AutoTokenizer.from_pretrained(run / "adapter")
    ids = [token for word in (" the", " .", " ,") for token in saved(word).input_ids]
    settings = json.loads((run / "adapter" / "tokenizer_config.json").read_text())
    settings["clean_up_tokenization_spaces"] = True
    settings["clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"] = True
    (run / "adapter" / "tokenizer_config.json").write_text(json.dumps(settings))
    monkeypatch.setattr("tunelab.chat.voice.stream", lambda *_: iter(ids))
    assert talk(["hi"], run=run).out == " the . ,\n"


def test_a_base_without_generation_config_ends_where_its_configuration_says(model_folder, tmp_path):
    base = shutil.copytree(model_folder, tmp_path / "base")
    (base / "generation_config.json").unlink()
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "eos_token_id": [1, 40]}))
    model = ModelConfig(path=str(base))
    assert completion_ends(model, load_tokenizer(model), "<|user|>") == (1, 3, 40)
    assert base_generation_config(model).eos_token_id == load_base_model(model, CPU).generation_config.eos_token_id


def test_a_template_file_is_used_where_no_run_names_it(talk, model_folder, tmp_path):
    (tmp_path / "own.jinja").write_text("{% for m in messages %}<|system|>{{ m.content }}<|end|>{% endfor %}")
    shown = [
        talk(["hi"], run=None, model=ModelConfig(path=str(model_folder)), template=name, max_new_tokens=12).out
        for name in ("chat", str(tmp_path / "own.jinja"))
    ]
    assert shown[0] != shown[1]


@pytest.mark.parametrize(
    ("template", "said"),
    [("allpaca", r"^template: expected .*'alpaca'\?; set template="), ("none.jinja", r"^template: .*set template=")],
)
def test_a_template_is_called_as_here(talk, model_folder, template: str, said: str):
    with pytest.raises(DataError, match=said):
        talk(["hi"], run=None, model=ModelConfig(path=str(model_folder)), template=template)


def test_a_second_question_knows_the_first(talk):
    together = talk(QUESTIONS, max_new_tokens=6).out
    apart = talk([QUESTIONS[0], "/reset", QUESTIONS[1]], max_new_tokens=6).out
    assert together != apart


def test_a_conversation_that_is_too_long(talk):
    long = "z" * 150  # tokens, of 256 positions
    shown = talk([long, long, "ok"], max_new_tokens=2)
    assert shown.err.count("\n") == 1
    assert "256 positions: type /reset, or start with drop_oldest=true" in shown.err
    dropped = talk([long, long, "ok"], max_new_tokens=2, drop_oldest=True)
    assert dropped.err == ""


def test_ctrl_c_stops_an_answer_only():
    before = signal.getsignal(signal.SIGINT)
    with stoppable(True) as stopped:
        assert not stopped()
        os.kill(os.getpid(), signal.SIGINT)
        assert stopped()
    assert signal.getsignal(signal.SIGINT) is before


def test_a_stopped_answer_leaves_the_session_as_it_was(talk, monkeypatch):
    whole = talk(["zz", "zz"], max_new_tokens=6, base=True).out

    @contextmanager
    def after_two_tokens(_):
        count = iter(range(100))
        yield lambda: next(count) == 1

    monkeypatch.setattr("tunelab.chat.conversing.stoppable", after_two_tokens)
    stopped = talk(["zz", "/reset", "zz"], max_new_tokens=6, base=True).out
    monkeypatch.undo()
    assert len(stopped) < len(whole)
    half = len(stopped) // 2
    assert stopped[:half] == stopped[half:]  # base and tuned again, the adapter off and on as at first


def test_a_base_alone_and_keys_that_nothing_uses(talk, model_folder):
    model = ModelConfig(path=str(model_folder))
    assert talk(["hi"], run=None, model=model, max_new_tokens=4, system="be brief").out.endswith("\n")
    assert talk(["hi"], run=None, model=model, template="plain", max_new_tokens=4).err == ""
    with pytest.raises(ConfigError, match=r"model\.path: set, but nothing uses it"):
        talk(["hi"], typed=["model.path=x"])
