"""Pretrain the base model `tiny` from nothing on the generated corpus.

`python -m tunelab.assets.pretrain --out FOLDER --minutes 72` needs only a CPU.
A run killed at any instant goes on from its last checkpoint when the same command is given again.
"""

import argparse
import json
import shutil
import time
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tunelab.assets.corpus import documents
from tunelab.assets.probing import copy_accuracy, encode, held_out_perplexity, nll_sum
from tunelab.assets.tokenizer import BOS, END, EOS, MAX_LENGTH_TOKENS, PAD, token_id, train_tokenizer

STEP_DOCUMENTS = 20
MICRO_BATCH_DOCUMENTS = 10
MATRIX_LR = 6e-3
VECTOR_LR = 3e-3
WARM_UP_STEPS = 50
DECAY_FRACTION = 0.4
CHECKPOINT_SECONDS = 60.0
PROBE_SECONDS = 300.0


@dataclass(slots=True)
class Progress:
    """How far a run is; `seconds` counts training time over all restarts."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """When to stop: after training minutes or after tokens. Only a budget of tokens is reproducible."""

    minutes: float | None
    tokens: int | None

    def spent(self, progress: Progress) -> float:
        """Share of the budget that is used up, from 0 to 1."""
        if self.tokens is not None:
            return min(1.0, progress.tokens / self.tokens)
        assert self.minutes is not None
        return min(1.0, progress.seconds / 60 / self.minutes)


def learning_rate_factor(step: int, spent: float) -> float:
    """Linear warm-up, a plateau, then a linear decay to zero over the last part of the budget."""
    return min(1.0, (step + 1) / WARM_UP_STEPS, (1 - spent) / DECAY_FRACTION)


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A Llama of 2.1 million parameters with tied embeddings."""
    pad, bos, eos, end = (token_id(tokenizer, token) for token in (PAD, BOS, EOS, END))
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=6,
        head_dim=32,
        max_position_embeddings=MAX_LENGTH_TOKENS,
        tie_word_embeddings=True,
        initializer_range=0.05,
        pad_token_id=pad,
        bos_token_id=bos,
        eos_token_id=[eos, end],
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(
        pad_token_id=pad, bos_token_id=bos, eos_token_id=[eos, end], do_sample=False
    )
    return model


def build_optimizers(model: LlamaForCausalLM) -> list[tuple[torch.optim.Optimizer, float]]:
    """Muon for the hidden matrices, AdamW for the embeddings and norms, each with its peak learning rate."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    rest = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    muon = torch.optim.Muon(matrices, lr=MATRIX_LR, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(rest, lr=VECTOR_LR, betas=(0.9, 0.95), weight_decay=0.0)
    return [(muon, MATRIX_LR), (adamw, VECTOR_LR)]


def train_step(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, seed: int, step: int) -> tuple[float, int]:
    """Add up the gradient of step `step`; its documents follow from (seed, step). Returns loss and tokens."""
    pad = token_id(tokenizer, PAD)
    texts = sorted(islice(documents(f"{seed} {step}"), STEP_DOCUMENTS), key=len)
    batches = [
        encode(tokenizer, texts[i : i + MICRO_BATCH_DOCUMENTS]) for i in range(0, len(texts), MICRO_BATCH_DOCUMENTS)
    ]
    num_tokens = sum(int(ids[:, 1:].ne(pad).sum()) for ids in batches)
    total = 0.0
    for ids in batches:
        with torch.autocast("cpu", torch.bfloat16):
            loss, _ = nll_sum(model, ids)
        (loss / num_tokens).backward()
        total += float(loss.detach())
    return total / num_tokens, num_tokens


def save_checkpoint(path: Path, model: nn.Module, optimizers: list[torch.optim.Optimizer], progress: Progress) -> None:
    """Write everything needed to go on, then rename."""
    state = {
        "model": model.state_dict(),
        "optimizers": [o.state_dict() for o in optimizers],
        "progress": asdict(progress),
    }
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    temporary.replace(path)


def load_checkpoint(path: Path, model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> Progress:
    """Restore a checkpoint; a fresh run where there is none."""
    if not path.exists():
        return Progress()
    state: dict[str, Any] = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return Progress(**state["progress"])


def model_card(model: LlamaForCausalLM, figures: dict[str, Any]) -> str:
    """The README.md of the model folder."""
    accuracy = ", ".join(f"{field} {share:.0%}" for field, share in figures["copy_accuracy"].items())
    return f"""# tiny

A Llama of {model.num_parameters():,} parameters, pretrained from nothing on a generated corpus of customer
messages (`tunelab.assets.corpus`). It knows the words of that small world and copies values that it has
never seen. It follows no instructions: that is what fine-tuning is for. No real text or personal data was
used.

- Command: `{figures["command"]}`
- Tokens seen: {figures["tokens"]:,} in {figures["step"]:,} steps, {figures["minutes"]:.0f} minutes on a CPU
- Held-out perplexity: {figures["perplexity"]:.3f} per token (`tunelab.assets.probing.held_out_perplexity`)
- Values of unseen messages copied without an error: {accuracy}
- Weights: bfloat16; tokenizer: byte-level BPE, {model.config.vocab_size} tokens
"""


def export(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    command: str,
    progress: Progress,
) -> None:
    """Write model, tokenizer and card to `folder`, replacing it as a whole."""
    temporary = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    half = build_model(tokenizer)
    half.load_state_dict(model.state_dict())
    half.bfloat16()
    half.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    stored = LlamaForCausalLM.from_pretrained(temporary, dtype=torch.float32)
    figures = {
        "command": command,
        "tokens": progress.tokens,
        "step": progress.step,
        "minutes": progress.seconds / 60,
        "perplexity": held_out_perplexity(stored, tokenizer),
        "copy_accuracy": copy_accuracy(stored, tokenizer),
    }
    (temporary / "README.md").write_text(model_card(half, figures), encoding="utf-8")
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.exists():
        folder.replace(old)
    (temporary / "model.safetensors").chmod(0o644)
    temporary.replace(folder)
    shutil.rmtree(old, ignore_errors=True)


def pretrain(work: Path, budget: Budget, seed: int) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast, Progress]:
    """Train until the budget is spent; `work` keeps the checkpoint and the log."""
    work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(seed)
    model = build_model(tokenizer)
    model.set_attn_implementation("eager")  # on a CPU, torch's fused backward is slower at these short lengths
    groups = build_optimizers(model)
    optimizers = [optimizer for optimizer, _ in groups]
    progress = load_checkpoint(work / "checkpoint.pt", model, optimizers)
    saved = probed = time.monotonic()
    while budget.spent(progress) < 1:
        began = time.monotonic()
        factor = learning_rate_factor(progress.step, budget.spent(progress))
        loss, num_tokens = train_step(model, tokenizer, seed, progress.step)
        for optimizer, peak in groups:
            for group in optimizer.param_groups:
                group["lr"] = peak * factor
            optimizer.step()
            optimizer.zero_grad()
        progress.step += 1
        progress.tokens += num_tokens
        progress.seconds += time.monotonic() - began
        line: dict[str, Any] = asdict(progress) | {"loss": loss, "lr_factor": factor}
        if time.monotonic() - probed > PROBE_SECONDS:
            probed = time.monotonic()
            line |= {
                "perplexity": held_out_perplexity(model, tokenizer),
                "copy": copy_accuracy(model, tokenizer),
            }
        if progress.step % 20 == 0 or "copy" in line:
            with (work / "log.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
        if time.monotonic() - saved > CHECKPOINT_SECONDS:
            saved = time.monotonic()
            save_checkpoint(work / "checkpoint.pt", model, optimizers, progress)
    save_checkpoint(work / "checkpoint.pt", model, optimizers, progress)
    return model, tokenizer, progress


def main() -> None:
    """Read the command line and pretrain."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the model, replaced at the end")
    parser.add_argument("--work", type=Path, default=Path("/tmp/tunelab-pretrain"), help="folder of checkpoint and log")
    limits = parser.add_mutually_exclusive_group(required=True)
    limits.add_argument("--minutes", type=float)
    limits.add_argument("--tokens", type=int)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(2)
    model, tokenizer, progress = pretrain(
        options.work, Budget(minutes=options.minutes, tokens=options.tokens), options.seed
    )
    limit = f"--tokens {progress.tokens}" if options.tokens else f"--minutes {options.minutes:g}"
    command = f"python -m tunelab.assets.pretrain --out {options.out} {limit} --seed {options.seed}"
    export(model, tokenizer, options.out, command, progress)


if __name__ == "__main__":
    main()
