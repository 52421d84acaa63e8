"""One measured run of tunelab, in a process of its own: `python worker_tunelab.py request.json result.json`."""

import json
import resource
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from peft import set_peft_model_state_dict
from peft.utils.save_and_load import load_peft_weights
from tunelab_steps import time_steps, tokenized
from workload import read_examples

from tunelab.config import ModelConfig, Precision, TrainerConfig
from tunelab.data.datamodule import StepPlan
from tunelab.model.adapter import attach_adapter, build_peft_config, skip_input_casts
from tunelab.model.loading import load_base_model
from tunelab.terminal import quiet_libraries


def main() -> None:
    request_path, result_path = map(Path, sys.argv[1:])
    request = json.loads(request_path.read_text())
    torch.set_num_threads(request["threads"])
    quiet_libraries()
    config = TrainerConfig(max_steps=request["num_steps"], **trainer_settings(request["settings"]))
    model = attach_adapter(
        load_base_model(ModelConfig(path=request["model"]), torch.device("cpu")),
        build_peft_config({"_target_": "peft.LoraConfig", **request["lora"]}),
        seed=0,
    )
    set_peft_model_state_dict(model, load_peft_weights(request["adapter"], device="cpu"))
    if config.precision is not Precision.fp32:
        skip_input_casts(model)
    examples = tokenized(read_examples(Path(request["examples"])))
    plan = StepPlan.create(len(examples), request["batch_size"], request["seed"], 0, request["num_steps"])
    times = time_steps(model, examples, plan, config, lr=request["lr"], folder=result_path.with_suffix(""))
    result = {
        "ends": times.ends,
        "cpu_ends": times.cpu_ends,
        "first_loss": times.losses[0],
        "first_grad_norm": times.grad_norms[0],
        "mean_loss": sum(times.losses) / len(times.losses),
        "computed_per_real_token": 1 / (1 - times.padding_fraction),
        "peak_memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "versions": {name: version(name) for name in request["packages"]},
    }
    result_path.write_text(json.dumps(result))


def trainer_settings(settings: dict[str, object]) -> dict[str, object]:
    """Trainer settings of a variant; float32 unless it says otherwise."""
    return {**settings, "precision": Precision(settings.get("precision", "fp32"))}


if __name__ == "__main__":
    main()
