"""Every method of conf/peft trains on the embedded model, exports, loads with PEFT alone, and starts from the seed."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.prompt_tuning import PromptTuningConfig
from transformers import AutoModelForCausalLM

from tunelab.config import ModelConfig, Quantization
from tunelab.data.collating import collate
from tunelab.data.records import MicroBatch, TokenizedExample
from tunelab.embedded import locate
from tunelab.model.adapter import Start, attach_adapter, base_of, build_peft_config, load_adapter
from tunelab.model.budget import add_regularizer_gradients, plan_budget, prune_ranks, settle_ranks
from tunelab.model.export import export_model
from tunelab.model.initializing import as_plain_lora, changes_the_base
from tunelab.model.loading import load_base_model
from tunelab.model.tokenizer import load_tokenizer
from tunelab.model.tuning import UNSUPPORTED_TYPES, read_tuning
from tunelab.training.objective import SftObjective, last_hidden_state

CONF = Path(__file__).resolve().parents[2] / "conf" / "peft"
METHODS = sorted(path.stem for path in CONF.glob("*.yaml"))
CPU = torch.device("cpu")
NUM_STEPS = 30

# Types of PEFT's list without a YAML of their own here, and why.
EXCLUDED = {
    **UNSUPPORTED_TYPES,
    "ADAMSS": "it needs scikit-learn, which tunelab does not; PEFT names the package",
}
NEEDED = {"trainable_tokens": ["peft.token_indices=[2,3,4,5]"]}  # overrides without which a method has no sense


def is_prompt_method(kind: type) -> bool:
    return issubclass(kind, PromptTuningConfig.__mro__[1])  # they have their own tests


@pytest.fixture(scope="session")
def nodes(compose_config) -> dict[str, tuple[dict, Quantization]]:
    """What each YAML composes to."""
    composed = {name: compose_config(f"peft={name}", *NEEDED.get(name, [])) for name in METHODS}
    return {name: (config.peft, config.model.quantization) for name, config in composed.items()}


def test_every_type_of_peft_has_a_yaml_or_a_reason(nodes):
    configs = [build_peft_config(node) for node, _ in nodes.values()]
    configured = {str(config.peft_type.value) for config in configs if config is not None}
    types = {str(kind.value): cls for kind, cls in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    prompts = {name for name, cls in types.items() if is_prompt_method(cls)}
    assert types.keys() - prompts - configured == EXCLUDED.keys()


def test_every_yaml_says_what_it_is():
    for name in METHODS:
        lines = (CONF / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
        first = next(line for line in lines if line.startswith("# ") and "@package" not in line)
        assert any(year in first for year in map(str, range(2019, 2027))) or name in ("none", "last_layers"), name


def examples() -> list[TokenizedExample]:
    """The ends of two tickets, cut short."""
    tokenizer = load_tokenizer(ModelConfig(path="embedded:tiny"))
    text = Path(locate("embedded:tickets/train.jsonl")).read_text(encoding="utf-8")
    rows = [json.loads(line)["messages"] for line in text.splitlines()[:40]]
    ids = [tokenizer.apply_chat_template(row, return_dict=True)["input_ids"] for row in rows]
    chosen = [torch.tensor(ids[0][-24:]), torch.tensor(ids[1][-20:])]
    return [TokenizedExample(each, torch.arange(len(each)) >= 1, "") for each in chosen]


def padded(rows: Sequence[TokenizedExample]) -> MicroBatch:
    return collate(rows, padded=True, pad_token_id=0)


def new_model(node: dict, quantization: Quantization, rows: Sequence[TokenizedExample]):
    config = build_peft_config(node)
    plan_budget(config, NUM_STEPS)
    arguments = ("input_ids", "attention_mask", "labels")
    batches = [{name: getattr(padded([row]), name) for name in arguments} for row in rows]
    base = load_base_model(ModelConfig(path="embedded:tiny", quantization=quantization), CPU)
    return attach_adapter(base, config, 0, Start(read_tuning(node), batches))


def train(model, batch: MicroBatch, lr: float) -> list[float]:
    """The losses of a few steps, by the objective of the runs."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer, losses = torch.optim.AdamW(trained, lr=lr, weight_decay=0.0), []
    for step in range(NUM_STEPS):
        torch.manual_seed(step)
        sums = SftObjective(head_chunk_tokens=512)(model, batch)
        (sums.nll_sum / sums.token_count).backward()
        add_regularizer_gradients(model)
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        prune_ranks(model, step + 1)
        optimizer.zero_grad()
        losses.append(float(sums.nll_sum.detach() / sums.token_count))
    return losses


@torch.no_grad()
def logits(model, batch: MicroBatch) -> torch.Tensor:
    arguments = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    return model.eval()(**arguments).logits[batch.attention_mask.bool()]


# Twice the rank, or pruned ranks left out: the same sum in another order.
def assert_same(found: torch.Tensor, expected: torch.Tensor, exact: bool) -> None:
    if exact:
        assert torch.equal(found, expected)
    else:
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_trains_exports_and_loads(name: str, nodes, tmp_path: Path):
    node, quantization = nodes[name]
    config = build_peft_config(node)
    if config is not None and config.is_prompt_learning:
        pytest.skip("virtual tokens have their own tests")
    rows = examples()
    batch = padded(rows)
    model = new_model(node, quantization, rows)
    losses = train(model, batch, 3e-3 * read_tuning(node).lr_factor * (0.1 if config is None else 1))
    assert losses[-1] < 0.95 * losses[0]

    # Training calls the decoder, evaluation the whole: both are the adapted model.
    after = logits(model, batch)
    assert torch.equal(logits(base_of(model), batch), after)
    alone = torch.cat([last_hidden_state(model, padded([row]))[0] for row in rows])
    torch.testing.assert_close(
        last_hidden_state(model, batch)[batch.attention_mask.bool()], alone, rtol=1e-3, atol=1e-3
    )

    # A checkpoint holds the trained weights only: everything else comes back from the seed.
    trained = {key: p.detach().clone() for key, p in model.named_parameters() if p.requires_grad}
    again = new_model(node, quantization, rows)
    again.load_state_dict(trained, strict=False)
    assert torch.equal(logits(again, batch), after)

    settle_ranks(model)
    plain = as_plain_lora(model)
    assert plain == changes_the_base(config)
    folder = tmp_path / "adapter"
    export_model(model, load_tokenizer(ModelConfig(path="embedded:tiny")), locate("embedded:tiny"), folder)
    exact = not plain and name != "adalora"
    if config is None:
        assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), batch), after)
        return
    base = ModelConfig(path="embedded:tiny", quantization=quantization)
    assert_same(logits(PeftModel.from_pretrained(load_base_model(base, CPU), str(folder)), batch), after, exact)
    assert_same(logits(load_adapter(load_base_model(base, CPU), folder), batch), after, exact)
