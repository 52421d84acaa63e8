from dataclasses import replace
from pathlib import Path

import pytest
import torch
from architectures import ARCHITECTURES, ENDS, VOCABULARY, make, make_prompts, run
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from tunelab.errors import DataError
from tunelab.evaluation import generating, reading, reserving
from tunelab.evaluation.decoding import Completion
from tunelab.evaluation.sampling import Sampling
from tunelab.model.attention import VARLEN

pytestmark = pytest.mark.slow


def reference(model: PreTrainedModel, prompt: list[int], max_new_tokens: int = 24) -> Completion:
    """transformers' own greedy generation of one prompt alone."""
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        output = model.eval().generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_new_tokens,
            do_sample=False, eos_token_id=ENDS, pad_token_id=0,
        )  # fmt: skip
    tokens = output[0, len(prompt) :].tolist()
    finished = bool(tokens) and tokens[-1] in ENDS
    return Completion(tokens[:-1] if finished else tokens, finished)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_batch_changes_nothing_and_transformers_agrees(name: str):
    model, prompts = make(name), make_prompts(64)
    together = run(model, prompts)
    assert together == run(model, prompts, batch_tokens=1)
    assert together == run(model, prompts, batch_tokens=300)
    assert together[:12] == [reference(model, prompt) for prompt in prompts[:12]]
    assert {done.finished for done in together} == {True, False}
    assert len({tuple(done.token_ids) for done in together}) > 30


def test_an_adapter_counts():
    model = make()
    plain = run(model, make_prompts(8))
    torch.manual_seed(0)
    tuned = get_peft_model(model, LoraConfig(target_modules="all-linear", init_lora_weights=False)).double()
    adapted = run(tuned, make_prompts(8))
    assert adapted != plain
    assert adapted == run(tuned, make_prompts(8), batch_tokens=1)
    assert adapted == [reference(tuned, prompt) for prompt in make_prompts(8)]


def test_a_model_in_varlen_attention_decodes_as_ever():
    model = make()
    plain = run(model, make_prompts(8))
    model.set_attn_implementation(VARLEN)
    assert run(model, make_prompts(8)) == plain
    assert model.config._attn_implementation == VARLEN


def test_no_prompts_no_completions():
    assert run(make(), []) == []


def test_a_model_that_ends_at_once_says_nothing():
    done = run(make(), make_prompts(3), end_token_ids=list(range(VOCABULARY)))
    assert done == [Completion([], finished=True)] * 3


def test_an_end_token_that_is_also_the_pad_token():
    model, prompts = make(), make_prompts(16)
    assert run(model, prompts, pad_token_id=ENDS[0]) == run(model, prompts)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_positions_run_out(name: str):
    model = make(name)
    prompts = [[1] * 60, [2, 3], [4] * 63]
    done = run(model, prompts, end_token_ids=[VOCABULARY])
    assert [len(completion.token_ids) for completion in done] == [4, 24, 1]
    assert not any(completion.finished for completion in done)
    assert done[0] == reference(model, prompts[0], max_new_tokens=4)


@pytest.mark.parametrize(("prompt", "message"), [([], "at least 1 token"), ([1] * 64, "64 positions")])
def test_a_prompt_that_cannot_be_completed(prompt: list[int], message: str):
    with pytest.raises(DataError, match=f"{message}.*prompt number 2"):
        run(make(), [[1], prompt])


def test_modes_come_back_one_by_one():
    model = make().train()
    model.lm_head.eval()
    run(model, [[1]])
    assert model.training
    assert model.model.layers[0].training
    assert not model.lm_head.training


def test_modes_come_back_after_an_error(monkeypatch: pytest.MonkeyPatch):
    def fail(*_):
        raise RuntimeError("boom")

    monkeypatch.setattr(generating, "decode", fail)
    model = make().train()
    with pytest.raises(RuntimeError, match="boom"):
        run(model, [[1]])
    assert model.training
    assert not torch.is_inference_mode_enabled()


def test_a_model_can_train_after_it_generated():
    model = make().train()
    run(model, make_prompts(4))
    model(input_ids=torch.tensor([[1, 2, 3]]), labels=torch.tensor([[1, 2, 3]])).loss.backward()
    assert model.lm_head.weight.grad is not None


def test_a_quantised_model_has_the_same_gradients_after_it_generated(tmp_path: Path):
    make(dtype=torch.float32).save_pretrained(tmp_path)
    nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=nf4)  # in eval mode
    torch.manual_seed(0)
    model = get_peft_model(model, LoraConfig(target_modules="all-linear", init_lora_weights=False)).eval()

    def gradients() -> list[torch.Tensor]:
        model.train().zero_grad()
        model(input_ids=torch.tensor([[1, 2, 3]]), labels=torch.tensor([[1, 2, 3]])).loss.backward()
        return [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]

    first = run(model, make_prompts(4))
    before = gradients()
    assert run(model, make_prompts(4)) == first
    assert all(torch.equal(a, b) for a, b in zip(before, gradients(), strict=True))
    # Generation repeats the weights as they are; a fresh load, never run in eval mode, is the truth.
    torch.manual_seed(0)
    fresh = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=nf4)
    model = get_peft_model(fresh, LoraConfig(target_modules="all-linear", init_lora_weights=False))
    assert all(torch.equal(a, b) for a, b in zip(before, gradients(), strict=True))


def test_batches_hold_the_budget(monkeypatch: pytest.MonkeyPatch):
    sizes: list[tuple[int, int]] = []
    decode = generating.decode

    def record(model, causal_lm, batch, *rest):
        sizes.append((len(batch), max(len(request.prompt_ids) for request in batch)))
        return decode(model, causal_lm, batch, *rest)

    monkeypatch.setattr(generating, "decode", record)
    run(make(), make_prompts(40), batch_tokens=200)
    assert sum(rows for rows, _ in sizes) == 40
    assert all(rows * (longest + 24) <= 200 for rows, longest in sizes)


def test_out_of_memory_halves_the_batch(monkeypatch: pytest.MonkeyPatch):
    model, prompts = make(), make_prompts(9)
    expected = run(model, prompts)
    decode = generating.decode

    def small_memory(model, causal_lm, batch, *rest):
        if len(batch) > 2:
            raise torch.OutOfMemoryError("no memory")
        return decode(model, causal_lm, batch, *rest)

    monkeypatch.setattr(generating, "decode", small_memory)
    assert run(model, prompts) == expected


def test_out_of_memory_with_one_prompt_is_an_error(monkeypatch: pytest.MonkeyPatch):
    def no_memory(*_):
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(generating, "decode", no_memory)
    with pytest.raises(torch.OutOfMemoryError):
        run(make(), make_prompts(3))


@pytest.mark.parametrize(
    "settings", [{}, {"top_p": 0.8}, {"top_k": 5}, {"temperature": 0.6, "top_p": 0.9, "top_k": 12}]
)
def test_a_sample_depends_on_neither_batch_nor_order(settings: dict):
    model, prompts = make(), make_prompts(64)
    numbers = [place % 3 for place in range(64)]
    sampling = Sampling(seed=7, **settings)
    together = run(model, prompts, sampling=sampling, sample_numbers=numbers)
    assert together == run(model, prompts, sampling=sampling, sample_numbers=numbers, batch_tokens=1)
    backwards = run(model, prompts[::-1], sampling=sampling, sample_numbers=numbers[::-1], batch_tokens=300)
    assert together == backwards[::-1]
    assert together != run(model, prompts)
    assert together != run(model, prompts, sampling=replace(sampling, seed=8), sample_numbers=numbers)


def test_samples_of_one_prompt_differ_and_repeat():
    model, prompt = make(), make_prompts(1)[0]
    samples = run(model, [prompt] * 6, sampling=Sampling(), sample_numbers=range(6))
    assert len({tuple(done.token_ids) for done in samples}) == 6
    assert run(model, [prompt], sampling=Sampling(), sample_numbers=[4]) == [samples[4]]


def test_the_most_likely_token_alone_is_greedy():
    model, prompts = make(), make_prompts(8)
    assert run(model, prompts, sampling=Sampling(top_k=1)) == run(model, prompts)
    assert run(model, prompts, sampling=Sampling(top_p=1e-9)) == run(model, prompts)


def test_samples_of_one_prompt_share_its_pass(monkeypatch: pytest.MonkeyPatch):
    model, prompts = make(), make_prompts(5)
    widths: list[torch.Size] = []
    forward = model.model.forward

    def watched(*arguments, **named):
        widths.append(named["input_ids"].shape)
        return forward(*arguments, **named)

    monkeypatch.setattr(model.model, "forward", watched)
    sampling = {"sampling": Sampling(seed=3), "max_new_tokens": 9}
    together = run(model, [prompt for prompt in prompts for _ in range(6)], [*range(6)] * 5, **sampling)
    assert widths[0] == (5, max(map(len, prompts)))
    assert {shape[1] for shape in widths[1:]} == {1}
    assert widths[1][0] > 5
    alone = [run(model, [prompt], [number], **sampling)[0] for prompt in prompts for number in range(6)]
    assert together == alone


def test_many_prompts_are_read_in_parts(monkeypatch: pytest.MonkeyPatch):
    model, prompts = make(), make_prompts(30)
    expected = run(model, prompts)
    monkeypatch.setattr(reading, "PROMPT_TOKENS", 50)
    assert run(model, prompts) == expected


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_room_grows(name: str, monkeypatch: pytest.MonkeyPatch):
    model, prompts = make(name), make_prompts(6)
    expected = run(model, prompts)
    for growth in (1, 5):
        monkeypatch.setattr(reserving, "GROWTH", growth)
        assert run(model, prompts) == expected
