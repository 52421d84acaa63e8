"""Writes what a run produced in the ordinary formats of transformers and PEFT, and proves that it can be read again."""

import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model_state_dict
from peft.utils.save_and_load import load_peft_weights
from safetensors.torch import load_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.core_model_loading import revert_weight_conversion

from tunelab.errors import CheckpointError
from tunelab.model.adapter import CausalLM


@torch.no_grad()  # as it is measured: a network that writes virtual tokens may round otherwise where it keeps gradients
def export_model(
    model: CausalLM,
    tokenizer: PreTrainedTokenizerBase,
    base_path: str,
    folder: Path,
    add: Callable[[Path], None] = lambda _: None,
    revision: str | None = None,
) -> None:
    """Write the adapter (or the fully tuned model) with tokenizer and chat template into `folder`.

    Written under a temporary name beside it, read back and compared bit for bit, then renamed. `add` puts further files
    into the folder before it gets its name. `revision`: of a base from the hub.

    Raises:
        CheckpointError: what was written differs from the model in memory.
    """
    staging = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(staging, ignore_errors=True)  # of a process that was killed
    if isinstance(model, PeftModel):
        model.active_peft_config.base_model_name_or_path = base_path
        model.active_peft_config.revision = revision
    try:
        expected, written = _write(model, staging)
        tokenizer.save_pretrained(str(staging))
        _compare(expected, written, folder)
        add(staging)
        shutil.rmtree(folder, ignore_errors=True)
        staging.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _write(model: CausalLM, staging: Path) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The weights as they should be in the folder, and as they are read back from it."""
    if isinstance(model, PeftModel):
        # Asking the hub for the base's vocabulary size, PEFT's default, would need the network.
        model.save_pretrained(str(staging), save_embedding_layers=False)
        expected = get_peft_model_state_dict(model, save_embedding_layers=False)
        return expected, load_peft_weights(str(staging), device="cpu")
    model.save_pretrained(str(staging), max_shard_size="1000GB")
    written = load_file(staging / "model.safetensors")
    expected, others = stored_weights(model)
    return expected | {name: tensor for name, tensor in others.items() if name in written}, written


def stored_weights(model: PreTrainedModel) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The weights as transformers writes them, and what it may write besides: buffers, second names of tied weights.

    A model may hold them otherwise than its files do (the experts of a layer in one tensor): it turns them into each
    other as it loads and saves.
    """
    state = model.state_dict()
    names = [name for name, _ in model.named_parameters()]  # tied weights once, as they are written
    own = {name: state.pop(name) for name in names}
    weights, others = (revert_weight_conversion(model, part) for part in (own, state))
    return weights, others


def _compare(expected: dict[str, torch.Tensor], written: dict[str, torch.Tensor], folder: Path) -> None:
    different = [
        name
        for name in sorted(expected.keys() | written.keys())
        if name not in written or name not in expected or not torch.equal(expected[name].cpu(), written[name])
    ]
    if different or not written:
        raise CheckpointError(
            f"{folder}: the export differs from the model in memory at {', '.join(different[:3]) or 'every tensor'}; "
            "the checkpoint beside it is untouched, check the disk and run again with resume=<run folder>."
        )
