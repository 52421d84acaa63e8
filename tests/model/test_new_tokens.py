"""New tokens: in the tokenizer, as rows of the embeddings, trained, exported, measured again; and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import make_model, make_tokenizer
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from tunelab.compose import dump_config, load_config
from tunelab.config import DType, EvaluateConfig, ExportConfig, ExportKind, ModelConfig, Quantization, forget_reads
from tunelab.errors import ConfigError, ModelError
from tunelab.evaluate import evaluate
from tunelab.export.exporting import export
from tunelab.finetune import fine_tune
from tunelab.model.adapter import attach_adapter, build_peft_config, load_adapter, ready_for_adapter
from tunelab.model.loading import check_base_model, load_base_model, tuned_as_base
from tunelab.model.new_tokens import new_token_ids, require_known_tokens, train_new_tokens
from tunelab.model.tokenizer import load_tokenizer
from tunelab.run import RunFolder

CPU = torch.device("cpu")
TOKENS = ["please", "<tool>"]  # the first is in every other row of the data
LORA = {"_target_": "peft.LoraConfig", "r": 2, "target_modules": "all-linear"}


def save_base(folder: Path, tied: bool, spare_rows: int = 0) -> Path:
    tokenizer = make_tokenizer()
    model = make_model(len(tokenizer) + spare_rows)
    if tied:
        model.config.tie_word_embeddings = True
        model.tie_weights()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def base_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("base"), request.param)


@pytest.fixture(scope="module")
def run(tiny_config, base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., RunFolder]:
    def train(*overrides: str) -> RunFolder:
        tokens = f"model.new_tokens={json.dumps(TOKENS)}"
        config = tiny_config(f"model.path={base_folder}", tokens, "evaluation.base=true", *overrides)
        folder = RunFolder(tmp_path_factory.mktemp("run"))
        folder.write_text("config.yaml", dump_config(config))
        forget_reads(config)
        _ = config.output_dir, config.resume
        fine_tune(config, folder, [tokens, *overrides])
        return folder

    return train


@pytest.mark.parametrize("spare_rows", [0, 1, 8])
@pytest.mark.parametrize("tied", [False, True])
def test_new_rows_are_the_mean_of_the_old(tied: bool, spare_rows: int, tmp_path: Path):
    config = ModelConfig(path=str(save_base(tmp_path, tied, spare_rows)), new_tokens=TOKENS)
    size = len(make_tokenizer())
    tokenizer = load_tokenizer(config)
    assert new_token_ids(tokenizer, TOKENS) == [size, size + 1]
    assert tokenizer.decode(tokenizer.encode("a<tool>please"), skip_special_tokens=True) == "a<tool>please"
    check_base_model(config, len(tokenizer))
    plain, model = (load_base_model(each, CPU) for each in (ModelConfig(path=config.path), config))
    assert model.config.vocab_size == max(size + 2, size + spare_rows)
    for before, after in (
        (plain.get_input_embeddings().weight, model.get_input_embeddings().weight),
        (plain.get_output_embeddings().weight, model.get_output_embeddings().weight),
    ):
        assert torch.equal(after[:size], before[:size])
        mean = before[:size].double().mean(dim=0)
        torch.testing.assert_close(after[size : size + 2].double(), mean.expand(2, -1), rtol=1e-5, atol=1e-6)
        assert torch.equal(after[size + 2 :], before[size + 2 :])


@pytest.mark.parametrize("options", [{}, {"quantization": Quantization.nf4}, {"dtype": DType.bfloat16}])
def test_only_the_new_rows_are_trained_in_float32(base_folder: Path, options):
    config = ModelConfig(path=str(base_folder), new_tokens=TOKENS, **options)
    ids = new_token_ids(load_tokenizer(config), TOKENS)
    base = ready_for_adapter(load_base_model(config, CPU))
    tied = base.get_output_embeddings().weight is base.get_input_embeddings().weight
    adapter = build_peft_config(LORA)
    train_new_tokens(adapter, base, ids)
    model = attach_adapter(base, adapter, 0)
    rows = {n: p for n, p in model.named_parameters() if p.requires_grad and "lora" not in n}
    assert [(tuple(p.shape), p.dtype) for p in rows.values()] == [((2, 32), torch.float32)] * (1 if tied else 2)
    batch = torch.tensor([[5, ids[0], 9, ids[1], 7]])
    model(input_ids=batch, labels=batch).loss.backward()
    assert all(bool((p.grad.abs().sum(dim=1) > 0).all()) for p in rows.values())


def test_a_run_is_exported_so_that_plain_peft_repeats_it(run, base_folder: Path):
    folder = run()
    tokenizer = AutoTokenizer.from_pretrained(folder.adapter)
    ids = torch.tensor([tokenizer.encode("what is two please <tool>")])
    assert ids.max() == len(make_tokenizer()) + 1
    base = AutoModelForCausalLM.from_pretrained(base_folder)
    base.resize_token_embeddings(len(tokenizer))  # whatever it puts there, the adapter replaces
    plain = PeftModel.from_pretrained(base, folder.adapter).eval()
    config = load_config(folder.path / "config.yaml")
    ours = load_adapter(load_base_model(config.model, CPU), folder.adapter).eval()
    with torch.no_grad():
        assert torch.equal(plain(ids).logits, ours(ids).logits)
    rows = next(p for n, p in ours.named_parameters() if "trainable_tokens_delta" in n)
    fresh = load_base_model(config.model, CPU).get_input_embeddings().weight[-2:]
    assert not torch.equal(rows[0], fresh[0])  # 'please' was trained
    recorded = folder.read_summary()["metrics"]
    again = evaluate(EvaluateConfig(run=str(folder.path)), config, RunFolder(folder.path), [])
    assert again == {name: value for name, value in recorded.items() if "test/" in name}
    log = (folder.path / "run.log").read_text(encoding="utf-8")
    assert "new tokens: 2, ids" in log
    assert "the head is adapted" in log
    with pytest.raises(ModelError, match=r"set 'model\.new_tokens=\[\"please\", \"<tool>\"\]'\."):
        require_known_tokens(folder.adapter, len(make_tokenizer()))
    with pytest.raises(ModelError, match="does not fit this base model"):
        load_adapter(load_base_model(ModelConfig(path=str(base_folder)), CPU), folder.adapter)


def test_full_fine_tuning_exports_the_larger_model(run):
    folder = run("peft=none", "~peft.r")
    tokenizer, model = (kind.from_pretrained(folder.adapter) for kind in (AutoTokenizer, AutoModelForCausalLM))
    assert model.config.vocab_size == len(tokenizer) == len(make_tokenizer()) + 2
    recorded = folder.read_summary()["metrics"]
    config = load_config(folder.path / "config.yaml")
    again = evaluate(EvaluateConfig(run=str(folder.path)), config, RunFolder(folder.path), [])
    assert again == {name: value for name, value in recorded.items() if "test/" in name}
    loaded = load_base_model(tuned_as_base(config.model, folder.adapter), CPU)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in loaded.state_dict().items())
    goal = folder.path / "whole"
    export(ExportConfig(run=str(folder.path), to=str(goal), kind=ExportKind.merged), config, RunFolder(folder.path), [])
    assert AutoModelForCausalLM.from_pretrained(goal).config.vocab_size == len(tokenizer)


def test_prepared_data_is_kept_apart_by_tokens(tiny_config, base_folder: Path, tmp_path: Path):
    from tunelab.data.preparing import prepare_data

    config = tiny_config(f"model.path={base_folder}")
    plain = prepare_data(config.data, load_tokenizer(config.model), tmp_path)
    more = ModelConfig(path=str(base_folder), new_tokens=TOKENS)
    longer = prepare_data(config.data, load_tokenizer(more), tmp_path)
    assert sum(e.num_tokens for e in longer.train) < sum(e.num_tokens for e in plain.train)
    assert len(list(tmp_path.glob("*/manifest.json"))) == 2


@pytest.mark.parametrize("tokens", [["a", "a"], [""], [" a"]])
def test_a_list_without_sense_is_refused(tokens: list[str]):
    with pytest.raises(ConfigError, match=r"^model\.new_tokens: expected different tokens without white space"):
        ModelConfig(path="x", new_tokens=tokens)


def test_a_token_that_is_not_new_is_refused(base_folder: Path):
    with pytest.raises(ConfigError, match=r"^model\.new_tokens: .*found '<\|user\|>' with the id 3; remove it"):
        load_tokenizer(ModelConfig(path=str(base_folder), new_tokens=["<|user|>"]))


def test_a_tokenizer_too_large_for_its_model_stays_an_error(base_folder: Path):
    config = ModelConfig(path=str(base_folder), new_tokens=TOKENS)
    with pytest.raises(ModelError, match="ids, the model only"):
        check_base_model(config, len(make_tokenizer()) + 3)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["peft=prompt_tuning", "~peft.r"],
            r"^model\.new_tokens: .*found PromptTuningConfig; use peft=lora",
        ),
        (
            ["peft=last_layers", "~peft.r"],
            r"^model\.new_tokens: expected none beside peft\.num_layers=2, with which their embeddings would not be",
        ),
        (
            ["+peft.trainable_token_indices=[3]"],
            r"^peft\.trainable_token_indices: expected null beside model",
        ),
    ],
)
def test_adapters_that_cannot_train_them_are_refused(overrides: list[str], message: str, run):
    with pytest.raises(ConfigError, match=message):
        run(*overrides)


def test_a_head_with_a_bias_is_refused(base_folder: Path):
    base = load_base_model(ModelConfig(path=str(base_folder)), CPU)
    base.lm_head.bias = torch.nn.Parameter(torch.zeros(base.lm_head.out_features))
    with pytest.raises(ModelError, match="expected a head without bias"):
        train_new_tokens(build_peft_config(LORA), base, [3])
