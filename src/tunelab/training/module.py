"""One Lightning step is one optimizer step: forward and backward by micro-batch, synchronise, clip, step."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import pytorch_lightning as pl
import torch
import torch.distributed as dist

from tunelab.config import OptimConfig
from tunelab.data.batching import cut
from tunelab.data.collating import collate
from tunelab.data.datamodule import StepBatch
from tunelab.data.records import TokenizedExample
from tunelab.errors import CheckpointError, ModelError, TunelabError
from tunelab.evaluation.metrics.registry import TOKEN_METRICS
from tunelab.evaluation.sums import TokenSums
from tunelab.model.adapter import CausalLM
from tunelab.model.budget import add_regularizer_gradients, budget_state, prune_ranks, restore_budget
from tunelab.model.virtual_tokens import num_virtual_tokens
from tunelab.training.averaging import Averaged, averaged_weights
from tunelab.training.objective import SftObjective
from tunelab.training.optim import build_optimizer, set_learning_rate
from tunelab.training.schedules import learning_rate

MEASURED_WEIGHTS = "measured_weights"  # in a checkpoint: the weights of its validation, where training is at others


@dataclass(slots=True)
class StepStatistics:
    """What one optimizer step did on this device: sums, positions computed, positions that held a token."""

    sums: TokenSums
    num_tokens: int = 0
    num_real_tokens: int = 0


@dataclass(frozen=True, slots=True)
class StepSettings:
    """What all optimizer steps of a run have in common, whatever the memory."""

    optim: OptimConfig
    peak_lr: float
    total_steps: int
    seed: int
    padded: bool
    pad_token_id: int
    scaled_gradients: bool = False  # float16


class CausalLMModule(pl.LightningModule):
    """Trains `model` by `objective`; `micro_batch_tokens` is a memory knob that out-of-memory halves.

    `scores`: optimizer step → what its validation measures besides the loss (metric → value), in one process for all,
    at the steps where `scores_at` says so.
    """

    def __init__(
        self,
        model: CausalLM,
        objective: SftObjective,
        settings: StepSettings,
        micro_batch_tokens: int,
        scores: Callable[[int], Mapping[str, float]] = lambda _: {},
        scores_at: Callable[[int], bool] = lambda _: False,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.strict_loading = False  # checkpoints hold trained parameters only; on_load_checkpoint checks the keys
        self.model = model
        self.micro_batch_tokens = micro_batch_tokens
        self.validation_metrics: dict[str, float] = {}
        self._objective = objective
        self._settings = settings
        self._scores, self._scores_at = scores, scores_at
        self._grad_norm = torch.zeros(())
        self._validation_sums = TokenSums.zero()
        self._averaged: list[Averaged] = []  # while averages stand in for the weights that are trained

    # --- one step -----------------------------------------------------------------------------------------------

    def training_step(self, batch: StepBatch) -> dict[str, Any]:
        """Do the optimizer step `batch.step`; return its figures for the callbacks."""
        settings, optimizer = self._settings, cast(Any, self.optimizers())
        lr = learning_rate(settings.optim, settings.peak_lr, batch.step, settings.total_steps)
        set_learning_rate(optimizer, lr)
        statistics = self._forward_all(batch.examples, batch.step, divisor=batch.token_count)
        nll_sum = self._synchronise(statistics.sums.nll_sum)
        loss = float(nll_sum) / batch.token_count
        if not math.isfinite(loss):
            raise TunelabError(
                f"step {batch.step + 1}: expected a finite loss, found {loss} (examples "
                f"{', '.join(e.origin for e in batch.examples[:4])}, …); the last checkpoint is sound: "
                "lower optim.lr, lengthen optim.warmup_fraction, or set trainer.precision=fp32."
            )
        optimizer.step()  # calls on_before_optimizer_step first
        if math.isfinite(self._grad_norm):  # else float16 skipped the step, and importance would be no number for good
            prune_ranks(self.model, batch.step + 1)
        optimizer.zero_grad(set_to_none=True)
        return {
            "train/loss": loss,
            "train/lr": lr,
            "train/grad_norm": self._grad_norm,
            # float16 only: the optimizer skips a step whose scaled gradients overflow, and lowers the scale
            **({"train/skipped_step": float(not math.isfinite(self._grad_norm))} if settings.scaled_gradients else {}),
            "num_supervised_tokens": batch.token_count,
            "num_tokens": statistics.num_tokens,
            "num_real_tokens": statistics.num_real_tokens,
        }

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Measure the norm of the whole step's gradient, and clip by it."""
        add_regularizer_gradients(self.model)
        trained = [p for group in optimizer.param_groups for p in group["params"]]
        limit = self._settings.optim.max_grad_norm
        self._grad_norm = torch.nn.utils.clip_grad_norm_(trained, math.inf if limit is None else limit)
        if not self._settings.scaled_gradients and not math.isfinite(self._grad_norm):
            raise TunelabError(
                f"step {self.trainer.global_step + 1}: expected finite gradients, found a norm of {self._grad_norm}; "
                "the last checkpoint is sound: lower optim.lr or set trainer.precision=fp32."
            )

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """One optimizer over everything that is trained; its rate is set at each step."""
        settings = self._settings
        return build_optimizer(settings.optim, self.model, settings.peak_lr, settings.scaled_gradients)

    # --- averaged weights ---------------------------------------------------------------------------------------

    def on_validation_start(self) -> None:
        """Put the averages in place, of an optimizer that keeps some; checkpoints still hold what is trained."""
        self._averaged = averaged_weights(cast(Any, self.optimizers(use_pl_optimizer=False)))
        for each in self._averaged:
            each.parameter.data.copy_(each.average)

    def on_validation_end(self) -> None:
        """After the callbacks (samples, checkpoints): go on from the weights that are trained, bit for bit."""
        for each in self._averaged:
            each.parameter.data.copy_(each.trained_at)
        self._averaged = []

    def end_at_averages(self) -> None:
        """After `fit`, once: the result of training is the average, of an optimizer that keeps some.

        Lightning calls no hook for it where a run is resumed after its last step. By now it has moved the optimizer's
        state to the CPU, whence schedule-free optimizers fetch what they need.
        """
        for each in averaged_weights(cast(Any, self.optimizers(use_pl_optimizer=False))):
            each.parameter.data.copy_(each.average)

    # --- validation ---------------------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        """Start the sums."""
        self._validation_sums = TokenSums.zero(self.device)

    def validation_step(self, batch: list[TokenizedExample]) -> None:
        """Add the sums of some validation examples."""
        statistics = self._forward_all(batch, step=None, divisor=None)
        self._validation_sums = self._validation_sums + statistics.sums

    def on_validation_epoch_end(self) -> None:
        """Divide once, over all devices and batches, and publish the metrics."""
        sums = self._validation_sums
        if dist.is_initialized():
            for tensor in (sums.nll_sum, sums.token_count, sums.num_correct):
                dist.all_reduce(tensor)
        figures = {name: getattr(sums, name) for name in TOKEN_METRICS}
        if self._scores_at(self.trainer.global_step):
            figures |= self._scores_of_the_first()
        self.validation_metrics = {f"val/{name}": value for name, value in figures.items()}
        self.log_dict(self.validation_metrics, logger=False)  # for Lightning's EarlyStopping

    def _scores_of_the_first(self) -> Mapping[str, float]:
        """Measure in the first process, and hand the figures to the others: all decide by the same numbers."""
        found = [self._scores(self.trainer.global_step) if self.global_rank == 0 else {}]
        if dist.is_initialized():
            dist.broadcast_object_list(found, src=0, device=self.device)
        return found[0]

    # --- micro-batches ------------------------------------------------------------------------------------------

    def _forward_all(
        self, examples: Sequence[TokenizedExample], step: int | None, divisor: int | None
    ) -> StepStatistics:
        """Run `examples` in micro-batches that fit; on out-of-memory halve the budget and begin again.

        With a `divisor` gradients of `nll_sum / divisor` are accumulated. A repetition starts from no gradients and
        from the same random state, so the result is that of a run which had the smaller budget from the start.
        """
        while True:
            try:
                if step is not None:
                    seed_step(self._settings.seed, step, self.global_rank)
                return self._forward_once(examples, divisor)
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                self._halve_budget(examples, error)
            # Outside the handler: the traceback kept the failed pass's activations alive.
            self.zero_grad(set_to_none=True)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _forward_once(self, examples: Sequence[TokenizedExample], divisor: int | None) -> StepStatistics:
        statistics = StepStatistics(TokenSums.zero(self.device))
        front = num_virtual_tokens(self.model)
        lengths = [front + example.num_tokens for example in examples]
        for indices in cut(lengths, self.micro_batch_tokens, self._settings.padded):
            chosen = [examples[i] for i in indices]
            micro_batch = collate(chosen, self._settings.padded, self._settings.pad_token_id)
            statistics.num_tokens += micro_batch.num_tokens
            statistics.num_real_tokens += micro_batch.num_real_tokens
            sums = self._objective(self.model, micro_batch.to(self.device))
            if divisor is not None:
                self.manual_backward(sums.nll_sum / divisor)
            statistics.sums = statistics.sums + detached(sums)
        return statistics

    def _halve_budget(self, examples: Sequence[TokenizedExample], error: BaseException) -> None:
        longest = num_virtual_tokens(self.model) + max(example.num_tokens for example in examples)
        if self.micro_batch_tokens <= longest:
            raise ModelError(
                f"out of memory with a single example of {longest} tokens in the micro-batch; set "
                "trainer.gradient_checkpointing=true, lower data.max_length, or use peft=qlora."
            ) from error
        self.micro_batch_tokens = max(longest, self.micro_batch_tokens // 2)
        self.print(f"out of memory: trainer.micro_batch_tokens is now {self.micro_batch_tokens}; repeating the step")

    def _synchronise(self, nll_sum: torch.Tensor) -> torch.Tensor:
        """Sum gradients and loss over the devices, in one message for each dtype; alone there is nothing to do.

        Every gradient is already divided by the token count of the whole step, so the sum is the gradient of the
        step, however many micro-batches each device had.
        """
        if not dist.is_initialized():
            return nll_sum
        dist.all_reduce(nll_sum)
        trained = [p for p in self.parameters() if p.requires_grad]
        for parameter in trained:
            if parameter.grad is None:  # a device without examples in this step
                parameter.grad = torch.zeros_like(parameter)
        for dtype in sorted({p.dtype for p in trained}, key=str):
            gradients = [p.grad for p in trained if p.dtype == dtype and p.grad is not None]
            flat = torch.cat([g.flatten() for g in gradients])
            dist.all_reduce(flat)
            for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
                gradient.copy_(part.view_as(gradient))
        return nll_sum

    # --- checkpoints --------------------------------------------------------------------------------------------

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The trained parameters only: the frozen base is identified by its path and never copied."""
        trained = {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}
        trained_at = {id(each.parameter): each.trained_at for each in self._averaged}
        state = super().state_dict(*args, **kwargs)
        return {name: trained_at.get(id(trained[name]), t) for name, t in state.items() if name in trained}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the weights that were measured, where they are others, and what pruning remembers of earlier steps."""
        if self._averaged:
            averages = {id(each.parameter): each.average for each in self._averaged}
            named = self.named_parameters()
            checkpoint[MEASURED_WEIGHTS] = {name: averages.get(id(p), p) for name, p in named if p.requires_grad}
        if (state := budget_state(self.model)) is not None:
            checkpoint["rank_budget"] = state

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint whose parameters are not exactly those this run trains."""
        own, found = self.state_dict(), checkpoint["state_dict"]
        odd = sorted(own.keys() ^ found.keys()) or sorted(k for k in own if own[k].shape != found[k].shape)
        if odd:
            raise CheckpointError(
                f"the checkpoint does not belong to this model and adapter: {len(odd)} parameters differ, first "
                f"{odd[0]!r}; resume with the configuration the run was started with."
            )
        restore_budget(self.model, checkpoint.get("rank_budget"))


def detached(sums: TokenSums) -> TokenSums:
    """The same sums without their graph."""
    return TokenSums(sums.nll_sum.detach(), sums.token_count, sums.num_correct)


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed torch's generators (CPU and CUDA) by (seed, step, rank): a step needs no random state from before it."""
    torch.manual_seed((seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + rank * 0x94D049BB133111EB) % 2**63)


def is_out_of_memory(error: BaseException) -> bool:
    """True for what CUDA and the CPU allocator raise when memory is short."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)
