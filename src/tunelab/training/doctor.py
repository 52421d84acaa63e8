"""Checks, on this very model and data, the shortcuts that training takes; a shortcut that fails is not taken."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from tunelab.config import Attention
from tunelab.data.collating import collate
from tunelab.data.records import MicroBatch, TokenizedExample
from tunelab.errors import ModelError, first_line
from tunelab.model.adapter import CausalLM, base_of
from tunelab.model.attention import is_recurrent, watched_varlen, window_of
from tunelab.training.objective import last_hidden_state

# Largest difference, in standard deviations of the reference, that rounding explains: float64, float32, half types.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3, torch.bfloat16: 0.15, torch.float16: 0.02}
NUM_PROBES = 3
PROBE_TOKENS = 512


@dataclass(frozen=True, slots=True)
class Check:
    """One guarantee: whether it holds, the largest difference found, what was allowed, and why where it does not."""

    holds: bool
    difference: float | None
    tolerance: float
    reason: str = ""


FRONTED = Check(holds=False, difference=None, tolerance=0.0, reason="virtual tokens stand in front of each example")


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Whether the model is causal, and which shortcuts are safe: examples end to end in one row, the head outside."""

    causal: Check
    padding_free: Check
    fused_head: Check

    def to_dict(self) -> dict[str, Any]:
        """The content of doctor.json."""
        return asdict(self)


@torch.no_grad()
def diagnose(
    model: CausalLM,
    examples: Sequence[TokenizedExample],
    longest: int,
    device: torch.device,
    autocast: Any,
    virtual_tokens: bool = False,
) -> Diagnosis:
    """Compare each shortcut with the model's own way, one example at a time.

    `examples` are probes (a few, cut to PROBE_TOKENS); `longest` is the longest example that training will meet, in
    tokens; `autocast` makes the context of the run's precision; `virtual_tokens` are to stand in front of each row.
    """
    probes = [_shortened(example) for example in examples[:NUM_PROBES]]
    was_training = model.training
    model.eval()
    try:
        with autocast():
            return Diagnosis(
                causal=_attempt(lambda: _future_difference(model, probes[0], device)),
                padding_free=FRONTED
                if virtual_tokens
                else _attempt(lambda: _packed_difference(model, probes, longest, device)),
                fused_head=_attempt(lambda: _head_difference(model, probes[0], device)),
            )
    finally:
        model.train(was_training)


def require_causal(check: Check) -> None:
    """Refuse a model that sees what it is to predict.

    Raises:
        ModelError: hidden states change with later tokens, or are no numbers, or cannot be computed.
    """
    if not check.holds and check.difference is None:
        raise _not_computable(check.reason)
    if not check.holds:
        raise ModelError(
            "model.path: expected a causal language model with finite weights, found hidden states that depend on "
            f"later tokens or are no numbers ({check.reason}); choose another base model."
        )


def require_computable(model: CausalLM) -> None:
    """Refuse, by one token, a model whose code goes past its layers to their weights, which are quantised.

    Raises:
        ModelError: it cannot be computed with.
    """
    device = next(model.parameters()).device
    probe = TokenizedExample(torch.zeros(1, dtype=torch.int64), torch.ones(1, dtype=torch.bool), "a probe")
    try:
        with torch.no_grad():
            last_hidden_state(model, _dense(probe, device))
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError, AssertionError) as error:
        raise _not_computable(first_line(error)) from error


def _not_computable(reason: str) -> ModelError:
    return ModelError(
        "model.path: expected a base model that can be computed with as it is stored, found one that cannot "
        f"({reason}); set model.quantization=none (peft=lora) where it is quantised, or choose another base model."
    )


def choose_layout(wanted: Attention, check: Check) -> bool:
    """Return True where micro-batches are to be padded.

    Raises:
        ModelError: padding-free rows were asked for by name and are not safe here.
    """
    if wanted is Attention.varlen and not check.holds:
        raise ModelError(
            f"model.attention: padding-free training was asked for, but is not safe with this model and data "
            f"({check.reason}); set model.attention=auto or padded."
        )
    return wanted is Attention.padded or not check.holds


def _shortened(example: TokenizedExample) -> TokenizedExample:
    return TokenizedExample(example.input_ids[:PROBE_TOKENS], example.loss_mask[:PROBE_TOKENS], example.origin)


def _attempt(measure: Callable[[], tuple[float, float]]) -> Check:
    try:
        difference, tolerance = measure()
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError, AssertionError) as error:
        return Check(holds=False, difference=None, tolerance=0.0, reason=first_line(error))
    if difference <= tolerance:
        return Check(holds=True, difference=difference, tolerance=tolerance)
    reason = f"results differ by {difference:.2g} standard deviations, more than {tolerance:.2g}"
    return Check(holds=False, difference=difference, tolerance=tolerance, reason=reason)


def _future_difference(model: CausalLM, probe: TokenizedExample, device: torch.device) -> tuple[float, float]:
    """Hidden states of the first half of a probe, with and without the second half behind it.

    A model that looks ahead differs by whole standard deviations: the tolerance is that of the coarsest type, because
    under autocast, or on quantised weights, the type of the result does not tell how it was computed.
    """
    half = max(1, probe.num_tokens // 2)
    start = TokenizedExample(probe.input_ids[:half], probe.loss_mask[:half], probe.origin)
    whole = last_hidden_state(model, _dense(probe, device))[:, :half]
    difference, _ = _deviation(whole, last_hidden_state(model, _dense(start, device)))
    return difference, TOLERANCE[torch.bfloat16]


def _packed_difference(
    model: CausalLM, probes: list[TokenizedExample], longest: int, device: torch.device
) -> tuple[float, float]:
    """Hidden states of the probes in one row against those of each probe alone, as the model computes it by itself."""
    base = base_of(model)
    _require_separable(base, longest)
    alone = torch.cat([last_hidden_state(model, _dense(probe, device))[0] for probe in probes])
    row = collate(probes, padded=False, pad_token_id=0).to(device)
    with watched_varlen(base, longest) as used:
        together = last_hidden_state(model, row)[0]
        num_attending = len(used)
        model.train()
        try:
            last_hidden_state(model, row)  # refuses what only training asks for: dropout of attention weights
        finally:
            model.eval()
    num_layers = base.config.get_text_config().num_hidden_layers
    if num_attending < num_layers:
        raise RuntimeError(f"{num_layers - num_attending} of its {num_layers} layers attend in a way of their own")
    return _deviation(together, alone)


def _require_separable(base: PreTrainedModel, longest: int) -> None:
    """Refuse by the architecture what short probes cannot show, or show too weakly."""
    window = window_of(base.config.get_text_config())
    if window is not None and longest > window:
        raise RuntimeError(f"the longest example has {longest} tokens, the model's sliding window {window}")
    if is_recurrent(base):
        raise RuntimeError("its recurrent layers would carry their state from one example into the next")


def _head_difference(model: CausalLM, probe: TokenizedExample, device: torch.device) -> tuple[float, float]:
    """Hidden state times head weight against the model's own logits (which may be scaled, capped or adapted)."""
    base: Any = base_of(model)
    head: Any = base.get_output_embeddings()
    if type(head) is not torch.nn.Linear:
        raise TypeError(f"the head is a {type(head).__name__}, not a plain linear layer")
    batch = _dense(probe, device)
    states = last_hidden_state(model, batch)
    own = base(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).logits
    return _deviation(torch.nn.functional.linear(states, head.weight, head.bias), own)


def _dense(example: TokenizedExample, device: torch.device) -> MicroBatch:
    return collate([example], padded=True, pad_token_id=0).to(device)


def deviation(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest absolute difference, in standard deviations of `expected`."""
    spread = expected.double().std().clamp_min(1e-30)
    return float((found.double() - expected.double()).abs().max() / spread)


def _deviation(found: torch.Tensor, expected: torch.Tensor) -> tuple[float, float]:
    """The deviation, and what rounding may make of it."""
    return deviation(found, expected), TOLERANCE[expected.dtype]
