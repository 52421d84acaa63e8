"""Equal budgets: what is solved, against adapters that were really made, a counter of FLOPs, and brute force."""

import json
import random
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import sweeping_runs
import torch
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from peft import LoraConfig, get_peft_model
from sweeping_runs import jobs_of, summary_of
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from tunelab.compose import to_config
from tunelab.config import RunConfig, to_plain
from tunelab.data.preparing import prepare_data
from tunelab.embedded import locate
from tunelab.errors import ConfigError, ModelError
from tunelab.model.adapter import Start, attach_adapter, build_peft_config, count_parameters
from tunelab.model.flops import Lengths, Trained, flops_per_example, widths_of
from tunelab.model.loading import load_base_model
from tunelab.model.tokenizer import load_tokenizer
from tunelab.model.tuning import read_tuning
from tunelab.model.virtual_tokens import with_own_tokenizer
from tunelab.multirun import compose_jobs, plan_jobs, swept_keys
from tunelab.sweeping.budgets import Solved, match_jobs
from tunelab.sweeping.solving import nearest

sweep = sweeping_runs.sweep
METHODS = sorted(path.stem for path in (sweeping_runs.REPOSITORY / "conf" / "peft").glob("*.yaml"))
PARAMETERS = "sweep.match=trainable_parameters"
TARGET = 60_000  # of 2 million weights


class Matched:
    """What is typed after -m, solved: the jobs with what was set, their configurations, the solutions."""

    def __init__(self, output_dir: Path) -> None:
        self.output_dir = f"output_dir={output_dir}"

    def __call__(self, *typed: str) -> tuple[list[list[str]], list[RunConfig], list[Solved]]:
        with initialize_config_dir(str(sweeping_runs.REPOSITORY / "conf"), version_base="1.3"):
            hydra = GlobalHydra.instance().hydra
            assert hydra is not None
            loader = hydra.config_loader
            master = loader.load_configuration("train", [*typed, self.output_dir], RunMode.MULTIRUN)
            jobs = plan_jobs(loader, master)
            configs = compose_jobs(loader, master, jobs)
            solved = match_jobs(configs, configs[0].sweep, swept_keys(loader, master))
            jobs = [[*job, *each.overrides] for job, each in zip(jobs, solved, strict=True)]
            return jobs, compose_jobs(loader, master, jobs), solved

    def alone(self, *typed: str) -> RunConfig:
        with initialize_config_dir(str(sweeping_runs.REPOSITORY / "conf"), version_base="1.3"):
            return to_config(compose("train", overrides=list(typed)), RunConfig)


@pytest.fixture
def matched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Matched:
    store = ConfigStore.instance()
    monkeypatch.setattr(store, "repo", dict(store.repo))
    store.store(name="run_schema", node=RunConfig)
    return Matched(tmp_path)


def really_trained(config: RunConfig) -> int:
    """Parameters of the adapter on a model in memory; where a start is computed, of one of the same shape."""
    adapter: Any = build_peft_config(with_own_tokenizer(config.peft, config.model))
    if isinstance(adapter, LoraConfig) and adapter.init_lora_weights in ("eva", "corda", "lora_ga", "loftq"):
        adapter.init_lora_weights = True
    base = load_base_model(config.model, torch.device("cpu"))
    return count_parameters(attach_adapter(base, adapter, 0, Start(read_tuning(config.peft)))).trainable


@pytest.mark.slow
def test_every_method_has_the_size_that_was_counted(matched: Matched, tmp_path: Path):
    shutil.copytree(Path(locate(matched.alone("peft=lora").model.path)), tmp_path / "base")
    architecture = json.loads((tmp_path / "base" / "config.json").read_text())
    smaller = {"num_hidden_layers": 1, "layer_types": None}
    (tmp_path / "base" / "config.json").write_text(json.dumps(architecture | smaller))
    base: Any = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path / "base"))
    base.save_pretrained(tmp_path / "base")
    like_lora = ("corda", "eva", "lora_ga", "lora_plus", "loftq", "olora", "qlora", "rslora")
    left = (*like_lora, "trainable_tokens", "adaption_prompt", "last_layers", "boft", "frod")
    names = [name for name in METHODS if name not in left]
    path = f"model.path={tmp_path / 'base'}"
    jobs, configs, solved = matched(
        f"peft={','.join(names)}", path, "sweep.match=trainable_parameters", f"sweep.match_target={TARGET}"
    )
    for name, job, config, found in zip(names, jobs, configs, solved, strict=True):
        assert found.budget == really_trained(config), name
        if name in ("adalora", "pissa", "oft"):
            assert to_plain(config) == to_plain(matched.alone(*job)), name
    free = {name for name, found in zip(names, solved, strict=True) if found.knob is None}
    assert free == {"beft", "ia3", "ln_tuning", "none", "osf", "road", "supertuning"}
    near = {name: found.difference for name, found in zip(names, solved, strict=True) if name in ("lora", "hra", "c3a")}
    assert all(each is not None and abs(each) < 0.1 for each in near.values())


def test_a_target_beyond_all_ranks_is_refused_before_a_job_takes_the_memory(matched: Matched):
    with pytest.raises(ConfigError, match=r"sweep.match_target: expected a size that peft.r reaches \(.*; lower it"):
        matched("peft=lora,dora", "sweep.match=trainable_parameters", "sweep.match_target=1e12")


def test_an_alpha_that_equals_the_rank_stays_equal_and_pruning_keeps_its_part(matched: Matched):
    _, configs, solved = matched(
        "peft=lora,pissa,adalora", "sweep.match=trainable_parameters", f"sweep.match_target={TARGET}"
    )
    lora, pissa, adalora = (to_plain(config.peft) for config in configs)
    assert (lora["r"], lora["lora_alpha"]) == (4, 32)
    assert (pissa["r"], pissa["lora_alpha"]) == (4, 4)
    assert (adalora["init_r"], adalora["target_r"]) == (4, 3)
    assert solved[1].overrides == ("++peft.r=4", "++peft.lora_alpha=4")


def test_the_first_job_is_the_measure_among_those_of_its_base(matched: Matched, tmp_path: Path):
    _, _, solved = matched("peft=lora,prefix_tuning", "seed=1,2", "sweep.match=trainable_parameters")
    size = 233_472  # LoRA of rank 16, as training says
    assert [found.target for found in solved] == [size] * 4
    assert [found.overrides for found in solved] == [()] * 2 + [("++peft.num_virtual_tokens=152",)] * 2
    assert solved[2].difference == 0
    with pytest.raises(ModelError, match=r"model\.path"):
        matched("peft=lora,dora", "sweep.match=trainable_parameters", f"model.path={tmp_path / 'none'}")


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (("peft=lora,loha", "++peft.r=4,8", PARAMETERS), "peft.r: expected a key that sweep"),
        (("peft=none,last_layers", "++peft.num_layers=1,2", PARAMETERS), "peft.num_layers: expected a key that sweep"),
        (("peft=boft,p_tuning", "++peft.encoder_hidden_size=4,8", PARAMETERS), "peft.encoder_hidden_size: expected"),
        (("trainer.max_steps=4,8", "sweep.match=tokens"), "trainer.max_steps: expected a key that sweep.match=tokens"),
        (("trainer.max_epochs=1,2", "sweep.match=flops"), "trainer.max_epochs: expected a key that sweep.match=flops"),
    ],
)
def test_what_is_swept_is_not_solved_and_that_is_said_before_torch_loads(
    matched: Matched, typed: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "tunelab.sweeping.matching", None)  # importing it is an error
    with pytest.raises(ConfigError) as raised:
        matched(*typed)
    assert said in str(raised.value)


def test_tokens_are_those_of_the_training_set(matched: Matched, tmp_path: Path):
    jobs, configs, solved = matched("data.batch_size=8,32", "trainer.max_steps=40", "sweep.match=tokens")
    config = configs[0]
    data = prepare_data(config.data, load_tokenizer(config.model), tmp_path / "cache")
    mean = sum(len(example.input_ids) for example in data.train) / len(data.train)
    assert solved[0].budget == pytest.approx(40 * 8 * mean)
    assert jobs[1][-1] == "trainer.max_steps=10"
    assert solved[1].difference == 0
    whole, _, epochs = matched("data.batch_size=8,32", "trainer.max_epochs=2", "sweep.match=tokens")
    assert not any("max_steps" in each for each in whole[1])  # two passes over the same examples are as many tokens
    assert epochs[0].budget == pytest.approx(2 * sum(len(example.input_ids) for example in data.train))


@pytest.mark.parametrize("method", ["lora", "none", "last_layers"])
def test_the_formula_is_what_a_counter_sees(matched: Matched, method: str):
    config = matched.alone(f"peft={method}")
    base: Any = load_base_model(config.model, torch.device("cpu"))
    base.set_attn_implementation("eager")  # whose products the counter knows
    adapter, tuning = build_peft_config(config.peft), read_tuning(config.peft)
    if adapter is not None:
        model: Any = get_peft_model(base, adapter)  # ours adds to its output in place, which the counter passes over
        base.enable_input_require_grads()  # the formula does not know that nothing goes below the first layer
    else:
        model = attach_adapter(base, adapter, 0, Start(tuning))
        base.get_input_embeddings().register_forward_hook(
            lambda module, inputs, output: output.requires_grad_() if method == "none" else output
        )
    with FlopCounterMode(display=False) as counter:
        logits = model(input_ids=torch.arange(40)[None], logits_to_keep=10).logits
        logits.logsumexp(-1).sum().backward()
    count = count_parameters(model).trainable
    trained = Trained(0 if adapter is None else count, tuning.num_layers, whole=adapter is None)
    widths = widths_of(config.model)
    assert widths is not None
    expected = flops_per_example(widths, trained, Lengths(40, 1600, 10))
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.03 if method == "last_layers" else 1e-6)


def test_frozen_weights_take_two_thirds_of_the_operations(matched: Matched):
    config = matched.alone("peft=lora")
    widths = widths_of(config.model)
    assert widths is not None
    lora, full = (
        flops_per_example(widths, trained, Lengths(1, 0, 0)) for trained in (Trained(adapter=1), Trained(whole=True))
    )
    assert lora / full == pytest.approx(2 / 3, rel=1e-5)


@pytest.mark.parametrize("seed", range(40))
def test_the_nearest_size_is_found(seed: int):
    luck = random.Random(seed)
    shift, slope, knee = luck.randint(0, 1000), luck.randint(1, 5000), luck.randint(2, 200)
    size = [
        lambda n: shift + slope * n,
        lambda n: shift + slope * n * n,
        lambda n: shift + 1000 * slope // n,
        lambda n: shift + slope * min(n, knee),
        lambda n: shift + slope * n if n <= knee else None,
    ][seed % 5]
    target = luck.uniform(0, size(knee) * 1.5)
    last = luck.choice([1, 2, 7, 2**24])
    found = nearest(size, target, luck.randint(1, 50), last)
    assert found is not None
    sizes = [each for each in map(size, range(1, min(last, 1000) + 1)) if each is not None]
    assert abs(size(found) - target) <= min(abs(each - target) for each in sizes)


@pytest.mark.parametrize("damaged", ["matching.json", "sweep.json"])
def test_a_damaged_record_is_refused_before_anything_is_written(sweep, tmp_path: Path, damaged: str):
    folder = tmp_path / "outputs" / "sweeps" / "mine"
    folder.mkdir(parents=True)
    (folder / damaged).write_text("[1]")
    done = sweep("sweep.name=mine", "data.batch_size=4,8", "sweep.match=tokens")
    assert done.returncode == 1
    assert damaged in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert {path.name for path in folder.iterdir()} - {".lock"} == {damaged}


@pytest.mark.slow
def test_a_sweep_trains_what_was_counted_and_keeps_a_record(sweep, tmp_path: Path, tiny_overrides: list[str]):
    usual = [each for each in tiny_overrides if not each.startswith("peft.")]
    rest = ("hydra/launcher=in_process", "trainer.max_steps=1", "evaluation.base=false", "sweep.name=mine")
    done = sweep(*usual, *rest, "peft=lora,loha", "++peft.r=3", "sweep.match=trainable_parameters", tiny=False)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "outputs" / "sweeps" / "mine" / "matching.json").read_text())
    assert record["match"] == "trainable_parameters"
    for folder in jobs_of(tmp_path).values():
        entry = record["jobs"][folder.name.rpartition("_")[2]]
        assert summary_of(folder)["num_trainable_parameters"] == entry["budget"]
    assert "matched on trainable parameters" in done.stdout
