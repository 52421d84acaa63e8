"""Prompt methods: virtual tokens in training, measuring, generation, exports and resumed runs, and what is refused."""

import copy
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import REPOSITORY, make_model, make_tokenizer
from peft import CPTConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from steps import ragged_examples
from steps import train as train_steps
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, MistralConfig

from tunelab.config import EvaluateConfig, ModelConfig, Quantization
from tunelab.data.batching import cut
from tunelab.data.collating import collate
from tunelab.data.records import IGNORE_INDEX
from tunelab.errors import ConfigError, DataError, ModelError
from tunelab.evaluate import evaluate
from tunelab.evaluation.decoding import Completion, Decoding
from tunelab.evaluation.generating import can_be_completed, generate
from tunelab.model.adapter import attach_adapter, build_peft_config, load_adapter, ready_for_adapter
from tunelab.model.loading import enable_checkpointing, load_base_model
from tunelab.model.saving import export_model
from tunelab.model.tuning import read_tuning
from tunelab.model.virtual_tokens import num_virtual_tokens, num_virtual_tokens_of_folder
from tunelab.run import RunFolder
from tunelab.training.module import CausalLMModule
from tunelab.training.objective import SftObjective
from tunelab.training.optim import suggested_learning_rate

CPU = torch.device("cpu")
NUM_VIRTUAL = 5
SMALL = {"num_virtual_tokens": NUM_VIRTUAL}
METHODS: dict[str, dict[str, Any]] = {
    "prompt_tuning": {"_target_": "peft.PromptTuningConfig", **SMALL, "prompt_tuning_init": "SAMPLE_VOCAB"},
    "p_tuning": {"_target_": "peft.PromptEncoderConfig", **SMALL, "encoder_hidden_size": 16},
    "p_tuning_lstm": {"_target_": "peft.PromptEncoderConfig", **SMALL, "encoder_reparameterization_type": "LSTM"},
    "prefix_tuning": {"_target_": "peft.PrefixTuningConfig", **SMALL},
    "prefix_projection": {"_target_": "peft.PrefixTuningConfig", **SMALL, "prefix_projection": True},
    "cartridge": {"_target_": "peft.CartridgeConfig", **SMALL},
}
CHOICES = ("prompt_tuning", "p_tuning", "prefix_tuning", "cartridge")
VOCABULARY = 300
SIZES = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 64, "eos_token_id": None, "bos_token_id": None, "initializer_range": 0.3,
}  # fmt: skip
GROUPED = {**SIZES, "intermediate_size": 48, "num_key_value_heads": 2, "head_dim": 8}
ARCHITECTURES = {
    "llama": LlamaConfig(**GROUPED),
    "gpt2": GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.3,
        eos_token_id=None, bos_token_id=None, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    ),
    "mistral": MistralConfig(**GROUPED, sliding_window=8),
}  # fmt: skip


def make(method: str, architecture: str = "llama", dtype: torch.dtype = torch.float64) -> PeftModel:
    torch.manual_seed(3)
    base = AutoModelForCausalLM.from_config(copy.deepcopy(ARCHITECTURES[architecture]))
    return attach_adapter(base, build_peft_config(METHODS[method]), seed=0).to(dtype)


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_equal_within(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], tolerance: float) -> None:
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=tolerance, atol=tolerance)


# --- training -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fused_head", [True, False])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("method", METHODS)
def test_loss_and_gradients_are_those_of_peft_on_each_example_alone(method: str, architecture: str, fused_head: bool):
    model, examples = make(method, architecture), ragged_examples(3)
    nll_sum = torch.zeros((), dtype=torch.float64)
    for example in examples:
        batch = collate([example], padded=True, pad_token_id=0)
        output = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels)
        logits, following = output.logits[0, -example.num_tokens : -1], batch.labels[0, 1:]
        nll = torch.nn.functional.cross_entropy(logits, following, reduction="sum", ignore_index=IGNORE_INDEX)
        count = (following != IGNORE_INDEX).sum()
        torch.testing.assert_close(output.loss.double(), nll / count, rtol=1e-6, atol=0)  # transformers' is float32
        nll_sum = nll_sum + nll
    nll_sum.backward()
    expected = gradients(model)
    assert expected
    model.zero_grad()
    together = collate(examples, padded=True, pad_token_id=0)
    sums = SftObjective(head_chunk_tokens=16, fused_head=fused_head)(model, together)
    sums.nll_sum.backward()
    torch.testing.assert_close(sums.nll_sum, nll_sum, rtol=1e-10, atol=0)
    assert_equal_within(gradients(model), expected, 1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_any_cut_gives_the_same_weights(method: str, tmp_path: Path):
    def trained(budget: int) -> dict[str, torch.Tensor]:
        base = make_model(len(make_tokenizer()))
        model = attach_adapter(base, build_peft_config(METHODS[method]), seed=1).double()
        return train_steps(
            model, ragged_examples(24), tmp_path, num_steps=3, micro_batch_tokens=budget, padded=True, lr=0.1
        )[0]

    whole = trained(10_000)
    assert_equal_within(trained(100), whole, 1e-9)
    assert_equal_within(trained(1), whole, 1e-9)


def test_the_budget_counts_virtual_tokens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    seen: list[list[int]] = []
    monkeypatch.setattr(
        "tunelab.training.module.cut", lambda lengths, *rest: seen.append(lengths) or cut(lengths, *rest)
    )
    base = make_model(len(make_tokenizer()))
    model = attach_adapter(base, build_peft_config(METHODS["prefix_tuning"]), seed=1)
    examples = ragged_examples(8)
    train_steps(model, examples, tmp_path, num_steps=1, padded=True)
    assert sorted(seen[0]) == sorted(NUM_VIRTUAL + example.num_tokens for example in examples)


def test_several_examples_in_a_row_are_refused():
    with pytest.raises(ModelError, match=r"^model\.attention: virtual tokens stand in front of one example a row"):
        SftObjective(16)(make("prompt_tuning"), collate(ragged_examples(2), padded=False, pad_token_id=0))


@pytest.mark.parametrize("method", ["prompt_tuning", "p_tuning"])
def test_recomputed_activations_give_the_same_gradients(method: str):
    def found(recompute: bool) -> dict[str, torch.Tensor]:
        base = make_model(len(make_tokenizer())).train()
        if recompute:
            enable_checkpointing(base)
        model = attach_adapter(base, build_peft_config(METHODS[method]), seed=1).double()
        batch = collate(ragged_examples(3), padded=True, pad_token_id=0)
        SftObjective(16)(model, batch).nll_sum.backward()
        return gradients(model)

    assert_equal_within(found(True), found(False), 1e-12)


def test_an_adapter_of_the_head_is_not_passed_by():
    """The fused head reads a weight, which an adapter of the head is not part of."""
    torch.manual_seed(3)
    base = AutoModelForCausalLM.from_config(copy.deepcopy(ARCHITECTURES["llama"]))
    lora = {"_target_": "peft.LoraConfig", "r": 2, "target_modules": ["lm_head"], "init_lora_weights": False}
    model = attach_adapter(base, build_peft_config(lora), seed=0)
    batch = collate(ragged_examples(3), padded=True, pad_token_id=0)
    fused, own = (SftObjective(16, fused_head=fused)(model, batch).nll_sum for fused in (True, False))
    assert torch.equal(fused, own)
    fused.backward()
    assert len(gradients(model)) == 2


# --- generation -----------------------------------------------------------------------------------------------------

ENDS = [7, 11, 13]


def make_prompts(count: int, vocabulary: int = VOCABULARY) -> list[list[int]]:
    rng = random.Random(5)
    return [[rng.randrange(vocabulary) for _ in range(rng.randint(1, 20))] for _ in range(count)]


def complete(model: torch.nn.Module, prompts: list[list[int]], **changes: Any) -> list[Completion]:
    arguments = {"max_new_tokens": 12, "batch_tokens": 10**6, "end_token_ids": ENDS, "pad_token_id": 0}
    return generate(model, prompts, Decoding(**{**arguments, **changes}))


def by_peft(model: PeftModel, prompt: list[int]) -> Completion:
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        output = model.eval().generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False,
            eos_token_id=ENDS, pad_token_id=0,
        )  # fmt: skip
    tokens = output[0, len(prompt) :].tolist()
    finished = tokens[-1] in ENDS
    return Completion(tokens[:-1] if finished else tokens, finished)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("method", CHOICES)
def test_the_batch_changes_no_completion_and_peft_agrees(method: str, architecture: str):
    model, prompts = make(method, architecture), make_prompts(24)
    together = complete(model, prompts)
    assert together == complete(model, prompts, batch_tokens=1)
    assert together[:6] == [by_peft(model, prompt) for prompt in prompts[:6]]
    assert len({tuple(done.token_ids) for done in together}) > 8


@pytest.mark.parametrize("method", CHOICES)
def test_positions_run_out(method: str):
    model = make(method, "gpt2")
    done = complete(model, [[1] * 57, [2, 3], [4] * 58], end_token_ids=[VOCABULARY], max_new_tokens=20)
    assert [len(each.token_ids) for each in done] == [2, 20, 1]  # 64 positions, 5 of them virtual
    assert can_be_completed(model, [1] * 58)
    assert not can_be_completed(model, [1] * 59)
    with pytest.raises(DataError, match="shorter than the 59 positions"):
        complete(model, [[1] * 59])


# --- whole runs -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prompted(run: Callable[..., RunFolder]) -> Callable[..., RunFolder]:
    """Fine-tune the tests' base model by a choice of conf/peft; returns the folder."""
    return partial(run, "~peft.r", f"peft.num_virtual_tokens={NUM_VIRTUAL}")


class Killed(BaseException):
    """As sudden as a kill."""


def weights(folder: RunFolder) -> dict[str, torch.Tensor]:
    return load_file(folder.adapter / "adapter_model.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["p_tuning", "cartridge"])  # one of inputs, one of keys and values
def test_a_killed_run_is_resumed_to_the_same_bits(
    method: str, prompted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    original = CausalLMModule.training_step

    def die_at_four(self: CausalLMModule, batch: Any) -> Any:
        if batch.step == 4:
            raise Killed
        return original(self, batch)

    folder = RunFolder(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(CausalLMModule, "training_step", die_at_four)
        with pytest.raises(Killed):
            prompted(f"peft={method}", folder=folder)
    prompted(f"peft={method}", folder=folder, resuming=True)
    whole = prompted(f"peft={method}")
    assert all(torch.equal(tensor, weights(whole)[name]) for name, tensor in weights(folder).items())
    assert folder.read_summary()["reproducibility"] == "bit-exact"
    log = (whole.path / "run.log").read_text(encoding="utf-8").replace("\n", " ")
    assert "micro-batches right-padded (virtual tokens stand in front of each example)" in log


@pytest.mark.parametrize("method", ["prompt_tuning", "prefix_tuning"])
def test_measuring_the_run_again_gives_its_metrics(method: str, prompted):
    overrides = ("evaluation.generate=true", "evaluation.max_new_tokens=8", "evaluation.max_examples=5",
                 "evaluation.base=true", "trainer.num_sample_completions=1")  # fmt: skip
    folder = prompted(f"peft={method}", *overrides)
    assert num_virtual_tokens_of_folder(folder.adapter) == NUM_VIRTUAL
    recorded = folder.read_summary()["metrics"]
    assert recorded["base/test/loss"] != recorded["test/loss"]
    from tunelab.compose import load_config

    config = load_config(folder.path / "config.yaml")
    again = evaluate(EvaluateConfig(run=str(folder.path)), config, RunFolder(folder.path), [])
    assert again == {name: value for name, value in recorded.items() if "test/" in name}


@pytest.mark.parametrize("method", METHODS)
def test_an_export_is_what_plain_peft_loads(method: str, model_folder: Path, tmp_path: Path):
    model = attach_adapter(
        load_base_model(ModelConfig(path=str(model_folder)), CPU), build_peft_config(METHODS[method]), 0
    )
    train_steps(model, ragged_examples(8), tmp_path, num_steps=2, padded=True, lr=0.1)
    export_model(model, make_tokenizer(), str(model_folder), tmp_path / "adapter")
    inputs = {"input_ids": torch.tensor([[5, 9, 30, 77, 12]]), "attention_mask": torch.ones(1, 5, dtype=torch.long)}
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model_folder), tmp_path / "adapter")
    ours = load_adapter(load_base_model(ModelConfig(path=str(model_folder)), CPU), tmp_path / "adapter")
    with torch.no_grad():
        expected = model.eval()(**inputs).logits
        assert torch.equal(plain.eval()(**inputs).logits, expected)
        assert torch.equal(ours.eval()(**inputs).logits, expected)


@pytest.mark.slow
@pytest.mark.parametrize("method", CHOICES)
def test_thirty_steps_lower_the_loss_of_the_embedded_model(method: str, tmp_path: Path, compose_config):
    config = compose_config(f"peft={method}")
    base = load_base_model(config.model, CPU)
    model = attach_adapter(base, build_peft_config(config.peft), seed=0)
    examples = ragged_examples(8)
    lr = suggested_learning_rate(base.config.hidden_size, adapter=True) * read_tuning(config.peft).lr_factor
    _, figures = train_steps(
        model, examples, tmp_path, num_steps=30, batch_size=4, padded=True, optimizer="torch.optim.AdamW", lr=lr
    )
    losses = [step["train/loss"] for step in figures]
    assert sum(losses[-4:]) < 0.99 * sum(losses[:4])


@pytest.mark.parametrize("method", CHOICES)
def test_a_quantised_base_trains_and_completes_alike(method: str, model_folder: Path):
    config = ModelConfig(path=str(model_folder), quantization=Quantization.nf4)
    model = attach_adapter(ready_for_adapter(load_base_model(config, CPU)), build_peft_config(METHODS[method]), 0)
    examples = ragged_examples(4)
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        SftObjective(16)(model, collate(examples, padded=True, pad_token_id=0)).nll_sum.backward()
        assert all(torch.isfinite(gradient).all() for gradient in gradients(model).values())
        assert len(complete(model, make_prompts(3, 200))) == 3
    assert len(gradients(model)) > 0


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_virtual_tokens": 0}, r"^peft\.num_virtual_tokens: expected an integer of at least 1, found 0; set"),
        ({"num_virtual_tokens": None}, r"^peft\.num_virtual_tokens: expected an integer of at least 1, found None"),
        ({"num_virtual_tokens": 2.5}, r"^peft\.num_virtual_tokens: "),
        ({"prompt_tuning_init": "NOISE"}, r"^peft\.prompt_tuning_init: expected RANDOM, SAMPLE_VOCAB or TEXT"),
    ],
)
def test_a_prompt_without_sense_is_refused(change: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        build_peft_config({**METHODS["prompt_tuning"], **change})


@pytest.mark.parametrize("name", ["MultitaskPromptTuningConfig", "CPTConfig"])
def test_methods_that_need_more_than_examples_are_refused(name: str, tmp_path: Path):
    arguments = {"_target_": f"peft.{name}"} | ({} if name == "CPTConfig" else SMALL)
    with pytest.raises(ConfigError, match=rf"^peft\._target_: {name} needs more than the examples"):
        build_peft_config(arguments)
    model = get_peft_model(make_model(300), CPTConfig(task_type="CAUSAL_LM", cpt_token_ids=[1, 2]))
    model.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="CPTConfig needs more than the examples"):
        load_adapter(make_model(300), tmp_path)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["peft=prompt_tuning", "model.attention=varlen"],
            r"^model\.attention: .*virtual tokens stand in front of each",
        ),
        (
            ["peft=prefix_tuning", "trainer.gradient_checkpointing=true"],
            r"^trainer\.gradient_checkpointing: .*found true",
        ),
        (
            ["peft=p_tuning", "peft.num_virtual_tokens=256"],
            r"^peft\.num_virtual_tokens: expected fewer than the 256 pos",
        ),
        (
            ["peft=p_tuning", "peft.num_virtual_tokens=250"],
            r"^data\.max_length: expected at most 6 tokens \(256 positions",
        ),
        (
            ["peft=prompt_tuning", "peft.prompt_tuning_init=TEXT"],
            r"found it without a text; set peft\.prompt_tuning_init_",
        ),
        (["peft=prompt_tuning", "+peft.prompt_tuning_init_text=x"], r"found a text; set peft\.prompt_tuning_init=TEXT"),
        (["peft=prompt_tuning", "+peft.tokenizer_name_or_path=x"], r"^peft\.tokenizer_name_or_path: expected none"),
    ],
)
def test_what_does_not_go_together_is_refused_before_the_weights(
    overrides: list[str], message: str, prompted, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("tunelab.run_model.load_base_model", lambda *_: pytest.fail("weights were loaded"))
    with pytest.raises(ConfigError, match=message):
        prompted(*overrides)


def test_a_text_is_the_first_prompt(prompted):
    folder = prompted(
        "peft=prompt_tuning", "peft.prompt_tuning_init=TEXT", "+peft.prompt_tuning_init_text=what is two", "optim.lr=0"
    )
    config = yaml.safe_load((folder.path / "config.yaml").read_text(encoding="utf-8"))
    ids = make_tokenizer()("what is two")["input_ids"]
    embeddings = load_base_model(ModelConfig(path=config["model"]["path"]), CPU).get_input_embeddings().weight
    wanted = embeddings[torch.tensor(ids * NUM_VIRTUAL)[:NUM_VIRTUAL]]
    assert torch.equal(weights(folder)["prompt_embeddings"], wanted)


def test_every_choice_is_one_file_with_its_source():
    for method in CHOICES:
        text = (REPOSITORY / "conf" / "peft" / f"{method}.yaml").read_text(encoding="utf-8")
        assert "20" in text.splitlines()[0]  # a year
        assert "optim" not in text  # whose rate would hide what is typed there
    assert num_virtual_tokens(None) == 0
