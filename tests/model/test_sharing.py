"""Starts that are computed are the same in every process, whatever each would have computed."""

from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from conftest import make_model
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from tunelab.model.adapter import Start, attach_adapter, build_peft_config
from tunelab.model.initializing import as_plain_lora
from tunelab.model.sharing import attach_same_adapter, is_computed
from tunelab.model.tuning import Tuning

pytestmark = pytest.mark.slow

LORA = {"_target_": "peft.LoraConfig", "target_modules": "all-linear", "r": 4, "lora_alpha": 4}
STARTS = {
    "eva": {"init_lora_weights": "eva", "eva_config": {"rho": 2.0}},
    "corda": {"init_lora_weights": "corda", "corda_config": {"corda_method": "ipm"}},
    "lora_ga": {"init_lora_weights": "lora_ga", "lora_ga_config": {"direction": "ArB2r", "scale": "stable"}},
    "mica": {"init_lora_weights": "mica"},
}


def start(rank: int) -> Start:
    """Other examples in each process: further apart than rounding would bring them."""
    ids = torch.randint(5, 100, (4, 1, 40), generator=torch.Generator().manual_seed(rank))
    batches = [{"input_ids": each, "attention_mask": torch.ones_like(each), "labels": each} for each in ids]
    return Start(Tuning(num_calibration_examples=4), batches)


def base(name: str, rank: int) -> LlamaForCausalLM:
    """MiCA looks at no examples, only at the weights: there each process has others."""
    return make_model(100, seed=rank if name == "mica" else 0)


def attached(rank: int, folder: Path) -> None:
    """Attach each adapter as process `rank` of two, and write it, before and after the base is given back."""
    dist.init_process_group("gloo", store=dist.FileStore(str(folder / "store"), 2), rank=rank, world_size=2)
    try:
        for name, options in STARTS.items():
            model = attach_same_adapter(base(name, rank), build_peft_config({**LORA, **options}), 0, start(rank))
            assert model.training
            before = {key: value.clone() for key, value in model.state_dict().items()}
            as_plain_lora(model)
            after = {f"plain.{key}": value.clone() for key, value in model.state_dict().items()}
            save_file({**before, **after}, folder / f"{name}-{rank}.safetensors")
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("processes")
    other = get_context("spawn").Process(target=attached, args=(1, place))
    other.start()
    attached(0, place)
    other.join()
    assert other.exitcode == 0
    return place


@pytest.mark.parametrize("name", STARTS)
def test_two_processes_have_the_start_of_the_first(name: str, folder: Path):
    first, second = (load_file(folder / f"{name}-{rank}.safetensors") for rank in (0, 1))
    assert first.keys() == second.keys()
    shared = [key for key in first if name != "mica" or ".lora_" in key]
    assert shared
    assert all(torch.equal(first[key], second[key]) for key in shared)
    config = build_peft_config({**LORA, **STARTS[name]})
    alone = attach_adapter(base(name, 0), config, 0, start(0)).state_dict()
    assert all(torch.equal(first[key], alone[key]) for key in alone)
    other = attach_adapter(base(name, 1), config, 0, start(1)).state_dict()
    assert any(not torch.equal(first[key], other[key]) for key in shared if key in other)


def test_a_start_from_the_seed_or_a_folder_needs_no_other_process():
    config = build_peft_config({**LORA, **STARTS["eva"]})
    assert is_computed(config, Start())
    assert not is_computed(config, Start(Tuning(from_adapter="x")))
    assert not is_computed(build_peft_config(LORA), Start())
    assert not is_computed(None, Start())
