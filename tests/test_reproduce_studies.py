"""The worked studies: they compose, on the embedded model and on Mistral 7B, and their memory is what is derived."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, MistralConfig

from tunelab.compose import prepare_arguments
from tunelab.config import RunConfig, TrainOn
from tunelab.multirun import compose_jobs, plan_jobs
from tunelab.sweeping.jobs import content_hash

REPOSITORY = Path(__file__).resolve().parents[1]
STUDIES = {"study_lora_rank": 36, "study_qlora": 18, "study_prompt_loss": 10}  # and their runs
MISTRAL = ("model=mistral7b", "data=file", "data.path=a.jsonl", "data.test_path=b.jsonl", "trainer.max_steps=1000")
GIB = 2**30


@pytest.fixture
def jobs_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[RunConfig]]:
    """The different jobs of a study as `python train.py -m` makes them."""
    monkeypatch.setattr(ConfigStore.instance(), "repo", dict(ConfigStore.instance().repo))
    ConfigStore.instance().store(name="run_schema", node=RunConfig)

    def call(study: str, *typed: str) -> list[RunConfig]:
        with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
            hydra: Any = GlobalHydra.instance().hydra
            arguments = prepare_arguments([f"experiment={study}", *typed], RunConfig)
            master = hydra.config_loader.load_configuration("train", arguments, RunMode.MULTIRUN)
            configs = compose_jobs(hydra.config_loader, master, plan_jobs(hydra.config_loader, master))
        return list({content_hash(config, []): config for config in configs}.values())

    return call


@pytest.mark.parametrize("study", STUDIES)
def test_a_study_composes_for_both_models(study: str, jobs_of):
    own, mistral = jobs_of(study), jobs_of(study, *MISTRAL)
    assert len(own) == len(mistral) == STUDIES[study]
    assert {config.model.path for config in own} == {"embedded:tiny"}
    for config in mistral:
        assert (config.model.path, config.data.path) == ("mistralai/Mistral-7B-v0.1", "a.jsonl")
        assert (config.data.test_path, config.trainer.max_steps) == ("b.jsonl", 1000)
        assert config.sweep.name == config.name == study
        assert config.optim.lr is None  # suggested for this base and method, times the factor
    text = (REPOSITORY / "conf" / "experiment" / f"{study}.yaml").read_text()
    assert f"{STUDIES[study]} runs" in text
    assert f"experiment={study}" in text


def test_the_study_of_the_prompt_loss_measures_both_on_the_answers(jobs_of):
    for config in jobs_of("study_prompt_loss", "data.test_path=b.jsonl"):
        answers = config.evaluation.sets["answers"].data
        assert (answers.path, answers.train_on, answers.format) == ("b.jsonl", TrainOn.responses, "messages")


def test_typed_axes_take_the_place_of_a_study_s(jobs_of):
    jobs = jobs_of("study_lora_rank", "optim.lr_factor=1", "seed=7,8", "peft.r=64")
    assert {(dict(job.peft).get("r"), job.seed) for job in jobs} == {(64, 7), (64, 8), (None, 7), (None, 8)}


def test_the_memory_of_mistral_7b_is_that_of_the_page():
    page = (REPOSITORY / "docs" / "reproduce.md").read_text(encoding="utf-8")
    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(MistralConfig())
        total = sum(each.numel() for each in base.parameters())
        linear = sum(
            each.weight.numel()
            for name, each in base.named_modules()
            if isinstance(each, torch.nn.Linear) and name != "lm_head"
        )
        model = get_peft_model(base, LoraConfig(r=1, target_modules="all-linear"))
        of_rank_1 = sum(each.numel() for each in model.parameters() if each.requires_grad)
    assert (total, linear, of_rank_1) == (7_241_732_096, 6_979_321_856, 2_621_440)
    four_bits = linear * (4 + 8 / 64 + 32 / (64 * 256)) / 8 + (total - linear) * 4
    expected = {
        "full": total * 16,
        "LoRA, r 1": total * 2 + 16 * of_rank_1,
        "LoRA, r 16": total * 2 + 16 * of_rank_1 * 16,
        "LoRA, r 256": total * 2 + 16 * of_rank_1 * 256,
        "QLoRA, r 16": four_bits + 16 * of_rank_1 * 16,
    }
    for method, size in expected.items():
        [line] = [line for line in page.splitlines() if line.startswith(f"| {method} |")]
        assert f"**{size / GIB:.1f} GiB**" in line, f"{method}: {size / GIB:.1f}"
