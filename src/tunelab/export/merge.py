"""Merges into the unquantised base, writes the model, reads it back, and measures what the merge changed."""

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from rich.console import Console
from safetensors.torch import load_file
from transformers import PreTrainedModel

from tunelab.config import DType, ModelConfig, Precision, RunConfig, Split, to_plain
from tunelab.data.records import TokenizedExample
from tunelab.errors import CheckpointError, DataError
from tunelab.evaluation.generating import inference
from tunelab.export.divergence import Divergence, compare_models
from tunelab.model.adapter import CausalLM, load_adapter
from tunelab.model.combining import combine
from tunelab.model.generation import base_generation_config
from tunelab.model.loading import check_base_model, load_unquantized, tuned_as_base
from tunelab.model.merging import (
    load_dequantized,
    merge_adapter,
    refuse_quantized_checkpoint,
    reload_model,
    stored_dtype,
    write_model,
)
from tunelab.model.saving import stored_weights
from tunelab.preflight import prepare
from tunelab.subject import Subject, check_loading, load_tuned
from tunelab.training.doctor import TOLERANCE, deviation
from tunelab.training.trainer import autocast, resolve_device, resolve_precision

NUM_PROBES = 3
PROBE_TOKENS = 128


@dataclass(frozen=True, slots=True)
class Merging:
    """What is merged, the type it is stored in, and what it is compared on (`max_examples` 0: nothing)."""

    subject: Subject
    dtype: DType
    split: Split
    max_examples: int


@dataclass(frozen=True, slots=True)
class Fidelity:
    """How the stored model differs from what was merged.

    In standard deviations of the logits: `merge_difference` is the largest of the merge in float32 from base and
    adapter, `rounding` what rounding to `dtype` adds (root mean square). `comparison`: with the model as it was
    trained; None where no examples were given.
    """

    dtype: str
    merge_difference: float
    rounding: float
    comparison: Divergence | None
    split: str
    trained_as: str
    merged_onto: str

    def facts(self) -> dict[str, Any]:
        """The part of export.json."""
        check = {"merge_difference_std": self.merge_difference, "rounding_rms_std": self.rounding}
        stored = {"dtype": self.dtype, "merged_onto": self.merged_onto, "logits": check}
        if self.comparison is None:
            return {**stored, "comparison": None}
        found = {"split": self.split, "trained_as": self.trained_as, **self.comparison.to_dict()}
        return {**stored, "comparison": found}

    def line(self) -> str:
        """The figures in one line."""
        if self.comparison is None:
            return f"merged       {self.dtype}, read back and checked; no examples to compare it on"
        found = self.comparison.to_dict()
        return (
            f"merged       {self.dtype}, against the trained model ({self.trained_as}) on "
            f"{self.comparison.num_examples} examples: "
            f"KL {found['kl_mean_nats']:.2e} nats/token (largest {found['kl_max_nats']:.2e}), "
            f"perplexity {found['perplexity_before']:.4f} → {found['perplexity_after']:.4f}"
        )

    def markdown(self) -> str:
        """The section of the card."""
        check = (
            f"Made of {self.merged_onto}, stored in {self.dtype}; read back bit for bit. In standard deviations of "
            f"the logits, the merge in float32 differs from base and adapter by at most {self.merge_difference:.2g}, "
            f"and rounding adds {self.rounding:.2g} (root mean square)."
        )
        if self.comparison is None:
            return f"{check} It was not compared with the model as trained."
        found = self.comparison.to_dict()
        return (
            f"{check}\n\nOn {self.comparison.num_examples} {self.split} examples "
            f"({self.comparison.token_count:,} supervised tokens), against the model as it was trained "
            f"({self.trained_as}):\n\n| | as trained | merged |\n|---|---:|---:|\n"
            f"| perplexity | {found['perplexity_before']:.4f} | {found['perplexity_after']:.4f} |\n\n"
            f"KL divergence of the next-token distributions: mean {found['kl_mean_nats']:.3g}, "
            f"largest {found['kl_max_nats']:.3g} nats per token."
        )


def merge_and_compare(merging: Merging, staging: Path, audit: Callable[[], None], console: Console) -> Fidelity:
    """Write the merged model (or the fully tuned one) into `staging`, read it back, and compare.

    The adapter is merged onto the unquantised base, in float32; one that makes up for the error of quantised weights,
    onto the values of these. The sum is rounded once, to the stored type. `audit` is called before weights are loaded.

    Raises:
        CheckpointError: what was read back is not what was merged.
        TunelabError: the data, the base or the adapter cannot be used.
    """
    run, subject = merging.subject.run, merging.subject
    refuse_quantized_checkpoint(run.model, subject.architecture)
    check_loading(subject)
    device = resolve_device(run.trainer)
    precision = resolve_precision(run.trainer.precision, device)
    examples = _examples(merging)
    probes = _probes(subject, examples)
    source = tuned_as_base(subject.run.model, subject.whole) if subject.whole else subject.run.model
    dtype = stored_dtype(merging.dtype, check_base_model(source, len(subject.tokenizer)))
    audit()
    name = str(dtype).removeprefix("torch.")
    with console.status("merging"):
        merged, stored, merge_difference, rounding = _write(merging, source, dtype, probes, staging, device)
    _require(merge_difference, torch.float32, "the merge computed in float32", "base and adapter")
    with console.status("reading it back"):
        _compare_weights(merged, staging)
        del merged
        gc.collect()  # its memory is needed for the two models that are compared
        after = reload_model(staging, device, run.model.trust_remote_code)
        _require(deviation(_logits(after, probes), stored), dtype, "the model read back", "the one written")
    comparison = None
    if examples:
        with console.status("comparing with the model as it was trained"):
            before = load_tuned(subject, device, precision)
            comparison = compare_models(before, after, examples, partial(autocast, precision, device))
    return Fidelity(
        dtype=name,
        merge_difference=merge_difference,
        rounding=rounding,
        comparison=comparison,
        split=merging.split.value,
        trained_as=_trained_as(run, precision),
        merged_onto=_merged_onto(subject),
    )


def _write(
    merging: Merging,
    source: ModelConfig,
    dtype: torch.dtype,
    probes: Sequence[torch.Tensor],
    staging: Path,
    device: torch.device,
) -> tuple[PreTrainedModel, torch.Tensor, float, float]:
    """Write the model in `dtype`; return it, its logits, and how these differ before and after the rounding.

    The first difference is that of the merge in float32 from base and adapter (largest), the second what rounding to
    `dtype` adds (root mean square), both in standard deviations of the logits.
    """
    load = load_dequantized if merging.subject.makes_up_for_quantization else load_unquantized
    model: CausalLM = load(source, device)
    if merging.subject.mixture is not None:
        model = combine(model, merging.subject.mixture)
    elif merging.subject.adapters:
        model = load_adapter(model, merging.subject.adapters[0])
    expected = _logits(model, probes)
    merged: PreTrainedModel = merge_adapter(model) if isinstance(model, PeftModel) else model
    exact = _logits(merged, probes)
    write_model(merged, dtype, base_generation_config(source), staging)
    stored = _logits(merged, probes)
    return merged, stored, deviation(exact, expected), _rms_deviation(stored, exact)


def _compare_weights(model: PreTrainedModel, staging: Path) -> None:
    """What lies on the disk must be the weights in memory, bit for bit; tied ones are written once."""
    weights, others = stored_weights(model)
    expected, found = weights | others, set[str]()
    for file in sorted(staging.glob("*.safetensors")):
        for name, tensor in load_file(file).items():
            found.add(name)
            if name not in expected or not torch.equal(expected[name].cpu(), tensor):
                raise CheckpointError(f"to: {name} was not written as it is; check the disk and export again.")
    missing = weights.keys() - found
    if missing:
        raise CheckpointError(f"to: {min(missing)} was not written; check the disk and export again.")


def _require(difference: float, dtype: torch.dtype, what: str, other: str) -> None:
    if not difference <= TOLERANCE[dtype]:
        raise CheckpointError(
            f"to: expected the logits of {what} to be those of {other}, found a difference of {difference:.2g} "
            f"standard deviations (rounding explains {TOLERANCE[dtype]:g}); set kind=adapter."
        )


def _examples(merging: Merging) -> list[TokenizedExample]:
    """What the models are compared on; empty where that is not wanted, or no data are named."""
    run = merging.subject.run
    plain = to_plain(run.data)
    if merging.max_examples == 0 or not (plain["path"] or plain["mix"] or plain["info"]):
        return []
    try:
        data = prepare(run).data
    except DataError as error:
        raise DataError(f"{str(error).rstrip('.')}; or set max_examples=0, to export without a comparison.") from error
    held_out = data.test if merging.split is Split.test else data.validation
    chosen = held_out[: merging.max_examples]
    if not chosen:
        raise DataError(
            f"split: expected examples to compare on, found none in {merging.split.value!r}; choose another split, "
            "or set max_examples=0."
        )
    return [example.tokenized for example in chosen]


def _probes(subject: Subject, examples: Sequence[TokenizedExample]) -> list[torch.Tensor]:
    """A few rows of token ids, (tokens,): of the examples, or drawn by chance where there are none."""
    if examples:
        return [example.input_ids[:PROBE_TOKENS] for example in examples[:NUM_PROBES]]
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(len(subject.tokenizer), (64,), generator=generator) for _ in range(NUM_PROBES)]


def _logits(model: CausalLM, probes: Sequence[torch.Tensor]) -> torch.Tensor:
    """The logits of all probes, each by itself: (tokens, vocabulary) in float32."""
    device = next(model.parameters()).device
    with inference(model):
        rows = [model(input_ids=ids[None].to(device), use_cache=False).logits[0].float().cpu() for ids in probes]
    return torch.cat(rows)


def _rms_deviation(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The root mean square difference, in standard deviations of what was expected."""
    ours, theirs = found.double(), expected.double()
    return float((ours - theirs).square().mean().sqrt() / theirs.std().clamp_min(1e-30))


def _trained_as(run: RunConfig, precision: Precision) -> str:
    plain = to_plain(run.model)
    stored = plain["quantization"] if plain["quantization"] != "none" else None
    return f"{stored} base, {precision.value}" if stored else precision.value


def _merged_onto(subject: Subject) -> str:
    if subject.whole is not None:
        return "the weights as trained"
    if subject.makes_up_for_quantization:
        return f"the values of the {subject.quantization} weights, whose error the adapter makes up for"
    return "the unquantised weights"
